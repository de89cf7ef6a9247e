"""Speed of part learning, part extraction and part store, on whatever device is there.

python benchmarks/speed/parts.py --out benchmarks/results/speed_parts.json

Prints a Markdown table, also written beside OUT; about three minutes on two CPU cores. Weights are
random and images generated: neither changes the speed. The floor is computing and moving what a
step has to at what this device sustains (benchmarks/speed/floor.py); decoding is not in it.
"""
import itertools
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.optim import build_optim_wrapper
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.speed.floor import IMAGENET, counted, here
from benchmarks.speed.record import parser, where, write
from semmae.datasets.part_store import PartStoreWriter
from semmae.datasets.photos import Photos
from semmae.parts.extract import segment
from semmae.parts.learner import own_device, precision_of
from semmae.parts.photos import without_random_steps
from semmae.registry import MODELS
from semmae.training.allocator import keep_freed_memory
from semmae.training.precision import mixed_precision

REPO = Path(__file__).resolve().parents[2]
# name: config, (width, height) of the images, batch on a CPU (on a GPU the config's)
SIZES = dict(mini=('mm_configs/mini/semmae_parts_mini.py', (64, 64), 32),
             paper=('mm_configs/semmae_parts.py', (500, 375), 4))
PAPER = '2 hours on one A100'  # part learning, Sec. 4.1


def rates(step, repeats, seconds):
    """Things a second in ``repeats`` measurements of at least ``seconds``; ``step()`` does some.

    One measurement before them warms up and is thrown away.
    """
    found = []
    for _ in range(repeats + 1):
        done, started = 0, time.perf_counter()
        while done == 0 or time.perf_counter() - started < seconds:
            done += step()
        found.append(done / (time.perf_counter() - started))
    return found[1:]


def learning_step(model, cfg, batch_size):
    """A training step as the runner does it (loss, backward, optimiser), images in memory."""
    side = cfg.train_dataloader.dataset.dataset.pipeline[0].size
    images = torch.randint(256, (batch_size, 3, side, side), dtype=torch.uint8)
    optim = build_optim_wrapper(model, mixed_precision(cfg.optim_wrapper, asked=False))
    optim.message_hub = MessageHub('speed')  # not that of the last run of this process
    model.train()

    def step():
        model.train_step(dict(inputs=images), optim)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return batch_size
    return step


def extraction_step(model, cfg, folder, batch_size, num_workers):
    """A batch from image files to part ids, as tools/extract_parts.py does it."""
    keys = enumerate(itertools.cycle(sorted(path.name for path in folder.iterdir())))
    batches = iter(lambda: list(itertools.islice(keys, batch_size)), [])  # without end
    loader = Photos(folder, without_random_steps(cfg)).loader(batches, num_workers)
    results = segment(model.eval(), loader, precision_of(cfg))
    return lambda: len(next(results)[0])


def write_photos(folder, size, count=64):
    """JPEG files about as large as photographs of this size: smooth colours with some grain."""
    rng = np.random.default_rng(0)
    for i in range(count):
        colours = Image.fromarray(rng.integers(256, size=(9, 12, 3), dtype=np.uint8))
        image = np.asarray(colours.resize(size, Image.BICUBIC))
        image = (image + rng.normal(0, 20, image.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(image).save(folder / f'{i:03}.jpg', quality=90)


def reading_step(folder, grid=28, count=20_000, num_parts=6):
    """Reads at random places of a store that the system holds in memory."""
    rng = np.random.default_rng(0)
    writer = PartStoreWriter(folder, [f'{i}.jpg' for i in range(count)],
                             dict(grid=grid, num_parts=num_parts))
    while shard := writer.claim():
        shape = shard[1] - shard[0], grid ** 2
        writer.write(shard[0], rng.integers(num_parts, size=shape), rng.integers(256, size=shape))
    store = writer.finish()
    order = itertools.cycle(random.Random(0).sample(range(count), count))

    def step(reads=1000):
        for i in itertools.islice(order, reads):
            store[i]
        return reads
    return step


def summary(what, size, values, **more):
    return dict(what=what, size=size, per_s=statistics.median(values), lowest=min(values),
                highest=max(values), repeats=len(values), **more)


def measure(sizes, repeats, seconds, num_workers=None):
    """A row for each measurement."""
    rows, where, device = [], own_device(), here(min(seconds, 1))
    for size in sizes:
        path, pixels, batch_size = SIZES[size]
        cfg = Config.fromfile(REPO / path)
        if where == 'cuda':
            batch_size = cfg.train_dataloader.batch_size
        torch.manual_seed(0)
        model = MODELS.build(cfg.model).to(where)
        about = dict(config=path, batch_size=batch_size, precision=precision_of(cfg),
                     grid=model.grid)
        with tempfile.TemporaryDirectory() as folder:
            write_photos(Path(folder), pixels)
            for what, step, epochs in (
                    ('learning, images in memory', learning_step(model, cfg, batch_size),
                     cfg.train_cfg.max_epochs),
                    ('extraction, from files', extraction_step(
                        model, cfg, Path(folder), batch_size, num_workers), 1)):
                row = summary(what, size, rates(step, repeats, seconds), epochs=epochs, **about)
                stage = 'part learning' if what.startswith('learning') else 'part extraction'
                work, moved = counted(cfg, stage, batch_size, about['precision'] != 'float32')
                floor = device.lower_bound(work.flops, moved) / batch_size
                row.update(floor_per_s=1 / floor, times_floor=1 / row['per_s'] / floor,
                           device=str(device))
                if size == 'paper':  # hours say nothing of smaller images
                    for name, rate in ('', row['per_s']), ('_floor', 1 / floor):
                        row[f'imagenet_hours{name}'] = IMAGENET * epochs / rate / 3600
                rows.append(row)
    with tempfile.TemporaryDirectory() as folder:
        rows.append(summary('random reads', '28x28',
                            rates(reading_step(Path(folder)), repeats, min(seconds, 1))))
    return rows


def table(record):
    """The record as Markdown."""
    lines = ['| | size | a second | lowest to highest | floor, a second | times the floor '
             '| ImageNet-1k, hours | at the floor | paper |',
             '|---|---|---|---|---|---|---|---|---|']
    for row in record['rows']:
        hours, least, paper, floor, times = row.get('imagenet_hours', ''), '', '', '', ''
        if hours:
            hours = f'{hours:,.1f} ({row["epochs"]} epoch{"s" * (row["epochs"] > 1)})'
            least = f'{row["imagenet_hours_floor"]:,.1f}'
            paper = record['paper'] if row['what'].startswith('learning') else ''
        if 'floor_per_s' in row:
            floor, times = said(row['floor_per_s']), f'{row["times_floor"]:.2f}'
        middle, low, high = (said(row[key]) for key in ('per_s', 'lowest', 'highest'))
        lines.append(f'| {row["what"]} | {row["size"]} | {middle} | {low} to {high} | {floor} '
                     f'| {times} | {hours} | {least} | {paper} |')
    device = next((f'The floor is at {row["device"]}. ' for row in record['rows']
                   if 'device' in row), '')
    return '\n'.join([*lines, '', device + where(record)])


def said(rate):
    return f'{rate:,.0f}' if rate > 100 else f'{rate:.3g}'


def main(arguments=None):
    options = parser(__doc__)
    options.add_argument('--sizes', nargs='+', choices=SIZES, default=list(SIZES))
    options.add_argument('--repeats', type=int, default=3)
    options.add_argument('--seconds', type=float, default=6, help='of each repeat, at least')
    options.add_argument('--num-workers', type=int, help='processes that decode, in extraction')
    args = options.parse_args(arguments)
    keep_freed_memory()  # as a training does
    rows = measure(args.sizes, args.repeats, args.seconds, args.num_workers)
    write(args.out, __file__, arguments, table, paper=PAPER, rows=rows)


if __name__ == '__main__':
    main()
