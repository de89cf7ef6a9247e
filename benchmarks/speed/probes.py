"""One encoder pass and many linear probes, against the same probes through the network.

python benchmarks/speed/probes.py --out benchmarks/results/speed_probes.json

Ours: `ProbeLoop` decodes and encodes each image once into a feature store, then `LinearProbe`
trains its whole grid on the last layer from the store: 13 learning rates, 2 weight decays and 3
poolings. Plain: a probe decodes and encodes every image in every epoch, without gradients, and then
takes its steps (batch norm, linear layer, SGD); batches, workers and precision are equal. All
variants run in alternation in one process. Hours through the network are extrapolated from the
measured epochs, and the table says so. A smaller case is measured in full both ways. Weights are
random, labels arbitrary: they change no time. CPU seconds are those of all threads and workers.
Prints a Markdown table, also written beside OUT; about ten minutes on two CPU cores.
"""
import os
import statistics
import sys
import tempfile
import time
from itertools import count
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.runner import Runner

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.speed.plain_probes import encode, through_network
from benchmarks.speed.record import parser, where, write
from semmae.config.options import read_config
from semmae.datasets.part_store import list_images
from semmae.parts.learner import own_device
from semmae.probes.linear import LinearProbe
from semmae.training.allocator import keep_freed_memory

CONFIG = Path(__file__).resolve().parents[2] / 'mm_configs/dense/dense_imagenet.py'
DECAYS = (0., 1e-4)
FOLDERS = 10  # classes of the arbitrary labels
STORE, GRID, TOGETHER = 'encode once into the store', 'train the probes from the store', 'both'
ONE, ALL = 'one epoch of one probe through the network', 'one epoch of all probes at once'
READ, AGAIN = 'read all tokens from the store', 'decode and encode again'
FEW, FEW_PLAIN = 'small case: store and probes', 'small case: one probe after the other'


# ------------------------------------------------------------------ images and network
def generate(root, images):
    """Write random JPEG files of 500x375 pixels, the usual size in ImageNet."""
    numbers = np.random.default_rng(0)
    root.mkdir(parents=True)
    for i in range(images):
        coarse = numbers.integers(256, size=(24, 32, 3), dtype=np.uint8)
        fine = numbers.integers(32, size=(375, 500, 3), dtype=np.uint8)
        image = cv2.add(cv2.resize(coarse, (500, 375), interpolation=cv2.INTER_CUBIC), fine)
        cv2.imwrite(str(root / f'{i:06d}.jpg'), image, [cv2.IMWRITE_JPEG_QUALITY, 90])
    return root


def link(source, root, images):
    """A folder of links to at most ``images`` files of ``source``, in folders of arbitrary classes.
    """
    names = list_images(source)
    step = max(1, len(names) / images)
    for i in range(min(images, len(names))):
        name = names[int(i * step)]
        to = root / str(i % FOLDERS) / f'{i:06d}{Path(name).suffix}'
        to.parent.mkdir(parents=True, exist_ok=True)
        to.symlink_to((Path(source) / name).resolve())
    return root


def loop_of(many, few, args, work_dir):
    """The `ProbeLoop` of a frozen timm ViT; its training images are ``many``, the others ``few``.
    """
    cfg = read_config(CONFIG, {
        'model.backbone.model_name': args.model, 'model.backbone.out_indices': [-1],
        'model.layers': [-1], 'model.patch_layers': [-1], 'model.task.num_classes': args.classes,
        'train_dataloader.dataset.data_root': str(many),
        'val_dataloader.dataset.data_root': str(few),
        **{f'{name}_dataloader.num_workers': args.workers for name in ('train', 'val')}})
    cfg.model.backbone.init_cfg = None
    cfg.work_dir, cfg.log_level = str(work_dir), 'WARNING'
    return Runner.from_cfg(cfg).train_loop


# ------------------------------------------------------------------ measurement
def spent(action):
    """(wall seconds, CPU seconds of all threads and finished workers) of a call."""
    before, started = sum(os.times()[:4]), time.perf_counter()
    action()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started, sum(os.times()[:4]) - before


class Comparison:
    """The actions that are timed. Each `encode_once` makes a new store."""

    def __init__(self, loop, args, folder):
        self.loop, self.args, self.stores = loop, args, (folder / str(i) for i in count())
        self.loaders = dict(train_dataloader=loop.dataloader,
                            val_dataloader=loop.runner.val_dataloader)
        self.grid = LinearProbe(weight_decay=DECAYS, epochs=args.epochs)
        self.small = LinearProbe(lr=(.01, .1), weight_decay=DECAYS, tokens=('class', 'mean'),
                                 epochs=args.few_epochs)
        self.store = self.encode_once('val_dataloader')
        self.settings, self.few_settings = (probe.settings(self.store.layers)
                                            for probe in (self.grid, self.small))

    def encode_once(self, name):
        self.loop.store = next(self.stores)
        self.store = self.loop.features(name, self.loaders[name])
        return self.store

    def fit(self, probe, settings):
        task = self.loop.runner.model.task
        probe.fit(self.store, np.arange(len(self.store)), settings, task, 0, own_device())

    def plain(self, name, settings, epochs):
        through_network(self.loop, self.loaders[name], settings, epochs, self.grid.batch_size)

    def store_then_few(self):
        self.encode_once('val_dataloader')
        self.fit(self.small, self.few_settings)

    def few_one_by_one(self):
        for setting in self.few_settings:
            self.plain('val_dataloader', [setting], self.args.few_epochs)

    def read(self):
        for start in range(0, len(self.store), self.loop.dataloader.batch_size):
            part = slice(start, start + self.loop.dataloader.batch_size)
            self.store.tokens(self.store.layers[-1], 'patches', part).sum()

    def encode_again(self):
        for batch in self.loop.dataloader:
            encode(self.loop, batch)

    def actions(self):
        """{name: call}, in the order in which a repeat runs them."""
        return {STORE: lambda: self.encode_once('train_dataloader'),
                GRID: lambda: self.fit(self.grid, self.settings),
                READ: self.read, AGAIN: self.encode_again,
                ONE: lambda: self.plain('train_dataloader', self.settings[:1], 1),
                ALL: lambda: self.plain('train_dataloader', self.settings, 1),
                FEW: self.store_then_few, FEW_PLAIN: self.few_one_by_one}


def measure(args):
    """Rows of the table."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = args.images or generate(folder / 'generated', args.limit)
        many, few = (link(source, folder / name, images) for name, images in (
            ('many', args.limit), ('few', args.few)))
        run = Comparison(loop_of(many, few, args, folder / 'run'), args, folder / 'stores')
        found = {name: [] for name in run.actions()}
        for _ in range(args.repeats):
            for name, action in run.actions().items():
                found[name].append(spent(action))
        sizes = {name: len(loader.dataset) for name, loader in run.loaders.items()}
    return rows_of(found, args, sizes['train_dataloader'], sizes['val_dataloader'],
                   len(run.settings), len(run.few_settings))


def rows_of(found, args, images, few, probes, few_probes):
    """Rows from {action: [(wall, CPU) seconds of each repeat]}; ``times`` is against ours."""
    def times(factor, name):
        return [(factor * wall, factor * cpu) for wall, cpu in found[name]]

    both = [tuple(map(sum, zip(*pair))) for pair in zip(found[STORE], found[GRID])]
    epochs = args.epochs
    lines = [  # what, images, probes, epochs, seconds, seconds of ours, epochs extrapolated from
        (STORE, images, 0, 1, found[STORE], None, 0),
        (GRID, images, probes, epochs, found[GRID], None, 0),
        (TOGETHER, images, probes, epochs, both, both, 0),
        (ONE, images, 1, 1, found[ONE], None, 0), (ALL, images, probes, 1, found[ALL], None, 0),
        ('one probe after the other, through the network', images, probes, epochs,
         times(probes * epochs, ONE), both, args.repeats),
        ('all probes at once, through the network', images, probes, epochs, times(epochs, ALL),
         both, args.repeats),
        (FEW, few, few_probes, args.few_epochs, found[FEW], found[FEW], 0),
        (FEW_PLAIN, few, few_probes, args.few_epochs, found[FEW_PLAIN], found[FEW], 0),
        (READ, images, 0, 1, found[READ], found[READ], 0),
        (AGAIN, images, 0, 1, found[AGAIN], found[READ], 0)]
    rows = []
    for what, size, settings, length, seconds, ours, extrapolated in lines:
        walls, cpus = zip(*seconds)
        row = dict(what=what, images=size, probes=settings, epochs=length,
                   s=statistics.median(walls), lowest=min(walls), highest=max(walls),
                   cpu_s=statistics.median(cpus), repeats=args.repeats,
                   extrapolated_from_epochs=extrapolated)
        if what in (STORE, READ, AGAIN):
            row['images_per_s'] = size / row['s']
        if ours:
            ratios = [wall / base for (wall, _), (base, _) in zip(seconds, ours)]
            row.update(times_ours=statistics.median(ratios), times_ours_lowest=min(ratios),
                       times_ours_highest=max(ratios))
        rows.append(row)
    return rows


def table(record):
    """The record as Markdown."""
    lines = ['| | images | probes | epochs | wall s, median | lowest to highest | CPU s | images/s '
             '| times ours, of repeats | lowest to highest | |', '|---' * 11 + '|']
    for row in record['rows']:
        rate = f'{row["images_per_s"]:,.1f}' if 'images_per_s' in row else ''
        ratio = (f'{row["times_ours"]:,.3g} | {row["times_ours_lowest"]:,.3g} to '
                 f'{row["times_ours_highest"]:,.3g}' if 'times_ours' in row else ' | ')
        epochs = row['extrapolated_from_epochs']
        how = f'extrapolated from {epochs} measured epochs' if epochs else 'measured'
        lines.append(
            f'| {row["what"]} | {row["images"]} | {row["probes"] or ""} | {row["epochs"]} | '
            f'{row["s"]:,.3g} | {row["lowest"]:,.3g} to {row["highest"]:,.3g} | '
            f'{row["cpu_s"]:,.3g} | {rate} | {ratio} | {how} |')
    return '\n'.join([*lines, '', f'{record["model"]} at 224x224, random weights, {record["of"]}, '
                      f'{record["classes"]} classes; files in memory. {where(record)}'])


def main(arguments=None):
    options = parser(__doc__)
    options.add_argument('--model', default='vit_small_patch14_dinov2',
                         help="timm's name of a ViT with a class token")
    options.add_argument('--images', help='folder of images; default: generated JPEG files')
    options.add_argument('--limit', type=int, default=256, help='images')
    options.add_argument('--epochs', type=int, default=100, help='of the grid')
    options.add_argument('--few', type=int, default=64, help='images of the small case')
    options.add_argument('--few-epochs', type=int, default=2)
    options.add_argument('--classes', type=int, default=200)
    options.add_argument('--workers', type=int, default=0, help='that decode, in both ways')
    options.add_argument('--repeats', type=int, default=3, help='at least 2')
    args = options.parse_args(arguments)
    if args.repeats < 2 or args.classes < FOLDERS:
        options.error(f'expected at least 2 repeats and {FOLDERS} classes, got {args.repeats} and '
                      f'{args.classes}')
    keep_freed_memory()  # as a training does
    of = 'photographs' if args.images else 'generated JPEG files of 500x375 pixels'
    write(args.out, __file__, arguments, table, rows=measure(args), model=args.model,
          classes=args.classes, of=of)


if __name__ == '__main__':
    main()
