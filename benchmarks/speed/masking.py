"""What a mask costs, and what 8x8 patches cost, on whatever device is there.

python benchmarks/speed/masking.py --out benchmarks/results/speed_masking.json

Compares, in alternation in one process: masks of 256 images with the two sorts by which MAE draws
its masks; a training step of ViT-B/8 on 196 of 784 patches with one of ViT-B/16 on all 196 (the
same cost, Sec. 4.2). On a CPU, part-guided masks are measured with torch's AVX2 kernels too, in a
process of their own. Prints a Markdown table, also written beside OUT; about four minutes on two
CPU cores.
"""
import multiprocessing
import os
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from unittest import mock

import torch
from mmengine.config import Config

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.speed.record import flops_of, milliseconds, parser, where, write
from semmae.functional.masking import split_ids
from semmae.models.masking import Candidates
from semmae.parts.learner import own_device
from semmae.registry import MODELS

REPO = Path(__file__).resolve().parents[2]
TWO_SORTS, PART_GUIDED = "MAE's two sorts", 'part-guided, α = 0.5'
STRATEGIES = {
    'random': dict(type='RandomMasking'), 'block-wise': dict(type='BlockwiseMasking'),
    'attention, hint': dict(type='AttentionMasking', mode='hint'),
    PART_GUIDED: dict(type='PartGuidedMasking', num_parts=6, alpha_start=.5,
                                 alpha_end=.5)}
STEPS = {'ViT-B/16, all 196': 'mm_configs/ablations/semmae_vit-base-p16.py',
         'ViT-B/8, 196 of 784': 'mm_configs/semmae_pretrain.py'}


def two_sorts(seen):
    """How MAE draws a mask: the order of the noise, and its inverse."""
    order = seen.noise[:, :seen.ids.shape[1]].argsort(dim=1)
    return order.argsort(dim=1)


def alternate(actions, repeats, warm_up=3):
    """{name: seconds of each of ``repeats`` calls}, one call of each action after the other."""
    found = {name: [] for name in actions}
    for i in range(repeats + warm_up):
        for name, action in actions.items():
            started = time.perf_counter()
            action()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if i >= warm_up:
                found[name].append(time.perf_counter() - started)
    return found


def rows_of(what, size, seconds, baseline, **more):
    middle = {name: statistics.median(s) for name, s in seconds.items()}
    return [dict(what=what, name=name, size=size, **milliseconds(s), repeats=len(s),
                 times_baseline=middle[name] / middle[baseline], **more.get(name, {}))
            for name, s in seconds.items()]


def candidates(grid, batch, num_parts):
    """What a masking strategy sees of ``batch`` images: random parts, scores and noise."""
    device, length = own_device(), grid ** 2
    return Candidates(
        images=torch.zeros(batch, 3, 1, 1, device=device), grid=(grid, grid),
        ids=torch.arange(length, device=device).expand(batch, -1),
        noise=torch.rand(batch, length + num_parts, device=device),
        part_ids=torch.randint(num_parts, (batch, length), device=device),
        scores=torch.randint(256, (batch, length), device=device))


def masks(grid, repeats):
    """Milliseconds of 256 masks for each strategy, without `split_ids`."""
    seen, length = candidates(grid, 256, 6), grid ** 2
    actions = actions_of(seen, STRATEGIES)
    mask = actions['random']()
    actions['visible and masked positions'] = lambda: split_ids(mask, length // 4)
    return rows_of('masks of 256 images', f'{grid}x{grid}', alternate(actions, repeats), TWO_SORTS)


def actions_of(seen, names):
    """{name: a call that draws masks}: MAE's two sorts and these strategies."""
    built = {name: MODELS.build(dict(STRATEGIES[name], type=f'semmae.{STRATEGIES[name]["type"]}'))
             for name in names}
    return {TWO_SORTS: lambda: two_sorts(seen)} | {
        name: lambda strategy=strategy: strategy(seen) for name, strategy in built.items()}


def part_guided(grid, repeats, threads):
    """The rows of MAE's two sorts and part-guided masks, named by the CPU kernels of torch."""
    torch.set_num_threads(threads)
    kernels = torch.backends.cpu.get_cpu_capability()
    found = alternate(actions_of(candidates(grid, 256, 6), [PART_GUIDED]), repeats)
    named = {f'{name}, {kernels} kernels': seconds for name, seconds in found.items()}
    return rows_of('masks of 256 images', f'{grid}x{grid}', named, next(iter(named)))


def with_kernels(capability, call, *arguments):
    """``call(*arguments)`` in a new process, with the CPU kernels of ``capability``.

    capability: 'default', 'avx2' or 'avx512'. torch reads it once, when it starts.
    """
    with (mock.patch.dict(os.environ, ATEN_CPU_CAPABILITY=capability),
          ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as pool):
        return pool.submit(call, *arguments).result()


def training_step(config, batch):
    """(a forward and backward pass, FLOPs of one image) of a pre-training config."""
    cfg = Config.fromfile(REPO / config)
    model = MODELS.build(cfg.model).to(own_device())
    length = model.decoder.grid[0] ** 2
    data = dict(
        inputs=torch.randint(256, (batch, 3, cfg.img_size, cfg.img_size), dtype=torch.uint8),
        part_ids=torch.randint(6, (batch, length)), foreground=torch.randint(256, (batch, length)),
        noise=torch.rand(batch, length + 6))

    def step():
        model.zero_grad()
        with torch.autocast('cuda', torch.bfloat16, torch.cuda.is_available()):
            loss = model(**model.data_preprocessor(data), mode='loss')['loss']
        loss.backward()
    return step, flops_of(step) / batch


def steps(batch, repeats):
    built = {name: training_step(config, batch) for name, config in STEPS.items()}
    seconds = alternate({name: step for name, (step, _) in built.items()}, repeats, warm_up=1)
    first = next(iter(built))
    more = {name: dict(images_per_s=batch / statistics.median(seconds[name]),
                       gflops_per_image=flops / 1e9) for name, (_, flops) in built.items()}
    return rows_of('training step', f'batch {batch}', seconds, first, **more)


def table(record):
    """The record as Markdown."""
    lines = ['| | | size | ms, median | lowest to highest | relative | GFLOP an image |',
             '|---|---|---|---|---|---|---|']
    for row in record['rows']:
        flops = f'{row["gflops_per_image"]:.1f}' if 'gflops_per_image' in row else ''
        lines.append(f'| {row["what"]} | {row["name"]} | {row["size"]} | {row["ms"]:,.2f} | '
                     f'{row["lowest"]:,.2f} to {row["highest"]:,.2f} | '
                     f'{row["times_baseline"]:.2f} | {flops} |')
    return '\n'.join([*lines, '', where(record)])


def main(arguments=None):
    options = parser(__doc__)
    options.add_argument('--batch-size', type=int, help='of a training step; default 4, GPU 256')
    options.add_argument('--repeats', type=int, default=40, help='of each mask')
    options.add_argument('--step-repeats', type=int, default=5)
    args = options.parse_args(arguments)
    batch = args.batch_size or (256 if torch.cuda.is_available() else 4)
    rows = [row for grid in (14, 28) for row in masks(grid, args.repeats)]
    if not torch.cuda.is_available():
        rows += [row for grid in (14, 28) for row in with_kernels(
            'avx2', part_guided, grid, args.repeats, torch.get_num_threads())]
    rows += steps(batch, args.step_repeats)
    write(args.out, __file__, arguments, table, rows=rows)


if __name__ == '__main__':
    main()
