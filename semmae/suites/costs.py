"""What the rows of a suite cost before they are run: compute, time, memory and disk.

Nothing is guessed. One training step on the config's batch is counted (`suites.roofline`). Time is
measured (logs of an earlier run of the same training), or the floor at rates that the user gives or
that are measured on this device, or not known.
"""
import argparse
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

from ..config.conditions import pipeline, plain
from ..config.options import Options, read_config, read_dumped
from ..datasets import toy
from ..datasets.part_store import list_images
from ..registry import DATASETS
from .roofline import encoding_of, once, step_of, structure
from .schedule import history

TOY = 'semmae.datasets.toy'  # the module that makes the toy sets, as commands name it


@dataclass
class Cost:
    """None where it is not known.

    images: training images of an epoch (extraction: images). is_counted: in the data set itself,
    not taken from the recipe. flops: of the whole run, on all processes. seconds: of it, with
    ``source`` saying whence. memory: bytes on the device of one process. disk: bytes that are left.
    """
    images: int = None
    is_counted: bool = False
    flops: float = None
    seconds: float = None
    source: str = ''
    memory: float = None
    disk: float = None


def costs(runs, device=None, measured=(), known=None):
    """The `Cost` of each of ``runs`` (`suites.schedule.Run`).

    device: what one device sustains (`suites.roofline.Device`); without it only measured times
    are given, with it also how many times the floor they are. measured: work directories whose
    logs say how long an iteration of the same model, batch and pipeline took. known: {folder:
    images} of folders yet to be made, beside those that rows of the plan make.
    """
    speeds = measured_speeds(measured)
    known = {**made_by(runs), **(known or {})}
    with quiet():
        return [cost_of(run, device, speeds, known) for run in runs]


def made_by(runs):
    """{folder: training images} of the toy sets that ``runs`` still have to make."""
    return {folder: images for run in runs if TOY in run.command and not run.is_done
            for folder, images in toy.training_images(
                run.command[run.command.index(TOY) + 1:]).items()}


@contextmanager
def quiet():
    """mmengine tells at each model what it makes of its config."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(before)


def cost_of(run, device, speeds, known):
    if any(part.endswith('extract_parts.py') for part in run.command):
        return extraction(run, device, known)
    if not run.config:
        return Cost()
    cfg = read_config(run.config, overrides(run.command))
    try:
        step = step_of(cfg)
    except FileNotFoundError as error:  # parts that are computed while it trains
        return Cost(source=f'not estimated: {error}')
    cost = Cost(disk=checkpoints(cfg, step), memory=memory(cfg, step, run.processes))
    cost.images, cost.is_counted = training_images(cfg, known, run.config)
    if 'KNN' in cfg.train_cfg.get('type', '') and cost.images:
        cost.memory += 4 * step.width * cost.images  # the features that it remembers
    count = iterations(cfg, cost.images, run.processes, run.steps)
    if count is None:
        return cost
    cost.flops = step.flops * count * run.processes
    seconds, peak, folder = speeds.get(kind(cfg), (None, None, ''))
    floor = device and device.floor(step.flops, step.moved(optimizer_states(cfg)))
    if seconds:
        cost.seconds, cost.memory = seconds * count, peak or cost.memory
        over = f', {seconds / floor:.3g} times the floor' if floor else ''
        cost.source = f'measured, {seconds:.3g} s an iteration in {folder}{over}'
    elif floor:
        cost.seconds, cost.source = floor * count, f'at {device}'
    return cost


def overrides(command):
    """The --cfg-options of a command, as tools/train.py reads them."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument('--cfg-options', nargs='+', action=Options, default={})
    return parser.parse_known_args(command)[0].cfg_options


# ------------------------------------------------------------------ how often
def training_images(cfg, known, config):
    """(images of an epoch or None, whether they were counted), repetitions included.

    Of ``known``, else counted if the data set can be read, else stated by the recipe of the file
    ``config``.
    """
    outer = cfg.train_dataloader.dataset
    inner = outer.get('dataset', outer)
    root, is_counted = images_of(cfg), True
    try:
        bare = plain(dict(inner, pipeline=[],
                          **(dict(part_store=None) if 'part_store' in inner else {})))
        images = known.get(root) or once(repr(bare), lambda: len(DATASETS.build(Config(bare))))
    except (FileNotFoundError, ValueError, RuntimeError):
        images, is_counted = stated_images(cfg, config), False
    return images and images * max(1, -(-outer.get('min_length', 0) // images)), is_counted


def stated_images(cfg, config):
    """The recipe's number of training images, or None where it says nothing about this training.

    It is that of the recipe's own data at the recipe's size: not of the other folder that an option
    names, nor of a config that is shorter or has smaller images than the recipe.
    """
    stated = cfg.get('recipe') or cfg.get('result') or {}
    full, train = stated.get('full', {}), cfg.train_cfg
    side = (cfg.model.get('backbone') or {}).get('img_size')
    size = dict(epochs=train.get('max_epochs'), iters=train.get('max_iters'),
                pixels=side[0] if isinstance(side, (list, tuple)) else side)
    is_whole = all(size[name] == full[name] for name in size if name in full)
    is_own = images_of(cfg) == images_of(read_config(config))
    return full.get('num_train') if is_whole and is_own else None


def images_of(cfg):
    """The folder that a config trains on."""
    outer = cfg.train_dataloader.dataset
    return str(outer.get('dataset', outer).get('data_root'))


def iterations(cfg, images, processes, steps):
    """Steps of each process, as mmengine counts them: accumulated ones one by one."""
    train = cfg.train_cfg
    if train.get('max_iters'):
        return train.max_iters * steps
    if not images:
        return None
    loader = cfg.train_dataloader
    rest = 0 if loader.get('drop_last') else loader.batch_size * processes - 1
    return (images + rest) // (loader.batch_size * processes) * train.get('max_epochs', 1)


# ------------------------------------------------------------------ memory and disk
def optimizer_states(cfg):
    """Tensors that the optimiser of a config keeps for each parameter, found by one step."""
    weight = nn.Parameter(torch.zeros(2, 2))
    weight.grad = torch.ones(2, 2)
    with OPTIMIZERS.switch_scope_and_registry(cfg.get('default_scope')) as optimizers:
        optimizer = optimizers.build(dict(plain(cfg.optim_wrapper.optimizer), params=[weight]))
    optimizer.step()
    return sum(torch.is_tensor(v) and v.shape == weight.shape
               for v in optimizer.state[weight].values())


def memory(cfg, step, processes):
    """Bytes: parameters, optimiser, with several processes DDP's buckets, and the step's peak."""
    buckets = processes > 1
    return step.parameters + step.trained * (buckets + optimizer_states(cfg)) + step.peak


def checkpoints(cfg, step):
    """Bytes of the checkpoints that a training leaves."""
    hook, train = cfg.default_hooks.checkpoint, cfg.train_cfg
    length = train.get('max_iters') or train.get('max_epochs') or 0
    saved = -(-length // hook.interval) if hook.interval > 0 else 1
    kept = min(saved, hook.max_keep_ckpts) if hook.get('max_keep_ckpts', -1) > 0 else saved
    return kept * (step.state + step.trained * optimizer_states(cfg))


EXTRACTED = 64  # images at a time, tools/extract_parts.py's default


def extraction(run, device, known):
    """The `Cost` of a part store: the encoder's forward pass, two bytes a patch."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument('config')
    for flag in ('--images', '--labels'):
        parser.add_argument(flag)
    parser.add_argument('--grid', type=int)
    at = next(i for i, part in enumerate(run.command) if part.endswith('extract_parts.py'))
    args = parser.parse_known_args(run.command[at + 1:])[0]
    cfg = read_config(args.config)
    cfg.model.encoder.grid = args.grid or cfg.model.encoder.grid
    cost = Cost()
    try:
        cost.images = known.get(args.images) or len(list_images(args.images))
        cost.is_counted = True
    except FileNotFoundError:
        if Path(args.images) == Path(images_of(cfg)):
            cost.images = stated_images(cfg, args.config)
    if not cost.images:
        return cost
    cost.disk = 2 * cfg.model.encoder.grid ** 2 * cost.images
    if not args.labels:
        step = encoding_of(cfg.model.encoder, EXTRACTED,
                           cfg.optim_wrapper.type == 'AmpOptimWrapper')
        cost.flops = cost.images / EXTRACTED * step.flops
        if device:
            cost.seconds = cost.images / EXTRACTED * device.floor(step.flops, step.moved(0))
            cost.source = f'at {device}'
    return cost


# ------------------------------------------------------------------ measured
def kind(cfg):
    """What two trainings have in common that are equally fast on equal devices."""
    return json.dumps([structure(cfg.model), cfg.train_dataloader.batch_size,
                       pipeline(cfg.train_dataloader)], sort_keys=True)


def measured_speeds(roots):
    """{kind: (seconds an iteration, peak bytes on a GPU or None, folder)} from logs below roots."""
    found = defaultdict(list)
    for log in sorted(log for root in roots for log in Path(root).rglob('vis_data/scalars.json')):
        if not log.with_name('config.py').is_file():
            continue
        lines = [json.loads(line) for line in log.read_text().splitlines()
                 if line.endswith('}')]
        lines = [line for line in lines if 'time' in line and 'loss' in line]
        if lines:
            found[kind(read_dumped(log.with_name('config.py')))].append((lines, log))
    speeds = {}
    for key, logs in found.items():
        lines = [line for some, _ in logs for line in some]
        peak = max(line.get('memory', 0) for line in lines) * 2 ** 20
        speeds[key] = (sum(line['time'] for line in lines) / len(lines), peak or None,
                       logs[-1][1].parents[2])
    return speeds


# ------------------------------------------------------------------ said
WIDE = 110  # columns; names of rows are not cut
NOTES = """\
compute  multiplications and additions of forward and backward passes; not validation, masks, data
time     {how}; not validation and what waits for data
memory   of one process: parameters, optimiser and the peak of gradients and features of its batch,
         in the config's precision; not CUDA's own, workspaces, fragments and masks
disk     checkpoints that are kept and part stores; not logs, pictures and predictions
images   of the data, or of those that a row makes; *: the data were not found, the number is the
         recipe's. Where a cell is empty nothing is known: commands are not estimated"""


def show(runs, found, console, device=None):
    """The plan: costs as a table, then the commands as they can be pasted. Nothing is started."""
    table = Table('row', 'state', 'images', 'compute', 'time', 'memory', 'disk', box=SIMPLE)
    for column in table.columns:
        column.no_wrap, column.justify = True, 'left' if column.header in 'row state' else 'right'
    for run, cost in zip(runs, found):
        images = f'{cost.images:,}' + ('' if cost.is_counted else ' *') if cost.images else ''
        table.add_row(run.id, state(run), images, *cells(cost))
    left = [(run, cost) for run, cost in zip(runs, found) if not run.is_done]
    table.add_section()
    table.add_row(f'{len(left)} of {len(runs)} to run', '', '', *cells(total(
        [cost for _, cost in left])))
    console = Console(file=console.file, width=max(console.width, WIDE))
    console.print(table)
    how = f'the floor, at {device} on each device' if device else (
        'unknown: give what one device sustains, --tflops N [--bandwidth N], or --probe')
    console.print(NOTES.format(how=f'measured in earlier runs where there are any, else {how}'),
                  style='dim', highlight=False, soft_wrap=True)
    unknown = sum(cost.seconds is None for _, cost in left)
    spent = sum((cost.seconds or 0) * run.processes for run, cost in left)
    if unknown < len(left):
        console.print(f'{duration(spent)} of one device for {len(left) - unknown} rows; of '
                      f'{unknown} no time is known', highlight=False)
    for run, cost in zip(runs, found):
        past = '' if run.is_done else history(run)
        about = ''.join(f'; {text}' for text in (run.batch, cost.source, past) if text)
        console.print(f'\n# {run.id}, {state(run)}{about}\n{shlex.join(run.command)}',
                      markup=False, highlight=False, soft_wrap=True)


def state(run):
    return 'done' if run.is_done else 'again' if history(run) else 'to run'


def total(some):
    """Sums of what is known; of memory the largest."""
    def known(name):
        return [value for value in (getattr(cost, name) for cost in some) if value is not None]
    return Cost(memory=max(known('memory'), default=None), **{
        name: sum(known(name)) if known(name) else None for name in ('flops', 'seconds', 'disk')})


def cells(cost):
    return [text(value) if value is not None else '' for text, value in (
        (in_flop, cost.flops), (duration, cost.seconds), (in_bytes, cost.memory),
        (in_bytes, cost.disk))]


def in_flop(value):
    return scaled(value, 'FLOP')


def in_bytes(value):
    return scaled(value, 'B')


def scaled(value, unit):
    """'1.23 GB': three digits and a decimal prefix."""
    power = min(6, max(0, int(math.log10(value)) // 3)) if value >= 1 else 0
    return f'{value / 1000 ** power:.3g} {["", "k", "M", "G", "T", "P", "E"][power]}{unit}'


def duration(seconds):
    """'3.4 h', in the largest unit of which there is at least one."""
    for size, unit in ((86400, 'd'), (3600, 'h'), (60, 'min')):
        if seconds >= size:
            return f'{seconds / size:.1f} {unit}'
    return f'{seconds:.0f} s'
