"""Decoded images on disk, for recipes whose images differ between epochs only by flips.

A folder with ``manifest.json`` (written last: no manifest, no cache), ``images.txt`` (relative
paths, sorted) and ``images.u8``: (N, size, size, 3) bytes BGR without a header, 150 KB an image at
224 pixels. Made by tools/pack_images.py.
"""
import hashlib
import os
from pathlib import Path

import numpy as np
from filelock import FileLock
from mmcv.transforms import BaseTransform

from .. import __version__
from ..progress_bar import Bar, track
from ..registry import TRANSFORMS
from . import stored
from .fast_loading import LoadCenterCrop, planar
from .geometry import Role
from .part_store import list_images
from .transforms import mirror


def pack_images(images, out, size=224, shard_size=256):
    """Write or continue a cache of all images below a folder; returns the complete cache.

    Shards are written in place into ``images.u8``, then their hashes into ``progress.json``. So a
    build that is killed and started again is bit-identical and needs no more space.
    """
    if size < 1:
        raise ValueError(f'size={size}, expected at least 1 pixel a side')
    root, out, names = Path(images), Path(out), list_images(images)
    load = LoadCenterCrop(size)
    plan = dict(format=stored.FORMAT, count=len(names), size=size, view=load.view(),
                images_sha256=stored.images_hash(names), shard_size=shard_size)
    if (out / 'manifest.json').exists():
        cache = ImageCache(out)
        cache.require_fields(
            cache.manifest, {key: plan[key] for key in ('images_sha256', 'size', 'view')})
        return cache
    out.mkdir(parents=True, exist_ok=True)
    with FileLock(out / 'lock'):
        if not (out / 'manifest.json').exists():
            _build(root, out, names, load, plan)
    (out / 'lock').unlink(missing_ok=True)
    return ImageCache(out)


def _build(root, out, names, load, plan):
    progress, hashes = out / 'progress.json', []
    if progress.exists():
        found = stored.read_manifest(progress)
        wrong = stored.differences(found, plan)
        if wrong:
            raise ValueError(f'{out} holds an unfinished image cache that differs: '
                             f'{wrong}. Remove the folder, or give another --out')
        hashes = found['shards_sha256']
    bytes_of_one, step = 3 * plan['size'] ** 2, plan['shard_size']
    first = len(hashes) * step
    with ((out / 'images.u8').open('r+b' if hashes else 'wb') as f,
          Bar('packing', len(names), done=first) as bar):
        f.truncate(len(names) * bytes_of_one)
        for start in range(first, len(names), step):
            shard = [load.read(root / name)[0] for name in names[start:start + step]]
            content = np.stack(shard).tobytes()
            f.seek(start * bytes_of_one)
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
            hashes.append(hashlib.sha256(content).hexdigest())
            stored.write_json(progress, dict(plan, shards_sha256=hashes))
            bar.add(len(shard))
    stored.write_complete(out, names, dict(
        plan, shards_sha256=hashes, created_by=f'semmae {__version__}'))
    progress.unlink()


class ImageCache(stored.Stored):
    """A complete cache, memory-mapped; ``cache[i]`` is (size, size, 3) uint8 BGR, read-only."""

    what = 'image cache'
    unfinished = 'progress.json'
    numbers = ('count', 'size')

    def __init__(self, root):
        super().__init__(root)
        self.size = self.manifest['size']
        path, wanted = self.root / 'images.u8', len(self) * 3 * self.size ** 2
        found = path.stat().st_size if path.is_file() else 0
        if found != wanted:
            raise ValueError(f'{path} has {found} bytes, the manifest says {wanted}. Remove the '
                             f'image cache. {self.command()}')
        self._pixels = None

    def command(self):
        """The command that makes the cache."""
        return f'Run: python tools/pack_images.py IMAGES --out {self.root} --size SIZE'

    def pixels(self):
        """The memory map (N, size, size, 3), opened at the first read."""
        if self._pixels is None:
            # As a plain array, because indexing a np.memmap is slow.
            self._pixels = np.asarray(np.memmap(
                self.root / 'images.u8', np.uint8, 'r', shape=(len(self), *[self.size] * 2, 3)))
        return self._pixels

    def __getstate__(self):
        return dict(self.__dict__, _pixels=None)

    def __getitem__(self, index):
        return self.pixels()[index]

    def verify(self):
        """Read everything; ValueError that names what was changed."""
        self.images()
        path, step = self.root / 'images.u8', self.manifest['shard_size']
        shards = track(self.manifest['shards_sha256'], 'checking', unit='shards')
        for i, wanted in enumerate(shards):
            digest = hashlib.sha256(self.pixels()[i * step:(i + 1) * step]).hexdigest()
            last = min((i + 1) * step, len(self)) - 1
            self.require_hash(path, digest, wanted, f'images {i * step} to {last} have ')


@TRANSFORMS.register_module()
class LoadPacked(BaseTransform):
    """An image of a cache, by its path below ``root``, in place of `LoadCenterCrop`.

    size: the size that the cache must have. The images below ``root`` must be those of the cache.
    ``ori_shape`` is unknown and not set.
    """

    role = Role.READ_VIEW

    def __init__(self, cache, root, size=224, flip_prob=0.):
        self.root, self.flip_prob = f'{Path(root)}/', flip_prob
        self.cache = ImageCache(cache)
        names = list_images(root)
        self.cache.require_fields(self.cache.manifest, dict(
            size=size, view=LoadCenterCrop(size).view(), images_sha256=stored.images_hash(names)))
        self.index = {name: i for i, name in enumerate(names)}

    def transform(self, results):
        path = results['img_path']
        index = self.index.get(path[len(self.root):]) if path.startswith(self.root) else None
        if index is None:
            raise ValueError(f'{path} is not among the {len(self.cache)} images below {self.root} '
                             f'of the cache {self.cache.root}. '
                             f'{self.cache.command()}')
        image = self.cache[index]
        results['img'] = planar(mirror(image, results, self.flip_prob))
        results['img_shape'] = image.shape[:2]
        return results
