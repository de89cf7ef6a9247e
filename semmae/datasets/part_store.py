"""The part store: part ids and foreground scores of an image folder, on disk.

A folder with ``manifest.json`` (written last: no manifest, no store), ``images.txt`` (relative
paths, sorted), ``part_ids.npy`` and ``foreground.npy`` (images x L patches, uint8 each, larger is
more foreground). 1.6 KB an image at 28x28. N images, L = grid x grid patches.
"""
import hashlib
import json
import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from .. import __version__
from ..files import sha256, write_atomically
from ..needs import cure

FORMAT = 1
MAX_PARTS = 256  # ids are uint8
ARRAYS = ('part_ids', 'foreground')
# How a store was made, not of what: has to agree while it is made, and no longer afterwards.
HOW = ('created_by', 'precision', 'batch_size', 'shard_size', 'learner')
SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.ppm', '.tif', '.tiff')


def list_images(root) -> list:
    """All image files below ``root``: relative posix paths, sorted."""
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f'no image folder at {root}')
    found = sorted(
        (Path(folder) / name).relative_to(root).as_posix()
        for folder, _, names in os.walk(root, followlinks=True) for name in names
        if name.lower().endswith(SUFFIXES))
    if not found:
        raise FileNotFoundError(f'no image below {root}; expected files ending in '
                                f'{", ".join(SUFFIXES)}, in folders of any depth')
    return found


def sample_images(root, out, limit) -> Path:
    """A folder of links to ``limit`` of the images below ``root``, evenly spaced by name.

    All of them if there are fewer; the same call leaves the same folder.
    """
    names, root, out = list_images(root), Path(root).resolve(), Path(out)
    step = max(1, len(names) / limit)
    chosen = [names[int(i * step)] for i in range(min(limit, len(names)))]
    if out.is_dir() and list_images(out) != chosen:  # made from other images: links only
        shutil.rmtree(out)
    for name in chosen:
        link = out / name
        if not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(root / name)
    return out


def as_bytes(images) -> bytes:
    """Relative paths, one a line; also those that are not UTF-8."""
    return '\n'.join(images).encode(errors='surrogateescape')


def images_hash(images) -> str:
    """Identifies a list of relative paths."""
    return hashlib.sha256(as_bytes(images)).hexdigest()


def differences(found, wanted, skip=()) -> str:
    """'grid 14, wanted 28; ...' for the fields of ``wanted`` that differ, '' if none does."""
    def short(key, value):
        return value[:12] if key.endswith('sha256') and value else value
    return '; '.join(f'{k} {short(k, found.get(k))}, wanted {short(k, v)}'
                     for k, v in wanted.items() if k not in skip and found.get(k) != v)


def read_manifest(path) -> dict:
    """The JSON object in a file; ValueError, naming the file, where there is none."""
    try:
        content = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path} is damaged ({type(error).__name__}: {error}). Remove its folder '
                         'and make it again') from None
    if not isinstance(content, dict):
        raise ValueError(f'{path} holds a {type(content).__name__}, expected a JSON object. Remove '
                         'its folder and make it again')
    return content


def manifest_hash(manifest) -> str:
    """Identifies a manifest, whatever the order of its fields and without this one."""
    rest = {key: value for key, value in manifest.items() if key != 'manifest_sha256'}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


class PartStoreWriter:
    """Writes a store in shards; any number of processes may write the same one together.

    images: sorted relative paths. manifest: dict with at least grid, num_parts and what made them.

    A shard belongs to the process that claimed it until it is written; whatever else several could
    do at once (start, claim, merge, clean up) happens under one lock of the folder. The locks are
    those of flock(2): the kernel frees them with their process, however that dies. So a write that
    is killed at any moment and started again, by one process or many, ends in the same bytes.
    Assumed of the file system: renaming is atomic, and all processes see each other's flock. Local
    disks, NFS 4, CephFS, GPFS, and Lustre mounted with ``flock`` do that; mounts with locks of the
    node only (``localflock``, ``nolock``) do not, there all processes have to be on one node.
    """

    def __init__(self, root, images, manifest, shard_size=1024):
        if manifest['num_parts'] > MAX_PARTS:
            raise ValueError(f'{manifest["num_parts"]} parts; a part store holds at most '
                             f'{MAX_PARTS}, one byte a patch')
        self.root, self.images, self.shard_size = Path(root), list(images), shard_size
        manifest = dict(manifest, format=FORMAT, count=len(self.images), shard_size=shard_size,
                        images_sha256=images_hash(self.images), created_by=f'semmae {__version__}')
        self.manifest = json.loads(json.dumps(manifest))  # as it will be read
        self.shards, self.claimed = self.root / 'shards', {}
        self.lock = FileLock(self.root / 'lock')
        if not self.is_complete():  # a complete store may be read-only: no lock
            self.root.mkdir(parents=True, exist_ok=True)
            with self.lock:
                self._start()
        if self.is_complete():
            self._require_same(self.root / 'manifest.json', 'a', HOW)

    def _start(self):
        plan = self.shards / 'plan.json'
        if plan.exists():
            self._require_same(plan, 'an unfinished')
        elif not self.is_complete():
            self.shards.mkdir(exist_ok=True)
            write_atomically(plan, lambda f: f.write(json.dumps(self.manifest).encode()))

    def _require_same(self, path, what, skip=()):
        wrong = differences(read_manifest(path), self.manifest, skip)
        if wrong:
            raise ValueError(f'{self.root} holds {what} part store made otherwise: {wrong}. Remove '
                             'the folder, or give another --out')

    def is_complete(self):
        return (self.root / 'manifest.json').exists()

    def todo(self):
        """(start, stop) of the shards that are not on disk yet."""
        done = {path.name for path in self.shards.glob('*.npy')}
        if self.is_complete():  # asked last: whoever completes a store removes the shards
            return []
        starts = range(0, len(self.images), self.shard_size)
        return [self.shard_of(s) for s in starts if self._shard(s).name not in done]

    def shard_of(self, index):
        """(start, stop) of the shard that an image is in."""
        start = index // self.shard_size * self.shard_size
        return start, min(start + self.shard_size, len(self.images))

    def _shard(self, start):
        return self.shards / f'{start:010d}.npy'

    def claim(self):
        """(start, stop) of a shard that is not written and nobody else's, or None."""
        with self.lock:
            for start, stop in self.todo():
                if start in self.claimed:
                    continue
                lock = FileLock(self._shard(start).with_suffix('.lock'))
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    continue
                if self._shard(start).exists():  # written since `todo` looked
                    lock.release()
                    continue
                self.claimed[start] = lock
                return start, stop

    def release(self):
        """Leave what was claimed and not written to others."""
        while self.claimed:
            self.claimed.popitem()[1].release()

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
        write_atomically(self._shard(start), lambda f: np.save(f, shard.astype(np.uint8)))
        if start in self.claimed:
            self.claimed.pop(start).release()

    def finish(self):
        """Join the shards, once for all processes, and make the store complete; returns it opened.

        Leaves nothing but the store in the folder, also where an earlier process died in here.
        """
        left = (self.shards, self.root / 'lock')
        if not self.is_complete() or any(path.exists() for path in left):
            with self.lock:
                if not self.is_complete():
                    self._merge()
                shutil.rmtree(self.shards, ignore_errors=True)  # others may do the same
                (self.root / 'lock').unlink(missing_ok=True)
        return PartStore(self.root)

    def _merge(self):
        if self.todo():
            raise ValueError(f'{self.root}: shards are missing, from image {self.todo()[0][0]} on')
        done = dict(self.manifest)
        for row, name in enumerate(ARRAYS):
            path = self.root / f'{name}.npy'
            write_atomically(path, partial(self._join, row))
            done[f'{name}_sha256'] = sha256(path)
        done['manifest_sha256'] = manifest_hash(done)
        write_atomically(self.root / 'images.txt',
                         lambda f: f.write(as_bytes(self.images) + b'\n'))
        write_atomically(self.root / 'manifest.json',
                         lambda f: f.write(json.dumps(done, indent=1).encode() + b'\n'))

    def _join(self, row, f):
        np.lib.format.write_array_header_1_0(f, dict(
            descr='|u1', fortran_order=False, shape=(len(self.images), self.manifest['grid'] ** 2)))
        for start in range(0, len(self.images), self.shard_size):
            f.write(self._read_shard(start)[row].tobytes())

    def _read_shard(self, start):
        path, (start, stop) = self._shard(start), self.shard_of(start)
        shard, wanted = open_array(path), (2, stop - start, self.manifest['grid'] ** 2)
        if shard.shape != wanted or shard.dtype != np.uint8:
            raise ValueError(f'{path} holds {shard.dtype} of shape {shard.shape}, expected uint8 '
                             f'of shape {wanted}. Remove the file and run the command again')
        return shard


def open_array(path):
    """The array of a .npy file, memory-mapped; ValueError, naming the file, if it holds none."""
    try:
        return np.lib.format.open_memmap(path, mode='r')
    except Exception as error:  # numpy's reader of headers lets through what Python's parser raises
        raise ValueError(f'{path} cannot be read: {error}') from None


class PartStore:
    """A complete store, memory-mapped; ``store[i]`` is (part_ids (L,), foreground (L,)), uint8."""

    def __init__(self, root):
        self.root = Path(root)
        if not (self.root / 'manifest.json').is_file():
            state = 'an unfinished' if (self.root / 'shards').exists() else 'no'
            raise FileNotFoundError(f'{state} part store at {root}. {self.command()}')
        path = self.root / 'manifest.json'
        self.manifest = read_manifest(path)
        if self.manifest.get('format') != FORMAT:
            raise ValueError(f'part store {path} has format {self.manifest.get("format")}, this '
                             f'version reads {FORMAT}. {self.command()}')
        # Stores of earlier versions have no hash of the manifest.
        digest = manifest_hash(self.manifest)
        if (self.manifest.get('manifest_sha256', digest) != digest or any(
                type(self.manifest.get(key)) is not int for key in ('count', 'grid', 'num_parts'))):
            raise ValueError(f'{path} is not as it was written. Remove the store. {self.command()}')
        self.grid, self.num_parts = self.manifest['grid'], self.manifest['num_parts']
        self._arrays = None
        shape = (self.manifest['count'], self.grid ** 2)
        for name, array in zip(ARRAYS, self.arrays()):
            if array.shape != shape:
                raise ValueError(f'{self.root / name}.npy has shape {array.shape}, the manifest '
                                 f'says {shape}. {self.command()}')
            if array.dtype != np.uint8 or not array.flags.c_contiguous:
                raise ValueError(f'{self.root / name}.npy holds {array.dtype} in another order, '
                                 f'expected uint8, image by image. {self.command()}')

    def command(self):
        """What makes the store that is missing."""
        template = (f'Run: python tools/extract_parts.py CONFIG CHECKPOINT --images DIR '
                    f'--out {self.root} --grid GRID')
        return cure(template, 'tools/extract_parts.py', self.root)

    def arrays(self):
        """The two memory maps (N, L); opened where they are first read, shared by forks."""
        if self._arrays is None:
            self._arrays = [self._open(self.root / f'{name}.npy') for name in ARRAYS]
        return self._arrays

    def _open(self, path):
        try:
            return np.asarray(open_array(path))  # rows of a np.memmap are slow to make
        except ValueError as error:
            raise ValueError(f'{error}. {self.command()}') from None

    def __getstate__(self):
        return dict(self.__dict__, _arrays=None)

    def images(self):
        """The relative paths; ValueError if they are not those that the store was made of."""
        path = self.root / 'images.txt'
        names = path.read_bytes().decode(errors='surrogateescape').split('\n')[:-1]
        self._require_hash(path, images_hash(names))
        return names

    def __len__(self):
        return self.manifest['count']

    def __getitem__(self, index):
        ids, foreground = self.arrays()
        return ids[index].copy(), foreground[index].copy()

    def verify(self):
        """Read everything and raise ValueError, naming the file, if it is not as it was written.

        Arrays that this process has read and that did not change since are not read again.
        """
        for name in ARRAYS:
            path = self.root / f'{name}.npy'
            self._require_hash(path, sha256(path))
        self.images()

    def _require_hash(self, path, digest):
        wanted = self.manifest.get(f'{path.stem}_sha256')
        if digest != wanted:
            raise ValueError(f'{path} is not as it was written: sha256 {digest[:12]}, the manifest '
                             f'says {wanted and str(wanted)[:12]}. Remove the store. '
                             f'{self.command()}')

    def require(self, images=None, grid=None, num_parts=None, view=None, foreground=None):
        """Raise ValueError if this store was made for something else, or is damaged.

        view: of the images, as `semmae.datasets.transforms.view_of` gives it. foreground: what its
        scores are, for example 'attention'.
        """
        wanted = dict(grid=grid, num_parts=num_parts, view=view, foreground=foreground,
                      images_sha256=None if images is None else images_hash(images))
        made = self.manifest.get('parts') or {}
        wrong = differences({'view': view, 'foreground': made.get('foreground'), **self.manifest},
                            {k: v for k, v in wanted.items() if v is not None})
        if wrong:
            raise ValueError(f'part store {self.root} does not fit: {wrong}. {self.command()}')
        self.verify()
