"""Images a second that one core reads, with and without the fast transforms.

python benchmarks/speed/data.py --images data/imagenet/val --out benchmarks/results/speed_data.json

All variants run in alternation in one process and thread, over the same images, after one pass that
brings the files into memory. Seconds are processor time, which other processes on the machine do
not change. Prints a Markdown table, also written beside OUT.
"""
import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.dataset import Compose

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.speed.record import where, write
from semmae.datasets.image_cache import pack_images
from semmae.datasets.part_store import list_images, sample_images
from semmae.registry import TRANSFORMS

SIZE, AREA = 224, (0.2, 1.0)
LOAD = dict(type='mmpretrain.LoadImageFromFile')
CROP = [LOAD, dict(type='mmpretrain.RandomResizedCrop', scale=SIZE, crop_ratio_range=AREA,
                   backend='pillow', interpolation='bicubic'),
        dict(type='mmpretrain.RandomFlip', prob=.5, direction='horizontal')]
VIEW = [LOAD, dict(type='mmpretrain.ResizeEdge', scale=SIZE, edge='short', backend='pillow',
                   interpolation='bicubic'),
        dict(type='mmpretrain.CenterCrop', crop_size=SIZE),
        dict(type='semmae.FlipWithParts', prob=.5)]
PACK = [dict(type='semmae.PackImage')]
BASELINE = 'mmpretrain: load, crop, flip, pack'


def build(*steps):
    return Compose([TRANSFORMS.build(dict(step)) for step in steps])


def ways(cache, root):
    """{name: pipeline}; the ratios are relative to BASELINE."""
    crop = dict(type='semmae.LoadRandomResizedCrop', scale=SIZE, crop_ratio_range=AREA)
    view = dict(type='semmae.LoadCenterCrop', size=SIZE, flip_prob=.5)
    packed = dict(type='semmae.LoadPacked', cache=str(cache), root=str(root), size=SIZE,
                  flip_prob=.5)
    return {'decode alone (mmcv)': build(LOAD),
            BASELINE: build(*CROP, dict(type='mmpretrain.PackInputs')),
            'the same with semmae.PackImage': build(*CROP, *PACK),
            'LoadRandomResizedCrop, PackImage': build(crop, *PACK),
            'ResizeEdge, CenterCrop, FlipWithParts, PackImage': build(*VIEW, *PACK),
            'LoadCenterCrop, PackImage': build(view, *PACK),
            'LoadPacked, PackImage': build(packed, *PACK)}


def samples(root, names):
    return [dict(img_path=str(Path(root) / name), sample_idx=i) for i, name in enumerate(names)]


def alternate(actions, data, repeats, block=20):
    """{name: seconds for all images, of each repeat}; variants alternate after each block.

    Not after each image: a worker runs one variant, and has its code in the cache.
    """
    found = {name: [] for name in actions}
    for i in range(repeats + 1):
        spent = dict.fromkeys(actions, 0.)
        for first in range(0, len(data), block):
            for name, action in actions.items():
                started = time.thread_time()
                for sample in data[first:first + block]:
                    action(dict(sample))
                spent[name] += time.thread_time() - started
        for name in actions if i else ():  # the first pass warms up
            found[name].append(spent[name])
    return found


def difference(ours, theirs, data):
    """Absolute difference of pixel values for the same seeds: mean and 99th percentile."""
    counts = np.zeros(256, np.int64)
    for i, sample in enumerate(data):
        pair = []
        for action in (ours, theirs):
            np.random.seed(i)
            pair.append(action(dict(sample))['inputs'].numpy().astype(np.int16))
        counts += np.bincount(np.abs(pair[0] - pair[1]).ravel(), minlength=256)
    share = counts.cumsum() / counts.sum()
    return dict(mean_difference=float(counts @ np.arange(256) / counts.sum()),
                p99_difference=int(np.searchsorted(share, .99)))


def measure(images, repeats, limit):
    """Rows of the table."""
    with tempfile.TemporaryDirectory() as temporary:
        root = sample_images(images, Path(temporary) / 'images', limit)
        actions = ways(pack_images(root, Path(temporary) / 'cache', SIZE).root, root)
        data = samples(root, list_images(root))
        seconds = alternate(actions, data, repeats)
        _, _, cropped, ours, viewed, *fast_views = actions
        references = {ours: cropped, **dict.fromkeys(fast_views, viewed)}
        off = {name: difference(actions[name], actions[other], data)
               for name, other in references.items()}
    middle = {name: statistics.median(s) for name, s in seconds.items()}
    return [dict(name=name, images=len(data), images_per_s=len(data) / middle[name],
                 lowest=len(data) / max(s), highest=len(data) / min(s), repeats=repeats,
                 times_baseline=middle[BASELINE] / middle[name], **off.get(name, {}))
            for name, s in seconds.items()]


def table(record):
    """The record as Markdown."""
    lines = ['| | images/s, median | lowest to highest | relative | difference, mean | 99% |',
             '|---|---|---|---|---|---|']
    for row in record['rows']:
        off = (f'{row["mean_difference"]:.3f} | {row["p99_difference"]}'
               if 'mean_difference' in row else ' | ')
        lines.append(f'| {row["name"]} | {row["images_per_s"]:,.0f} | {row["lowest"]:,.0f} to '
                     f'{row["highest"]:,.0f} | {row["times_baseline"]:.2f} | {off} |')
    first = record['rows'][0]
    return '\n'.join([*lines, '', f'{first["images"]} images, {first["repeats"]} passes, one '
                      'thread, seconds of the processor; difference of pixel values (0 to 255) '
                      'from the steps replaced. ' + where(record)])


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('--images', required=True, help='folder of JPEGs, at any depth')
    parser.add_argument('--out', required=True, help='JSON file of the measurements')
    parser.add_argument('--limit', type=int, default=200, help='images, evenly spaced by name')
    parser.add_argument('--repeats', type=int, default=5)
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rows = measure(args.images, args.repeats, args.limit)
    write(args.out, __file__, arguments, table, rows=rows)


if __name__ == '__main__':
    main()
