"""The part store: part ids and foreground scores of an image folder, on disk.

A folder with ``manifest.json`` (written last: no manifest, no store), ``images.txt`` (relative
paths, sorted), ``part_ids.npy`` and ``foreground.npy`` (images x L patches, uint8 each, larger is
more foreground). 1.6 KB an image at 28x28. N images, L = grid x grid patches.
"""
import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np

from ..files import require_folder, sha256, write_atomically
from ..needs import cure
from . import stored
from .sharded import ShardedWriter

MAX_PARTS = 256  # ids are uint8
ARRAYS = ('part_ids', 'foreground')
SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.ppm', '.tif', '.tiff')


def list_images(root) -> list:
    """All image files below ``root``: relative posix paths, sorted."""
    root = Path(root)
    require_folder(root)
    found = sorted(
        (Path(folder) / name).relative_to(root).as_posix()
        for folder, _, names in os.walk(root, followlinks=True) for name in names
        if name.lower().endswith(SUFFIXES))
    if not found:
        raise FileNotFoundError(f'no image below {root}; expected files ending in '
                                f'{", ".join(SUFFIXES)}, in folders of any depth')
    return found


def sample_images(root, out, limit) -> Path:
    """A folder of links to at most ``limit`` images below ``root``, evenly spaced by name.

    The same call gives the same folder.
    """
    names, root, out = list_images(root), Path(root).resolve(), Path(out)
    step = max(1, len(names) / limit)
    chosen = [names[int(i * step)] for i in range(min(limit, len(names)))]
    if out.is_dir() and list_images(out) != chosen:  # links to other images
        shutil.rmtree(out)
    for name in chosen:
        link = out / name
        if not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(root / name)
    return out


class PartStoreWriter(ShardedWriter):
    """Writes a part store in shards (`ShardedWriter`).

    images: sorted relative paths. manifest: dict with at least grid, num_parts and what made them.
    """

    what = 'part store'
    how = ('created_by', 'precision', 'batch_size', 'shard_size', 'learner')
    cure = 'Remove the folder, or give another --out'

    def __init__(self, root, images, manifest, shard_size=1024):
        if manifest['num_parts'] > MAX_PARTS:
            raise ValueError(f'{manifest["num_parts"]} parts; a part store holds at most '
                             f'{MAX_PARTS}, one byte a patch')
        super().__init__(root, images, manifest, shard_size)

    def write(self, start, part_ids, foreground):
        """One shard: part_ids (n, L) integers, foreground (n, L) integers below 256."""
        shard = np.stack([part_ids, foreground])
        start, stop = self.shard_of(start)
        if shard.shape != (2, stop - start, self.manifest['grid'] ** 2):
            raise ValueError(f'shard {start}-{stop} has shape {shard.shape[1:]}, expected '
                             f'{(stop - start, self.manifest["grid"] ** 2)}')
        for name, values, limit in zip(ARRAYS, shard, (self.manifest['num_parts'], 256)):
            if values.min() < 0 or values.max() >= limit:
                raise ValueError(f'{name} from {values.min()} to {values.max()} in a store of '
                                 f'{self.manifest["num_parts"]} parts; expected 0 to {limit - 1}')
        write_atomically(self.shard_file(start), lambda f: np.save(f, shard.astype(np.uint8)))
        self.written(start)

    def finish(self):
        """Join the shards, once for all processes; returns the complete store."""
        self.complete()
        return PartStore(self.root)

    def merge(self):
        done = dict(self.manifest)
        for row, name in enumerate(ARRAYS):
            path = self.root / f'{name}.npy'
            write_atomically(path, partial(self._join, row))
            done[f'{name}_sha256'] = sha256(path)
        return done

    def _join(self, row, f):
        np.lib.format.write_array_header_1_0(f, dict(
            descr='|u1', fortran_order=False, shape=(len(self.images), self.manifest['grid'] ** 2)))
        for start in range(0, len(self.images), self.shard_size):
            f.write(self._read_shard(start)[row].tobytes())

    def _read_shard(self, start):
        path, (start, stop) = self.shard_file(start), self.shard_of(start)
        shard, wanted = open_array(path), (2, stop - start, self.manifest['grid'] ** 2)
        if shard.shape != wanted or shard.dtype != np.uint8:
            raise ValueError(f'{path} holds {shard.dtype} of shape {shard.shape}, expected uint8 '
                             f'of shape {wanted}. Remove the file and run the command again')
        return shard


def open_array(path):
    """The memory-mapped array of a .npy file; ValueError with the path if there is none in it."""
    try:
        return np.lib.format.open_memmap(path, mode='r')
    except Exception as error:  # numpy passes on errors of Python's parser
        raise ValueError(f'{path} cannot be read: {error}') from None


class PartStore(stored.Stored):
    """A complete store, memory-mapped; ``store[i]`` is (part_ids (L,), foreground (L,)), uint8."""

    what = 'part store'
    unfinished = 'shards'
    numbers = ('count', 'grid', 'num_parts')

    def __init__(self, root):
        super().__init__(root)
        self.grid, self.num_parts = self.manifest['grid'], self.manifest['num_parts']
        self._arrays = None
        shape = (len(self), self.grid ** 2)
        for name, array in zip(ARRAYS, self.arrays()):
            if array.shape != shape:
                raise ValueError(f'{self.root / name}.npy has shape {array.shape}, the manifest '
                                 f'says {shape}. {self.command()}')
            if array.dtype != np.uint8 or not array.flags.c_contiguous:
                raise ValueError(f'{self.root / name}.npy holds {array.dtype} in another order, '
                                 f'expected uint8, image by image. {self.command()}')

    def command(self):
        """The command that makes the store."""
        template = (f'Run: python tools/extract_parts.py CONFIG CHECKPOINT --images DIR '
                    f'--out {self.root} --grid GRID')
        return cure(template, 'tools/extract_parts.py', self.root)

    def arrays(self):
        """The two memory maps (N, L), opened at the first read."""
        if self._arrays is None:
            try:  # as plain arrays, because indexing a np.memmap is slow
                self._arrays = [np.asarray(open_array(self.root / f'{n}.npy')) for n in ARRAYS]
            except ValueError as error:
                raise ValueError(f'{error}. {self.command()}') from None
        return self._arrays

    def __getstate__(self):
        return dict(self.__dict__, _arrays=None)

    def __getitem__(self, index):
        ids, foreground = self.arrays()
        return ids[index].copy(), foreground[index].copy()

    def maps(self, index):
        """Part ids and foreground of an image, (grid, grid) each."""
        return tuple(array.reshape(self.grid, self.grid) for array in self[index])

    def verify(self):
        """Read everything; ValueError with the path of a file that was changed.

        An array is read once per process while its file stays the same.
        """
        for name in ARRAYS:
            path = self.root / f'{name}.npy'
            self.require_hash(path, sha256(path), self.manifest.get(f'{name}_sha256'))
        self.images()

    def require(self, images=None, grid=None, num_parts=None, view=None, foreground=None):
        """Raise ValueError if this store was made from other inputs, or is damaged.

        view: as `geometry.view_of` gives it. foreground: the kind of its scores, for example
        'attention'.
        """
        wanted = dict(grid=grid, num_parts=num_parts, view=view, foreground=foreground,
                      images_sha256=None if images is None else stored.images_hash(images))
        made = self.manifest.get('parts') or {}
        self.require_fields(
            {'view': view, 'foreground': made.get('foreground'), **self.manifest},
            {k: v for k, v in wanted.items() if v is not None})
        self.verify()
