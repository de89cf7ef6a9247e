"""Images, label maps, part stores and masks as found in the wild: ours beside the stock steps.

    python -m tests.reliability.table --rows images parts ratio labels
"""
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from mmcv.transforms import LoadImageFromFile
from PIL import Image

from semmae.datasets.image_files import DamagedImage
from semmae.datasets.image_reading import LoadAnnotations, LoadImage
from semmae.datasets.part_dataset import PartDataset
from semmae.datasets.part_store import PartStoreWriter
from semmae.evaluation.segmentation import IoUMetric, MMSegIoUMetric, require_classes
from semmae.functional.masking import num_masked, part_guided_mask, patches_to_mask_per_part

from .case import Case

SIDE = 32


def photo(side=SIDE, seed=0):
    small = np.random.default_rng(seed).integers(256, size=(8, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)


def encoded(image, kind, **kwargs):
    file = io.BytesIO()
    image.save(file, kind, **kwargs)
    return file.getvalue()


def turned(orientation=6):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(photo(), 'JPEG', exif=exif)


def huge_png(side=40_000):
    def chunk(kind, data):
        return (struct.pack('>I', len(data)) + kind + data
                + struct.pack('>I', zlib.crc32(kind + data)))
    header = struct.pack('>IIBBBBB', side, side, 1, 0, 0, 0, 0)
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(b''))
            + chunk(b'IEND', b''))


def gray16():
    return Image.fromarray(np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE) * 60)


def good_images():
    """{file name: content} of what has to be read as three channels of 8 bits."""
    rgb = photo()
    return {
        'gray.png': encoded(rgb.convert('L'), 'PNG'),
        'cmyk.jpg': encoded(rgb.convert('CMYK'), 'JPEG'),
        'palette.png': encoded(rgb.convert('P'), 'PNG'),
        'rgba.png': encoded(rgb.convert('RGBA'), 'PNG'),
        'one_bit.png': encoded(rgb.convert('1'), 'PNG'), 'webp.webp': encoded(rgb, 'WEBP'),
        'tiff.tiff': encoded(rgb, 'TIFF'), 'is_png.jpg': encoded(rgb, 'PNG'),
        'animated.gif': encoded(rgb, 'GIF', save_all=True, append_images=[photo(seed=1)]),
        'turned.jpg': turned(), 'gray16.png': encoded(gray16(), 'PNG'),
        **{f'broken_exif_{i}.jpg': content for i, content in enumerate(broken_exif())}}


def broken_exif():
    """Good JPEGs with EXIF that Pillow gives up on: cut off, no TIFF, bytes at random.

    With a resolution beside, for which Pillow otherwise looks into EXIF and forgets that it failed.
    """
    for content in (b'II*\0', b'JUNKJUNKJUNK', np.random.default_rng(0).bytes(40)):
        yield encoded(photo(), 'JPEG', exif=b'Exif\0\0' + content, dpi=(72, 72))


def bad_images():
    """{file name: content or None (missing) or 'folder'} of what has to be refused by name."""
    jpeg, png = encoded(photo(256), 'JPEG', quality=90), encoded(photo(64), 'PNG')
    middle = len(png) // 2
    return {
        'half.jpg': jpeg[:len(jpeg) // 2], 'without_end.jpg': jpeg[:-2], 'half.png': png[:middle],
        'changed.png': png[:middle] + bytes(b ^ 255 for b in png[middle:middle + 8])
        + png[middle + 8:],
        'empty.jpg': b'', 'page.jpg': b'<!DOCTYPE html><html><body>404</body></html>',
        'huge.png': huge_png(), 'missing.jpg': None, 'folder.jpg': 'folder',
        'float.tiff': encoded(Image.fromarray(np.ones((SIDE, SIDE), np.float32)), 'TIFF')}


def place(folder, name, content):
    path = Path(folder, name)
    if content == 'folder':
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    return str(path)


def said(function, step, path, expected=None):
    """What a step does, in words: 'ok' for ``expected``, or for an error that names the path."""
    try:
        found = function(step, path)
    except Exception as error:
        kind = 'ok, refuses it' if path in str(error) else 'names no file'
        return f'{kind}: {type(error).__name__}'
    return 'ok' if expected is not None and np.array_equal(found, expected) else 'passes'


def load(step, path):
    return step.transform(dict(img_path=path))['img']


def image_cases(folder):
    def reads(path, backend, step=LoadImage):
        image = load(step(imdecode_backend=backend), path)
        # With Pillow, mmcv gives up where EXIF is broken, unless it is not asked for.
        flag = 'color_ignore_orientation' if 'broken_exif' in path else 'color'
        is_same = 'gray16' in path or np.array_equal(
            image, load(LoadImageFromFile(imdecode_backend=backend, color_type=flag), path))
        return is_same and image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8 \
            and ('gray16' not in path or np.array_equal(
                image[..., 0], np.asarray(gray16()) >> 8))

    def refuses(path):
        try:
            load(LoadImage(), path)
        except DamagedImage as error:
            return path in str(error) and len(str(error)) < len(path) + 200
        return False

    for name, content in good_images().items():
        path = place(folder, name, content)
        for backend in ('cv2', 'pillow'):
            yield ('images', f'{name}, {backend}', lambda p=path, b=backend: reads(p, b),
                   lambda p=path, b=backend: 'ok' if reads(p, b, LoadImageFromFile)
                   else 'other pixels')
    for name, content in bad_images().items():
        path = place(folder, name, content)
        yield ('images', name, lambda p=path: refuses(p),
               None if name == 'huge.png' else lambda p=path: said(load, LoadImageFromFile(), p))


def label_maps():
    """{file name: image, kind, text of the complaint}."""
    labels = np.random.default_rng(0).integers(5, size=(SIDE, SIDE), dtype=np.uint8)
    image = Image.fromarray(labels)
    palette = image.convert('P')
    return {
        'label16.png': (encoded(gray16(), 'PNG'), 'mode I;16'),
        'label_rgb.png': (encoded(image.convert('RGB'), 'PNG'), 'mode RGB'),
        'label.jpg': (encoded(image, 'JPEG'), 'is a JPEG'),
        'label_small.png': (encoded(image.crop((0, 0, 16, 32)), 'PNG'), '16x32'),
        'label_half.png': (encoded(image, 'PNG')[:200], 'label_half.png'),
        'label_palette.png': (encoded(palette, 'PNG'), None),
        'label_good.png': (encoded(image, 'PNG'), None)}


def load_labels(step, path, **more):
    results = dict(img_path='photo.jpg', seg_map_path=path, seg_fields=[], label_map=None,
                   reduce_zero_label=False, ori_shape=(SIDE, SIDE), **more)
    return step.transform(results)['gt_seg_map']


def refused(function, *texts):
    """True where a ValueError holds all of the texts."""
    try:
        function()
    except ValueError as error:
        return all(text in str(error) for text in texts)
    return False


def measured(metric, path, labels, found):
    """The metrics of one image of three classes."""
    metric = metric()
    metric.dataset_meta = dict(classes=['a', 'b', 'c'])
    metric.process({}, [dict(img_path=path, gt_sem_seg=dict(data=torch.tensor([labels])),
                             pred_sem_seg=dict(data=torch.tensor([found])))])
    return metric.compute_metrics(metric.results)


def label_cases(folder):
    from mmseg.datasets import LoadAnnotations as Stock
    for name, (content, complaint) in label_maps().items():
        path = place(folder, name, content)
        if complaint is None:
            def ours(p=path):
                return np.array_equal(load_labels(LoadAnnotations(), p), np.asarray(Image.open(p)))
        else:
            def ours(p=path, c=complaint):
                return refused(lambda: load_labels(LoadAnnotations(), p), p, c)
        expected = None if complaint else np.asarray(Image.open(path))
        yield ('labels', name, ours,
               lambda p=path, e=expected: said(load_labels, Stock(), p, e))
    good = str(Path(folder, 'label_good.png'))
    yield ('labels', 'image turned by EXIF',
           lambda: refused(lambda: load_labels(LoadAnnotations(), good, is_turned=True),
                           'EXIF', good), lambda: said(load_labels, Stock(), good))
    yield ('labels', 'label 7 of 3 classes, training',
           lambda: refused(
               lambda: require_classes(torch.tensor([0, 255, 7]), 3, 'label', good, 255),
               good, 'label 7'), None)

    for name, labels, found in (('label', [[0, 1, 2, 7]], [[0, 1, 2, 2]]),
                                ('prediction', [[0, 1, 2, 2]], [[0, 1, 2, 7]])):
        yield ('labels', f'{name} 7 of 3 classes, evaluation',
               lambda labels=labels, found=found, name=name: refused(
                   lambda: measured(IoUMetric, good, labels, found), good, f'{name} 7'),
               lambda labels=labels, found=found:
                   f"aAcc {measured(MMSegIoUMetric, good, labels, found)['aAcc']}")
    yield ('labels', 'ignored pixels and absent classes are reported', lambda: {
        key: measured(IoUMetric, good, [[0, 0, 1, 255]], [[0, 0, 1, 1]])[key]
        for key in ('ignored_pixels', 'absent_classes')} == dict(
            ignored_pixels=1, absent_classes=1),
        lambda: f"says {sorted(measured(MMSegIoUMetric, good, [[0, 0, 1, 255]], [[0, 0, 1, 1]]))}")


def store_cases(folder):
    photos = Path(folder, 'photos')
    photos.mkdir()
    names = [f'{i}.png' for i in range(4)]
    for name in names:
        photo().save(photos / name)

    def store(name, **change):
        root = Path(folder, name)
        writer = PartStoreWriter(root, change.get('names', names), dict(
            grid=change.get('grid', 4), num_parts=change.get('num_parts', 3), view=[],
            parts=dict(foreground='attention')))
        zeros = np.zeros((len(change.get('names', names)), change.get('grid', 4) ** 2), np.uint8)
        writer.write(0, zeros, zeros)
        writer.finish()
        return root

    def ours(root, *texts):
        return refused(lambda: PartDataset(photos, part_store=root, grid=4, num_parts=3),
                       *texts)

    for name, change in (('grid', dict(grid=2)), ('part count', dict(num_parts=5)),
                         ('name of an image', dict(names=['a.png', *names[1:]])),
                         ('number of images', dict(names=names[1:]))):
        root = store(f'store {name}', **change)
        yield 'parts', f'store with another {name}', lambda r=root: ours(r, str(r)), None
    missing = Path(folder, 'no store')

    def tells_missing():
        try:
            PartDataset(photos, part_store=missing, grid=4, num_parts=3)
        except (ValueError, FileNotFoundError) as error:
            return str(missing) in str(error)
        return False
    yield 'parts', 'store missing', tells_missing, None
    for alpha in (0., .5, 1.):
        yield ('parts', f'one part for all patches, alpha {alpha}',
               lambda a=alpha: bool((part_guided_mask(
                   torch.zeros(64, 196, dtype=torch.long), 6, .75, a).sum(1) == 147).all()), None)


def mask_cases(num=10_000, batch=250, seed=0):
    """``num`` random part maps: any sizes, number of parts, alpha and ratio, in batches."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    for i in range(num // batch):
        length, parts = int(rng.integers(4, 785)), int(rng.integers(1, 33))
        alpha = (0., .5, 1., float(rng.random()))[i % 4]
        ratio = (.75, float(rng.random() * .99))[i // 4 % 2]
        weights = rng.dirichlet(np.full(parts, rng.choice([.05, 1., 10.])), size=batch)
        ids = torch.from_numpy((rng.random((batch, length, 1))
                                > weights.cumsum(1)[:, None]).sum(2)).clamp(max=parts - 1)
        mask = part_guided_mask(ids, parts, ratio, alpha, generator)
        yield (mask.sum(1) == num_masked(length, ratio)).tolist()


def cases(root, quick=False):
    """A `Case` for each; they use files in ``root``, empty before. quick: fewer masks."""
    for kind in (image_cases, label_cases, store_cases):
        own = Path(root, kind.__name__)
        own.mkdir()
        for case in kind(own):
            yield Case(*case)
    masks = mask_cases(1_000 if quick else 10_000)
    for i, exact in enumerate(mask for batch in masks for mask in batch):
        yield Case('ratio', f'mask {i}', lambda exact=exact: exact)


def controls(root, quick=False):
    """The same demands on stock steps, and on masks whose parts are rounded alone: each fails."""
    root = Path(root)
    half = place(root, 'changed.jpg', encoded(photo(256), 'JPEG').replace(b'\x55', b'\x5a'))
    yield Case('images', "a changed JPEG, mmcv's loader",
               lambda: said(load, LoadImageFromFile(), half))
    for name, labels, found in (('label', [[0, 1, 2, 7]], [[0, 1, 2, 2]]),
                                ('prediction', [[0, 1, 2, 2]], [[0, 1, 2, 7]])):
        yield Case('labels', f"{name} 7 of 3 classes, mmseg's metric",
                   lambda labels=labels, f=found: refused(
                       lambda: measured(MMSegIoUMetric, half, labels, f), half))

    def rounded_alone():
        sizes = torch.randint(1, 60, (100, 6), generator=torch.Generator().manual_seed(0)).float()
        found = patches_to_mask_per_part(sizes, .75, .5, torch.arange(6).expand(100, 6)).round()
        wanted = [num_masked(int(length), .75) for length in sizes.sum(1)]
        return found.sum(1).tolist() == wanted
    yield Case('ratio', 'each part rounded by itself', rounded_alone)
