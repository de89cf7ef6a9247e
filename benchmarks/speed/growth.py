"""How run time grows with images, parts, patches and ranks, at three sizes each.

python benchmarks/speed/growth.py --out benchmarks/results/speed_growth.json

Each row has the expected growth: counted operations for training steps, 1 where the time should not
grow, else the size itself. Sizes of one quantity alternate in one process. Ranks are processes of
one thread with gloo; with more ranks than cores, the expected time is ranks / cores. Prints a
Markdown table, also written beside OUT; about three minutes on two CPU cores.
"""
import itertools
import json
import math
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from torch import distributed as dist
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.speed.floor import action
from benchmarks.speed.masking import alternate, candidates
from benchmarks.speed.record import exponent, milliseconds, parser, where, write
from semmae.datasets.part_dataset import PartDataset
from semmae.datasets.part_store import PartStore, PartStoreWriter, list_images
from semmae.datasets.seeded import Seeded, SeededSampler
from semmae.parts.learner import own_device
from semmae.registry import MODELS
from semmae.suites.step import loss_of, step_of, structure
from semmae.training.allocator import keep_freed_memory

REPO = Path(__file__).resolve().parents[2]
# size: configs; patch sizes; images of a step on a CPU of part learning, pre-training and a rank
SIZES = dict(
    paper=dict(parts='mm_configs/semmae_parts.py', patches=(32, 16, 8), batches=(2, 2, 4),
               pretraining='mm_configs/ablations/semmae_vit-base-p16.py',
               rank='mm_configs/ablations/semmae_vit-small-p16.py'),
    mini=dict(parts='mm_configs/mini/semmae_parts_mini.py', patches=(16, 8, 4),
              batches=(8, 8, 8), pretraining='mm_configs/mini/semmae_p16_mini.py',
              rank='mm_configs/mini/semmae_p16_mini.py'))


def rows_of(grows, what, seconds, expected):
    """Rows of one thing. seconds: {size: list}, smallest first. expected: {size: times first}."""
    sizes = list(seconds)
    middle = {size: statistics.median(found) for size, found in seconds.items()}
    first = middle[sizes[0]]
    return [dict(grows=grows, what=what, size=size, **milliseconds(found), repeats=len(found),
                 times_first=middle[size] / first, expected=expected[size],
                 exponent=exponent(middle[size] / first, size / sizes[0]))
            for size, found in seconds.items()]


def compare(grows, actions, expected, repeats):
    """Rows of several things. actions: {what: {size: action}}; expected: {what: {size: times}}."""
    every = {(what, size): act for what, sizes in actions.items() for size, act in sizes.items()}
    seconds = alternate(every, repeats, warm_up=1)
    return [row for what, sizes in actions.items() for row in rows_of(
        grows, what, {size: seconds[what, size] for size in sizes}, expected[what])]


# ------------------------------------------------------------------ images
def folder_of(root, count, grid=14):
    """(folder of ``count`` empty files, its part store, a write of that store)."""
    images, stores = root / f'images{count}', itertools.count()
    for i in range(count):
        if i % 1000 == 0:
            (images / f'{i // 1000:03}').mkdir(parents=True)
        (images / f'{i // 1000:03}' / f'{i:06}.jpg').touch()
    names = list_images(images)
    ids = np.random.default_rng(0).integers(6, size=(1024, grid ** 2))

    def write_store():
        store = root / f'store{count}_{next(stores)}'
        writer = PartStoreWriter(store, names, dict(grid=grid, num_parts=6))
        while shard := writer.claim():
            writer.write(shard[0], *[ids[:shard[1] - shard[0]]] * 2)
        writer.finish()
        return store
    return images, write_store(), write_store


def images(sizes, repeats):
    """Operations on a folder of images other than decoding them."""
    linear = {size: size / sizes[0] for size in sizes}
    actions = {what: {} for what in (
        'list a folder', 'write a part store', 'open images and store', 'order of an epoch',
        '1,000 reads of a store, at random')}
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            root, store, write_store = folder_of(Path(folder), size)
            data = Seeded(PartDataset(root, part_store=store, grid=14, num_parts=6))
            sampler = SeededSampler(data, seed=0)
            opened = PartStore(store)
            order = itertools.cycle(random.Random(0).sample(range(size), size))

            def read(opened=opened, order=order):
                for i in itertools.islice(order, 1000):
                    opened[i]
            for what, act in zip(actions, (
                    lambda root=root: list_images(root), write_store,
                    lambda root=root, store=store: PartDataset(root, part_store=store, grid=14,
                                                               num_parts=6),
                    lambda sampler=sampler: sum(1 for _ in sampler), read)):
                actions[what][size] = act
        expected = {what: linear for what in actions}
        expected['1,000 reads of a store, at random'] = dict.fromkeys(sizes, 1)
        return compare('images', actions, expected, repeats)


# ------------------------------------------------------------------ parts and patches
def masks(num_parts, grid, batch=256):
    """``draw()``: part-guided masks of a batch."""
    seen = candidates(grid, batch, num_parts)
    strategy = MODELS.build(dict(type='semmae.PartGuidedMasking', num_parts=num_parts,
                                 alpha_start=.5, alpha_end=.5))
    return lambda: strategy(seen)


def steps_of(cfgs, batch):
    """({size: action}, {size: operations, times the first}) of training steps."""
    flops = {size: step_of(cfg, batch, own_device() == 'cuda').flops for size, cfg in cfgs.items()}
    first = next(iter(flops.values()))
    return ({size: action(cfg, '', batch) for size, cfg in cfgs.items()},
            {size: count / first for size, count in flops.items()})


def parts(sizes, path, batch, repeats):
    cfgs = {}
    for count in sizes:
        cfgs[count] = Config.fromfile(REPO / path)
        cfgs[count].model.num_parts = count
    actions, counted = steps_of(cfgs, batch)
    rows = compare('parts', {'part learning, a step': actions},
                   {'part learning, a step': counted}, repeats)
    what = 'masks of 256 images, 28x28'
    return rows + compare('parts', {what: {count: masks(count, 28) for count in sizes}},
                          {what: dict.fromkeys(sizes, 1)}, 10 * repeats)


def patches(sizes, path, batch, repeats):
    """sizes: of patches, largest first; the rows have the number of patches."""
    cfgs = {}
    for size in sizes:
        cfg = Config.fromfile(REPO / path)
        grid = cfg.img_size // size
        cfg.model.backbone.patch_size = size
        cfg.model.decoder.update(grid=grid, patch_size=size)
        cfgs[grid ** 2] = cfg
    actions, counted = steps_of(cfgs, batch)
    rows = compare('patches', {'pre-training, a step': actions},
                   {'pre-training, a step': counted}, repeats)
    what, first = 'masks of 256 images', min(cfgs)
    return rows + compare('patches', {what: {count: masks(6, math.isqrt(count)) for count in cfgs}},
                          {what: {count: count / first for count in cfgs}}, 10 * repeats)


# ------------------------------------------------------------------ ranks
class Loss(nn.Module):
    """A model whose forward is its loss, as DistributedDataParallel needs it."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch):
        return loss_of(self.model, batch)


def rank_of(rank, folder, sizes, path, batch, repeats):
    """One process: in each turn the first 1, 2, ... ranks run a step together; the others wait."""
    torch.set_num_threads(1)
    keep_freed_memory()
    dist.init_process_group('gloo', init_method=f'file://{folder}/meeting', rank=rank,
                            world_size=max(sizes))
    cfg, steps = Config.fromfile(REPO / path), {}
    for size in sizes:
        group = dist.new_group(range(size))
        if rank < size:
            torch.manual_seed(0)
            model = nn.parallel.DistributedDataParallel(
                Loss(MODELS.build(Config(structure(cfg.model))).train()), process_group=group)
            optimizer = torch.optim.AdamW(
                [p for p in model.parameters() if p.requires_grad], lr=1e-6, fused=True)
            steps[size] = model, optimizer
    spent = {size: [] for size in sizes}
    for i in range(repeats + 1):
        for size in sizes:
            dist.barrier()
            started = time.perf_counter()
            if size in steps:
                model, optimizer = steps[size]
                optimizer.zero_grad()
                model(batch).backward()
                optimizer.step()
            if i:
                spent[size].append(time.perf_counter() - started)
    if rank == 0:
        (Path(folder) / 'seconds.json').write_text(json.dumps(list(spent.items())))
    dist.barrier()  # or a process ends while another still communicates
    dist.destroy_process_group()


def ranks(sizes, path, batch, repeats):
    """Steps of different numbers of processes, ``batch`` images each."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(rank_of, (folder, sizes, path, batch, repeats), max(sizes))
        seconds = dict(json.loads((Path(folder) / 'seconds.json').read_text()))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    rows = rows_of('ranks', f'DDP step of {batch} images a rank', seconds,
                   {size: max(1, size / cores) for size in sizes})
    sent = step_of(Config.fromfile(REPO / path), batch, False).trained
    for row in rows:  # of a ring, as in the fastest of all-reduces
        row.update(sent_mb=2 * (row['size'] - 1) / row['size'] * sent / 1e6,
                   is_oversubscribed=row['size'] > cores,
                   images_per_s=batch * row['size'] / row['ms'] * 1e3)
    return rows


# ------------------------------------------------------------------
def table(record):
    """The record as Markdown."""
    lines = ['| | | size | ms, median | lowest to highest | times the first | expected | exponent '
             '|', '|---|---|---|---|---|---|---|---|']
    for row in record['rows']:
        power = '' if row['exponent'] is None else f'{row["exponent"]:.2f}'
        more = ', more than cores' if row.get('is_oversubscribed') else ''
        lines.append(f'| {row["grows"]} | {row["what"]} | {row["size"]:,}{more} | {row["ms"]:,.3g} '
                     f'| {row["lowest"]:,.3g} to {row["highest"]:,.3g} | {row["times_first"]:.2f} '
                     f'| {row["expected"]:.2f} | {power} |')
    return '\n'.join([*lines, '', where(record)])


def main(arguments=None):
    options = parser(__doc__)
    options.add_argument('--size', choices=SIZES, default='paper')
    options.add_argument('--repeats', type=int, default=3)
    options.add_argument('--images', nargs='+', type=int, default=[2000, 8000, 32000])
    options.add_argument('--parts', nargs='+', type=int, default=[3, 6, 12])
    options.add_argument('--ranks', nargs='*', type=int, default=[1, 2, 4], help='none: no ranks')
    args = options.parse_args(arguments)
    keep_freed_memory()  # as a training does
    of = SIZES[args.size]
    rows = [*images(args.images, args.repeats),
            *parts(args.parts, of['parts'], of['batches'][0], args.repeats),
            *patches(of['patches'], of['pretraining'], of['batches'][1], args.repeats),
            *(ranks(args.ranks, of['rank'], of['batches'][2], args.repeats) if args.ranks else ())]
    write(args.out, __file__, arguments, table, rows=rows)


if __name__ == '__main__':
    main()
