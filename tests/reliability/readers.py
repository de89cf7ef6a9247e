"""Everything of this project that reads a file, with a small sample of what it reads.

A kind writes its sample into a folder, and reads it there: (what came out, the problems that were
told). `plain` makes what comes out comparable bit for bit.
"""
import base64
import hashlib
import io
import json
import re
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

import semmae.registry  # noqa: F401  (registers what the pipelines name)
from semmae.checkpoints.read import read_checkpoint
from semmae.datasets.fast_loading import LoadCenterCrop, LoadRandomResizedCrop
from semmae.datasets.image_cache import ImageCache, pack_images
from semmae.datasets.part_store import PartStore, PartStoreWriter
from semmae.datasets.transforms import read_labels
from semmae.reporting.curves import read_scalars
from semmae.reporting.part_tables import health_of, part_tables, render_parts
from semmae.reporting.render import FORMATS, render, sections
from semmae.reporting.report import figure, write_report
from semmae.reporting.tables import build_tables
from semmae.results.mmengine_logs import read_everything
from semmae.results.predictions import read_predictions, recount
from semmae.results.results import DOCUMENTARY, REQUIRED, append_result

SIDE = 24
START = '20260101_000000'
JPEG = 'pixels of a JPEG: the format has no checksum'
NO_CRC = 'a line of other writers has no checksum; this one is another valid line'
LOG = "mmengine's logs and configs have no checksum; this is another valid text"
WEIGHTS = 'the format has no checksum, and the file none beside it'


class Kind(NamedTuple):
    """What is damaged and who reads it.

    damaged: names of the files that damage may meet. lines: they hold lines of JSON.
    unchecked: why a changed value cannot be told from a right one, '' where it has to be.
    """

    write: Callable  # (folder)
    read: Callable  # (folder) -> anything, or with ``tells`` (anything, problems)
    damaged: tuple
    unchecked: str = ''
    lines: bool = False
    tells: bool = False


def photo(side=SIDE, seed=0):
    """(side, side, 3) uint8, smooth enough for a JPEG."""
    small = np.random.default_rng(seed).integers(256, size=(4, 4, 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC))


def write_images(folder, name, count=1, mode='RGB'):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        image = Image.fromarray(photo(seed=i)).convert(mode)
        image.save(folder / name.format(i), **(dict(quality=90) if 'jpg' in name else {}))


def write_labels(folder):
    labels = np.random.default_rng(0).integers(5, size=(SIDE, SIDE), dtype=np.uint8)
    Image.fromarray(labels).save(folder / 'label.png')


def registered(*names):
    """The first of these transforms that there is."""
    from semmae.registry import TRANSFORMS
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return next(name for name in names if TRANSFORMS.get(name))


def load_image(folder, name):
    from mmengine.dataset import Compose
    step = registered('semmae.LoadImage', 'LoadImageFromFile')
    return Compose([dict(type=step)])(dict(img_path=str(folder / name)))['img']


def load_labels(folder):
    """Label maps as mmseg's data sets hand them to its loader."""
    from mmengine.dataset import Compose
    step = registered('semmae.LoadAnnotations', 'mmseg.LoadAnnotations')
    results = dict(img_path=str(folder / 'label.jpg'), seg_map_path=str(folder / 'label.png'),
                   seg_fields=[], label_map=None, reduce_zero_label=False, ori_shape=(SIDE, SIDE),
                   img_shape=(SIDE, SIDE), img=np.zeros((SIDE, SIDE, 3), np.uint8))
    return Compose([dict(type=step)])(results)['gt_seg_map']


def load_in_one_step(folder, name):
    np.random.seed(0)
    steps = LoadRandomResizedCrop((16, 16)), LoadCenterCrop(16)
    return [step.transform(dict(img_path=str(folder / name)))['img'] for step in steps]


def write_store(folder):
    names, rng = [f'{i}.jpg' for i in range(6)], np.random.default_rng(0)
    writer = PartStoreWriter(folder, names, dict(grid=4, num_parts=3, view=['all'],
                                                 parts=dict(foreground='attention')))
    writer.write(0, rng.integers(3, size=(6, 16)), rng.integers(256, size=(6, 16)))
    writer.finish()


def read_store(folder):
    store = PartStore(folder)
    store.require(grid=4)
    return [store.arrays(), store.images(), store.grid, store.num_parts, len(store),
            [store.manifest.get(name) for name in ('view', 'parts')]]


def write_cache(folder):
    write_images(folder / 'photos', '{}.png', 3)
    pack_images(folder / 'photos', folder / 'cache', size=16)


def read_cache(folder):
    cache = ImageCache(folder / 'cache')
    cache.verify()
    return [cache.pixels(), cache.images(), cache.size, len(cache), cache.manifest.get('view')]


def a_result(**changes):
    return {'row': 'linprobe/mae_p16', 'method': 'MAE', 'recipe': 'mae_p16', 'task': 'linprobe',
            'dataset': 'ImageNet-1k', 'split': 'val', 'metric': 'accuracy/top1', 'value': 65.0,
            'unit': '%', 'seed': 0, 'protocol': {'input_size': 224, 'epochs': 90},
            'config': 'mm_configs/semmae_linprobe.py', 'checkpoint': 'epoch_800.pth',
            'checkpoint_sha256': 'aa', 'reduced': False, 'tables': [1], 'versions': {'torch': '2'},
            **changes}


def write_results(folder, keep_crc=True):
    file = folder / 'results.jsonl'
    for changes in (dict(), dict(seed=1, checkpoint_sha256='bb', value=66.5),
                    dict(row='linprobe/semmae_p16', method='SemMAE', checkpoint_sha256='cc'),
                    dict(row='parts/x', task='parts', metric='ARI', checkpoint_sha256='dd',
                         unit='', value=.5)):
        append_result(file, a_result(time='2026-01-01T00:00:00', **changes))
    file.with_name('results.jsonl.lock').unlink(missing_ok=True)
    if not keep_crc:
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text(''.join(
            json.dumps({k: v for k, v in line.items() if k != 'crc'}) + '\n' for line in lines))


def read_tables(folder):
    """Records and every table in every format, as tools/make_tables.py and the report make them."""
    records, problems = read_everything([folder])
    frames = build_tables(records)
    for name in FORMATS:
        render(frames, name)
    render_parts(part_tables(records))
    write_report(folder / 'report.html', 'Report', records, sections(frames))
    used = [{name: record.get(name) for name in (*REQUIRED, *DOCUMENTARY, 'why')}
            for record in records]
    return used, problems


def write_predictions(folder):
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=20)
    np.savez_compressed(
        folder / 'predictions.npz', images=np.array([f'{i}.jpg' for i in range(20)]),
        labels=labels, predicted=rng.integers(3, size=20), score=rng.random(20))


def read_counts(folder):
    found = read_predictions(folder / 'predictions.npz')
    return [[found[name] for name in ('images', 'labels', 'predicted')], recount(found)]


CONFIG = """
model = dict(backbone=dict(img_size=224, patch_size=16, type='mmpretrain.VisionTransformer'),
             head=dict(num_classes=1000, type='mmpretrain.LinearClsHead'))
optim_wrapper = dict(optimizer=dict(lr=-1e-3, type='AdamW'), type='OptimWrapper')
randomness = dict(seed=3)
train_cfg = dict(by_epoch=True, max_epochs=2)
train_dataloader = dict(batch_size=8, dataset=dict(split='train', type='mmpretrain.ImageNet'))
val_dataloader = dict(batch_size=8, dataset=dict(split='val', type='mmpretrain.ImageNet'))
val_evaluator = dict(type='mmpretrain.Accuracy')
"""


def write_run(folder):
    start = folder / 'run' / START
    (start / 'vis_data').mkdir(parents=True)
    (start / 'vis_data' / 'config.py').write_text(CONFIG)
    lines = [line for epoch in (1, 2) for line in (
        dict(lr=.1, loss=2. / epoch, time=.1, epoch=epoch, iter=10 * epoch, step=10 * epoch),
        {'accuracy/top1': 40. * epoch, 'time': .1, 'step': epoch})]
    (start / 'vis_data' / 'scalars.json').write_text(''.join(json.dumps(x) + '\n' for x in lines))
    (start / f'{START}.json').write_text(json.dumps({'accuracy/top1': 81., 'time': .1}))
    (start / f'{START}.log').write_text(
        'missing keys in source state_dict: ln1.weight\n'
        'x - mmengine - INFO - Load checkpoint from a/epoch_2.pth\n'
        'x - mmengine - INFO - Epoch(train) [1][10/10]\n')


def read_run(folder):
    """The record of a run and its curves; times of files are left out."""
    records, problems = read_tables(folder)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        curves = read_scalars(folder / 'run')
    records = [{k: v for k, v in r.items() if k not in ('time', 'config')} for r in records]
    return [records, curves], problems + [str(warning.message) for warning in told]


def write_health(folder):
    health = dict(coverage=[.5, .5], largest_share=.6, num_empty=.1, entropy=.5, explained=.3,
                  off_diagonal_cosine=.1, logit_std=2., collapsed=[])
    (folder / 'part_health.jsonl').write_text(''.join(
        json.dumps(dict(health, epoch=epoch)) + '\n' for epoch in (1, 2)))


def read_picture(folder):
    """The pixels that a report embeds."""
    (markup,) = figure('heading', 'caption', folder / 'x.png')['plates']
    data = re.search('base64,([^"]*)', markup)[1]
    return np.array(Image.open(io.BytesIO(base64.b64decode(data))))


def weights():
    generator = torch.Generator().manual_seed(0)
    return {f'layer{i}.weight': torch.randn(6, 8, generator=generator) for i in range(3)}


def write_pth(folder, is_zip):
    torch.save(dict(state_dict=weights(), meta=dict(epoch=3, semmae=dict(method='MAE'))),
               folder / 'x.pth', _use_new_zipfile_serialization=is_zip)


def write_with_checksum(folder):
    """As `semmae.CheckpointHook` leaves a checkpoint: sha256sum's line beside it."""
    write_pth(folder, True)
    digest = hashlib.sha256((folder / 'x.pth').read_bytes()).hexdigest()
    (folder / 'x.pth.sha256').write_text(f'{digest}  x.pth\n')


KINDS = {
    'JPEG': Kind(partial(write_images, name='x.jpg'), partial(load_image, name='x.jpg'),
                 ('x.jpg',), JPEG),
    'JPEG, in one step': Kind(partial(write_images, name='x.jpg'),
                              partial(load_in_one_step, name='x.jpg'), ('x.jpg',), JPEG),
    'PNG': Kind(partial(write_images, name='x.png'), partial(load_image, name='x.png'),
                ('x.png',)),
    'PNG, in one step': Kind(partial(write_images, name='x.png'),
                             partial(load_in_one_step, name='x.png'), ('x.png',)),
    'label map': Kind(write_labels, load_labels, ('label.png',)),
    'label map of parts': Kind(write_labels, lambda folder: read_labels(folder / 'label.png'),
                               ('label.png',)),
    'part store': Kind(write_store, read_store, ('manifest.json', 'images.txt', 'part_ids.npy',
                                                 'foreground.npy')),
    'image cache': Kind(write_cache, read_cache, (
        'cache/manifest.json', 'cache/images.txt', 'cache/images.u8')),
    'results.jsonl': Kind(write_results, read_tables, ('results.jsonl',), '', True, True),
    'results.jsonl, other writers': Kind(partial(write_results, keep_crc=False), read_tables,
                                         ('results.jsonl',), NO_CRC, True, True),
    'predictions': Kind(write_predictions, read_counts, ('predictions.npz',)),
    'logs of a run': Kind(write_run, read_run, (
        f'run/{START}/vis_data/scalars.json', f'run/{START}/vis_data/config.py',
        f'run/{START}/{START}.json', f'run/{START}/{START}.log'), LOG, False, True),
    'scalars.json': Kind(write_run, read_run, (f'run/{START}/vis_data/scalars.json',), LOG, True,
                         True),
    'part_health.jsonl': Kind(write_health, lambda folder: repr(
        health_of(folder / 'part_health.jsonl')), ('part_health.jsonl',), LOG, True),
    'picture of a report': Kind(partial(write_images, name='x.png'), read_picture, ('x.png',)),
    'checkpoint, zip': Kind(partial(write_pth, is_zip=True),
                            lambda folder: read_checkpoint(folder / 'x.pth'), ('x.pth',)),
    'checkpoint, with checksum': Kind(write_with_checksum,
                                      lambda folder: read_checkpoint(folder / 'x.pth'),
                                      ('x.pth', 'x.pth.sha256')),
    'checkpoint, old format': Kind(partial(write_pth, is_zip=False), lambda folder: read_checkpoint(
        folder / 'x.pth'), ('x.pth',), WEIGHTS),
    'checkpoint, safetensors': Kind(
        lambda folder: save_file(weights(), folder / 'x.safetensors'),
        lambda folder: read_checkpoint(folder / 'x.safetensors'), ('x.safetensors',), WEIGHTS)}


def plain(value):
    """A value as text, equal exactly where two values are, to the bit."""
    if torch.is_tensor(value):
        value = value.detach().cpu().contiguous().view(torch.uint8).numpy() if value.ndim else (
            value.item())
    if isinstance(value, np.ndarray):
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return f'{value.dtype} {value.shape} {digest}'
    if isinstance(value, dict):
        return '{' + ', '.join(f'{k!r}: {plain(v)}' for k, v in value.items()) + '}'
    if isinstance(value, (list, tuple)):
        return '[' + ', '.join(map(plain, value)) + ']'
    return repr(value)


def sample_of(kind) -> dict:
    """{name: bytes} of a kind's sample."""
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        kind.write(Path(folder))
        return {path.relative_to(folder).as_posix(): path.read_bytes()
                for path in sorted(Path(folder).rglob('*')) if path.is_file()}
