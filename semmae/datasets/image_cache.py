"""Decoded images on disk, for recipes that show the same pixels in every epoch but for flips.

A folder with ``manifest.json`` (written last: no manifest, no cache), ``images.txt`` (relative
paths, sorted) and ``images.u8``: (N, size, size, 3) bytes BGR without a header, 150 KB an image at
224 pixels. Made by tools/pack_images.py.
"""
import hashlib
import json
import os
from pathlib import Path

import numpy as np
from filelock import FileLock
from mmcv.transforms import BaseTransform

from .. import __version__
from ..files import write_atomically
from ..registry import TRANSFORMS
from .fast_loading import LoadCenterCrop, mirror, planar
from .part_store import (
    as_bytes,
    differences,
    images_hash,
    list_images,
    manifest_hash,
    read_manifest,
)

FORMAT = 1


def as_json(content):
    return lambda f: f.write(json.dumps(content, indent=1).encode() + b'\n')


def pack_images(images, out, size=224, shard_size=256):
    """Write a cache of all images below a folder, or go on with one; returns it opened.

    Shards go straight to their place in ``images.u8``; one counts as soon as its hash is in
    ``progress.json``, which is written after the bytes are on disk. So a build that is killed at
    any moment and started again ends in the same bytes, and needs no more space than the cache.
    """
    root, out, names = Path(images), Path(out), list_images(images)
    load = LoadCenterCrop(size)
    plan = dict(format=FORMAT, count=len(names), size=size, view=load.view(),
                images_sha256=images_hash(names), shard_size=shard_size)
    if (out / 'manifest.json').exists():
        cache = ImageCache(out)
        cache.require({key: plan[key] for key in ('images_sha256', 'size', 'view')})
        return cache
    out.mkdir(parents=True, exist_ok=True)
    with FileLock(out / 'lock'):
        if not (out / 'manifest.json').exists():
            _build(root, out, names, load, plan)
    (out / 'lock').unlink(missing_ok=True)
    return ImageCache(out)


def _build(root, out, names, load, plan):
    progress, done = out / 'progress.json', []
    if progress.exists():
        found = read_manifest(progress)
        wrong = differences(found, plan)
        if wrong:
            raise ValueError(f'{out} holds an unfinished image cache made otherwise: {wrong}. '
                             'Remove the folder, or give another --out')
        done = found['shards_sha256']
    size, step = plan['size'], plan['shard_size']
    bytes_of_one = 3 * size ** 2
    with open(out / 'images.u8', 'r+b' if done else 'wb') as f:
        f.truncate(len(names) * bytes_of_one)
        for start in range(len(done) * step, len(names), step):
            shard = [load.read(root / name)[0] for name in names[start:start + step]]
            content = np.stack(shard).tobytes()
            f.seek(start * bytes_of_one)
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
            done.append(hashlib.sha256(content).hexdigest())
            write_atomically(progress, as_json(dict(plan, shards_sha256=done)))
    write_atomically(out / 'images.txt', lambda f: f.write(as_bytes(names) + b'\n'))
    done = dict(plan, shards_sha256=done, created_by=f'semmae {__version__}')
    write_atomically(out / 'manifest.json',
                     as_json(dict(done, manifest_sha256=manifest_hash(done))))
    progress.unlink()


class ImageCache:
    """A complete cache, memory-mapped; ``cache[i]`` is (size, size, 3) uint8 BGR, read-only."""

    def __init__(self, root):
        self.root = Path(root)
        if not (self.root / 'manifest.json').is_file():
            state = 'an unfinished' if (self.root / 'progress.json').exists() else 'no'
            raise FileNotFoundError(f'{state} image cache at {root}. {self.command()}')
        self.manifest = read_manifest(self.root / 'manifest.json')
        if self.manifest.get('format') != FORMAT:
            raise ValueError(f'image cache {root} has format {self.manifest.get("format")} in '
                             f'manifest.json, this version reads {FORMAT}. {self.command()}')
        # Caches of earlier versions have no hash of the manifest.
        digest = manifest_hash(self.manifest)
        if (self.manifest.get('manifest_sha256', digest) != digest or any(
                type(self.manifest.get(key)) is not int for key in ('count', 'size'))):
            raise ValueError(f'{self.root}/manifest.json is not as it was written. Remove the '
                             f'cache. {self.command()}')
        self.size = self.manifest['size']
        path, wanted = self.root / 'images.u8', len(self) * 3 * self.size ** 2
        found = path.stat().st_size if path.is_file() else 0
        if found != wanted:
            raise ValueError(f'{path} has {found} bytes, the manifest says {wanted}. Remove the '
                             f'cache. {self.command()}')
        self._pixels = None

    def command(self):
        """What makes the cache that is missing."""
        return f'Run: python tools/pack_images.py IMAGES --out {self.root} --size SIZE'

    def pixels(self):
        """The memory map (N, size, size, 3); opened where it is first read."""
        if self._pixels is None:
            # As a plain array: rows of a np.memmap are slow to make.
            self._pixels = np.asarray(np.memmap(
                self.root / 'images.u8', np.uint8, 'r', shape=(len(self), *[self.size] * 2, 3)))
        return self._pixels

    def __getstate__(self):
        return dict(self.__dict__, _pixels=None)

    def images(self):
        text = (self.root / 'images.txt').read_bytes().decode(errors='surrogateescape')
        return text.split('\n')[:-1]

    def __len__(self):
        return self.manifest['count']

    def __getitem__(self, index):
        return self.pixels()[index]

    def require(self, wanted):
        """ValueError if this cache was made for something else. wanted: fields of the manifest."""
        wrong = differences(self.manifest, wanted)
        if wrong:
            raise ValueError(f'image cache {self.root} does not fit: {wrong}. Remove it or give '
                             f'another folder. {self.command()}')

    def verify(self):
        """Read everything and raise ValueError, naming what is not as it was written."""
        if images_hash(self.images()) != self.manifest['images_sha256']:
            raise ValueError(f'{self.root}/images.txt is not as it was written. Remove the cache. '
                             f'{self.command()}')
        step = self.manifest['shard_size']
        for i, wanted in enumerate(self.manifest['shards_sha256']):
            found = hashlib.sha256(self.pixels()[i * step:(i + 1) * step]).hexdigest()
            if found != wanted:
                raise ValueError(
                    f'{self.root}/images.u8 is not as it was written: images {i * step} to '
                    f'{min((i + 1) * step, len(self)) - 1} have sha256 {found[:12]}, the manifest '
                    f'says {wanted[:12]}. Remove the cache. {self.command()}')


@TRANSFORMS.register_module()
class LoadPacked(BaseTransform):
    """An image out of a cache, by its path below ``root``, in place of `LoadCenterCrop`.

    size: what the cache has to be made with. The images below ``root`` have to be those of the
    cache, all of them. ``ori_shape`` is not known any more and is left out.
    """

    def __init__(self, cache, root, size=224, flip_prob=0.):
        self.root, self.flip_prob = f'{Path(root)}/', flip_prob
        self.cache = ImageCache(cache)
        names = list_images(root)
        self.cache.require(dict(size=size, view=LoadCenterCrop(size).view(),
                                images_sha256=images_hash(names)))
        self.index = {name: i for i, name in enumerate(names)}

    def transform(self, results):
        path = results['img_path']
        index = self.index.get(path[len(self.root):]) if path.startswith(self.root) else None
        if index is None:
            raise ValueError(f'{path} is not among the {len(self.cache)} images of the cache '
                             f'{self.cache.root}, which start at {self.root}. '
                             f'{self.cache.command()}')
        image = self.cache[index]
        results['img'] = planar(mirror(image, results, self.flip_prob))
        results['img_shape'] = image.shape[:2]
        return results
