"""The costs of the rows of a suite before they run: compute, time, memory and disk.

Nothing is guessed. One training step on the config's batch is counted (`suites.step`). Time is
measured (logs of an earlier run of the same training), or the roofline lower bound at rates that
the user gives or that are measured on this device, or unknown.
"""
import functools
import json
import logging
import math
import shlex
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import OPTIMIZERS
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch import nn

from ..config.lookup import at, full_size, innermost, plain
from ..config.options import config_of, read_config, read_dumped
from ..config.protocol import pipeline
from ..datasets import toy
from ..datasets.part_store import list_images
from ..registry import DATASETS
from ..results.mmengine_logs import SCALARS, scalar_lines
from .rows import Extract, ToyData, Train
from .start import history
from .step import encoding_of, step_of, structure


@dataclass
class Cost:
    """The cost of a run; None where it is not known.

    images: training images of an epoch (extraction: images). is_counted: counted in the data set,
    not taken from the recipe. flops: of the whole run, on all processes. seconds: of the whole run,
    with its ``source``. memory: bytes on the device of one process. disk: bytes that it leaves.
    """
    images: int | None = None
    is_counted: bool = False
    flops: float | None = None
    seconds: float | None = None
    source: str = ''
    memory: float | None = None
    disk: float | None = None


def costs(runs, device=None, measured=(), known=None) -> list[Cost]:
    """The `Cost` of each of ``runs`` (`suites.schedule.Run`).

    device: rates of one device (`suites.roofline.Device`); without it only measured times are
    given; with it also their multiple of the roofline. measured: work directories whose logs
    have the seconds of an iteration of the same model, batch and pipeline. known: {folder: images}
    of folders yet to be made, besides those of `rows.ToyData`.
    """
    speeds = measured_speeds(measured)
    known = {**made_by(runs), **(known or {})}
    with quiet():
        return [cost_of(run, device, speeds, known) for run in runs]


def made_by(runs) -> dict:
    """{folder: training images} of the toy sets that ``runs`` still have to make."""
    return {folder: images for run in runs if isinstance(run.row, ToyData) and not run.is_done
            for folder, images in toy.training_images(run.row.out, **run.row.counts).items()}


@contextmanager
def quiet():
    """Inside, mmengine logs no information about the models that it builds."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(before)


def cost_of(run, device, speeds, known) -> Cost:
    """The `Cost` of a training or extraction; that of other commands is not known."""
    if isinstance(run.row, Extract):
        return extraction(run.row, device, known)
    return training(run, device, speeds, known) if isinstance(run.row, Train) else Cost()


def training(run, device, speeds, known) -> Cost:
    """The `Cost` of a training."""
    cfg = read_config(run.row.config, run.row.options)
    try:
        step = step_of(cfg)
    except FileNotFoundError as error:  # missing files of parts that are computed during training
        return Cost(source=f'not estimated: {error}')
    images, is_counted = training_images(cfg, known, run.row.config)
    features = 4 * step.width * (images or 0) if 'KNN' in cfg.train_cfg.get('type', '') else 0
    cost = Cost(images, is_counted, disk=checkpoints(cfg, step),
                memory=memory(cfg, step, run.processes) + features)
    count = iterations(cfg, cost.images, run.processes, run.steps)
    if count is None:
        return cost
    cost.flops = step.flops * count * run.processes
    seconds, peak, folder = speeds.get(speed_key(cfg), (None, None, ''))
    bound = device and device.lower_bound(step.flops, step.moved(optimizer_states(cfg)))
    if seconds:
        cost.seconds, cost.memory = seconds * count, peak or cost.memory
        over = f', {seconds / bound:.3g} times the roofline' if bound else ''
        cost.source = f'measured, {seconds:.3g} s an iteration in {folder}{over}'
    elif bound:
        cost.seconds, cost.source = bound * count, f'at {device}'
    return cost


# ------------------------------------------------------------------ how often
def training_images(cfg, known, config) -> tuple[int | None, bool]:
    """(images of an epoch or None, whether they were counted), repetitions included.

    They come from ``known``, else from the data set if it can be read, else from the recipe of the
    file ``config``.
    """
    outer = cfg.train_dataloader.dataset
    inner = plain(dict(outer.get('dataset', outer), pipeline=[]))
    if 'part_store' in inner:
        inner['part_store'] = None
    is_counted = True
    try:
        images = known.get(images_of(cfg)) or count_images(json.dumps(inner, sort_keys=True))
    except (FileNotFoundError, ValueError, RuntimeError, AssertionError):  # mmseg asserts
        images, is_counted = stated_images(cfg, config), False
    return images and images * max(1, -(-outer.get('min_length', 0) // images)), is_counted


@functools.cache
def count_images(dataset) -> int:
    """The length of a data set. dataset: its config as JSON."""
    return len(DATASETS.build(Config(json.loads(dataset))))


def stated_images(cfg, config) -> int | None:
    """The recipe's number of training images, or None where it does not hold for this training.

    It holds for the recipe's own data at the recipe's size: not for another folder that an option
    names, nor for a config that is shorter or has smaller images than the recipe.
    """
    full, side = full_size(cfg), at(cfg.model, 'backbone.img_size')
    size = dict(epochs=at(cfg, 'train_cfg.max_epochs'), iters=at(cfg, 'train_cfg.max_iters'),
                pixels=side[0] if isinstance(side, (list, tuple)) else side)
    is_whole = all(size[name] == full[name] for name in size if name in full)
    is_own = images_of(cfg) == images_of(config_of(config))
    return full.get('num_train') if is_whole and is_own else None


def images_of(cfg) -> str:
    """The folder that a config trains on."""
    return str(innermost(cfg.train_dataloader).get('data_root'))


def iterations(cfg, images, processes, steps) -> int | None:
    """Steps of each process as mmengine counts them: each accumulated step is one."""
    train = cfg.train_cfg
    if train.get('max_iters'):
        return train.max_iters * steps
    if not images:
        return None
    loader = cfg.train_dataloader
    rest = 0 if loader.get('drop_last') else loader.batch_size * processes - 1
    return (images + rest) // (loader.batch_size * processes) * train.get('max_epochs', 1)


# ------------------------------------------------------------------ memory and disk
def optimizer_states(cfg) -> int:
    """Tensors that the optimiser of a config keeps for each parameter, found by one step."""
    weight = nn.Parameter(torch.zeros(2, 2))
    weight.grad = torch.ones(2, 2)
    with OPTIMIZERS.switch_scope_and_registry(cfg.get('default_scope')) as optimizers:
        optimizer = optimizers.build(dict(plain(cfg.optim_wrapper.optimizer), params=[weight]))
    optimizer.step()
    return sum(torch.is_tensor(v) and v.shape == weight.shape
               for v in optimizer.state[weight].values())


def memory(cfg, step, processes) -> int:
    """Bytes of parameters, optimiser, the step's peak, and DDP's buckets for several processes."""
    buckets = processes > 1
    return step.parameters + step.trained * (buckets + optimizer_states(cfg)) + step.peak


def checkpoints(cfg, step) -> int:
    """Bytes of the checkpoints that a training leaves."""
    hook, train = cfg.default_hooks.checkpoint, cfg.train_cfg
    length = train.get('max_iters') or train.get('max_epochs') or 0
    saved = -(-length // hook.interval) if hook.interval > 0 else 1
    kept = min(saved, hook.max_keep_ckpts) if hook.get('max_keep_ckpts', -1) > 0 else saved
    return kept * (step.state + step.trained * optimizer_states(cfg))


EXTRACTED = 64  # images at a time, the default of tools/extract_parts.py


def extraction(row: Extract, device, known) -> Cost:
    """The `Cost` of a part store: the forward pass of the encoder, two bytes a patch."""
    cfg = read_config(row.config)
    cfg.model.encoder.grid = row.grid
    cost = Cost()
    try:
        cost.images = known.get(row.images) or len(list_images(row.images))
        cost.is_counted = True
    except FileNotFoundError:
        if Path(row.images) == Path(images_of(cfg)):
            cost.images = stated_images(cfg, row.config)
    if not cost.images:
        return cost
    cost.disk = 2 * row.grid ** 2 * cost.images
    if not row.labels:
        is_mixed = cfg.optim_wrapper.type == 'AmpOptimWrapper'
        step = encoding_of(cfg.model.encoder, EXTRACTED, is_mixed)
        batches = cost.images / EXTRACTED
        cost.flops = batches * step.flops
        if device:
            cost.seconds = batches * device.lower_bound(step.flops, step.moved(0))
            cost.source = f'at {device}'
    return cost


# ------------------------------------------------------------------ measured
def speed_key(cfg) -> str:
    """Equal for trainings that are equally fast on equal devices."""
    return json.dumps([structure(cfg.model), cfg.train_dataloader.batch_size,
                       pipeline(cfg.train_dataloader)], sort_keys=True)


def measured_speeds(roots) -> dict:
    """{speed key: (seconds an iteration, peak bytes on a GPU or None, folder)} of logs in roots."""
    found = defaultdict(list)
    for log in sorted(log for root in roots for log in Path(root).rglob(SCALARS)):
        if not log.with_name('config.py').is_file():
            continue
        lines = [line for line in scalar_lines(log, []) if 'time' in line and 'loss' in line]
        if lines:
            found[speed_key(read_dumped(log.with_name('config.py')))].append((lines, log))
    speeds = {}
    for key, logs in found.items():
        lines = [line for some, _ in logs for line in some]
        peak = max(line.get('memory', 0) for line in lines) * 2 ** 20
        speeds[key] = (sum(line['time'] for line in lines) / len(lines), peak or None,
                       logs[-1][1].parents[2])
    return speeds


# ------------------------------------------------------------------ shown
WIDE = 110  # columns; names of rows are not cut
NOTES = """\
compute  multiplications and additions of forward and backward passes; not validation, masks, data
time     {how}; not validation, nor waiting for data
memory   of one process: parameters, optimiser and the peak of gradients and features of its batch,
         in the config's precision; not CUDA's own, workspaces, fragments and masks
disk     checkpoints that are kept and part stores; not logs, pictures and predictions
images   of the data, or of those that a row makes; *: the data were not found, the number is the
         recipe's. Empty cells are unknown: other commands are not estimated"""


def show(runs, found, console, device=None):
    """Print the plan: costs as a table, then the commands, ready to paste. Nothing is started."""
    table = Table('row', 'state', 'images', 'compute', 'time', 'memory', 'disk', box=SIMPLE)
    for column in table.columns:
        is_text = column.header in ('row', 'state')
        column.no_wrap, column.justify = True, 'left' if is_text else 'right'
    for run, cost in zip(runs, found):
        images = f'{cost.images:,}' + ('' if cost.is_counted else ' *') if cost.images else ''
        table.add_row(run.id, state(run), images, *cells(cost))
    left = [(run, cost) for run, cost in zip(runs, found) if not run.is_done]
    table.add_section()
    table.add_row(f'{len(left)} of {len(runs)} to run', '', '', *cells(total(
        [cost for _, cost in left])))
    console = Console(file=console.file, width=max(console.width, WIDE))
    console.print(table)
    how = f'the roofline lower bound, at {device} on each device' if device else (
        'unknown: give the rates of one device, --tflops N [--bandwidth N], or --probe')
    console.print(NOTES.format(how=f'measured in earlier runs if there are any, else {how}'),
                  style='dim', highlight=False, soft_wrap=True)
    unknown = sum(cost.seconds is None for _, cost in left)
    spent = sum((cost.seconds or 0) * run.processes for run, cost in left)
    if unknown < len(left):
        console.print(f'{duration(spent)} of one device for {len(left) - unknown} rows; the '
                      f'time of {unknown} is unknown', highlight=False)
    for run, cost in zip(runs, found):
        past = '' if run.is_done else history(run.log, run.work_dir)
        about = ''.join(f'; {text}' for text in (run.batch, cost.source, past) if text)
        console.print(f'\n# {run.id}, {state(run)}{about}\n{shlex.join(run.command)}',
                      markup=False, highlight=False, soft_wrap=True)


def state(run) -> str:
    """Whether a run is done, was started before, or is new."""
    return 'done' if run.is_done else 'again' if history(run.log, run.work_dir) else 'to run'


def total(some) -> Cost:
    """Sums of the known values; of memory the largest."""
    def over(combine, name):
        values = [value for cost in some if (value := getattr(cost, name)) is not None]
        return combine(values) if values else None
    return Cost(flops=over(sum, 'flops'), seconds=over(sum, 'seconds'), disk=over(sum, 'disk'),
                memory=over(max, 'memory'))


def cells(cost) -> list[str]:
    """Compute, time, memory and disk as texts, '' where unknown."""
    return ['' if value is None else duration(value) if unit == 's' else scaled(value, unit)
            for value, unit in ((cost.flops, 'FLOP'), (cost.seconds, 's'), (cost.memory, 'B'),
                                (cost.disk, 'B'))]


def scaled(value, unit) -> str:
    """'1.23 GB': three digits and a decimal prefix."""
    power = min(6, max(0, int(math.log10(value)) // 3)) if value >= 1 else 0
    return f'{value / 1000 ** power:.3g} {["", "k", "M", "G", "T", "P", "E"][power]}{unit}'


def duration(seconds) -> str:
    """'3.4 h', in the largest unit with a value of at least one."""
    for size, unit in ((86400, 'd'), (3600, 'h'), (60, 'min')):
        if seconds >= size:
            return f'{seconds / size:.1f} {unit}'
    return f'{seconds:.0f} s'
