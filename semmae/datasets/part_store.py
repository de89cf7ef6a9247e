"""The part store: part ids and foreground scores of an image folder, on disk.

A folder with ``manifest.json`` (written last: no manifest, no store), ``images.txt`` (relative
paths, sorted), ``part_ids.npy`` and ``foreground.npy`` (images x L patches, uint8 each, larger is
more foreground). 1.5 KB an image at 28x28. N images, L = grid x grid patches.
"""
import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np

from ..files import write_atomically

FORMAT = 1
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


def images_hash(images) -> str:
    """Identifies a list of relative paths."""
    return hashlib.sha256('\n'.join(images).encode()).hexdigest()


class PartStoreWriter:
    """Writes a store in shards, so that an interrupted extraction goes on where it was.

    images: sorted relative paths. manifest: dict with at least grid, num_parts and what made them.
    """

    def __init__(self, root, images, manifest, shard_size=4096):
        self.root, self.images, self.shard_size = Path(root), list(images), shard_size
        self.manifest = dict(manifest, format=FORMAT, count=len(self.images),
                             images_sha256=images_hash(self.images))
        self.shards = self.root / 'shards'
        if (self.root / 'manifest.json').exists():
            raise ValueError(f'{root} already holds a complete part store; remove it, or give '
                             'another --out')
        plan, shown = self.shards / 'plan.json', dict(self.manifest, shard_size=shard_size)
        if plan.exists() and json.loads(plan.read_text()) != shown:
            raise ValueError(f'{root} holds an unfinished store of other images, another '
                             'checkpoint or another grid; remove it, or give another --out')
        self.shards.mkdir(parents=True, exist_ok=True)
        write_atomically(plan, lambda f: f.write(json.dumps(shown).encode()))

    def todo(self):
        """(start, stop) of the shards that are not on disk yet."""
        starts = range(0, len(self.images), self.shard_size)
        return [(s, min(s + self.shard_size, len(self.images))) for s in starts
                if not self._shard(s).exists()]

    def _shard(self, start):
        return self.shards / f'{start:010d}.npz'

    def write(self, start, part_ids, foreground):
        """One shard: part_ids (n, L) integers, foreground (n, L) uint8."""
        if part_ids.max(initial=0) >= self.manifest['num_parts']:
            raise ValueError(f'part id {part_ids.max()} in a store of '
                             f'{self.manifest["num_parts"]} parts')
        write_atomically(self._shard(start), lambda f: np.savez(
            f, part_ids=part_ids.astype(np.uint8), foreground=foreground.astype(np.uint8)))

    def finish(self):
        """Join the shards and make the store complete; returns the opened store."""
        if self.todo():
            raise ValueError(f'{self.root}: shards are missing, from image {self.todo()[0][0]} on')
        length = self.manifest['grid'] ** 2
        starts = range(0, len(self.images), self.shard_size)
        for name in ('part_ids', 'foreground'):
            out = np.lib.format.open_memmap(self.root / f'{name}.npy', 'w+', np.uint8,
                                            (len(self.images), length))
            for start in starts:
                with np.load(self._shard(start)) as shard:
                    out[start:start + len(shard[name])] = shard[name]
            out.flush()
        write_atomically(self.root / 'images.txt',
                         lambda f: f.write('\n'.join(self.images).encode() + b'\n'))
        write_atomically(self.root / 'manifest.json',
                         lambda f: f.write(json.dumps(self.manifest, indent=1).encode() + b'\n'))
        shutil.rmtree(self.shards)
        return PartStore(self.root)


class PartStore:
    """A complete store, memory-mapped; ``store[i]`` is (part_ids (L,), foreground (L,)), uint8."""

    def __init__(self, root):
        self.root = Path(root)
        if not (self.root / 'manifest.json').is_file():
            state = 'an unfinished' if (self.root / 'shards').exists() else 'no'
            raise FileNotFoundError(f'{state} part store at {root}. {self.command()}')
        self.manifest = json.loads((self.root / 'manifest.json').read_text())
        if self.manifest.get('format') != FORMAT:
            raise ValueError(f'part store {root} has format {self.manifest.get("format")}, this '
                             f'version reads {FORMAT}. {self.command()}')
        self.grid, self.num_parts = self.manifest['grid'], self.manifest['num_parts']
        self._arrays = None
        shape = (self.manifest['count'], self.grid ** 2)
        for name, array in zip(('part_ids.npy', 'foreground.npy'), self.arrays()):
            if array.shape != shape:
                raise ValueError(f'{self.root / name} has shape {array.shape}, the manifest says '
                                 f'{shape}. {self.command()}')

    def command(self):
        """What makes the store that is missing."""
        return (f'Run: python tools/extract_parts.py CONFIG CHECKPOINT --images DIR '
                f'--out {self.root} --grid GRID')

    def arrays(self):
        """The two memory maps; opened once in each process."""
        if self._arrays is None or self._arrays[0] != os.getpid():
            self._arrays = (os.getpid(), [np.load(self.root / f'{n}.npy', mmap_mode='r')
                                          for n in ('part_ids', 'foreground')])
        return self._arrays[1]

    def __getstate__(self):
        return dict(self.__dict__, _arrays=None)

    def images(self):
        return (self.root / 'images.txt').read_text().splitlines()

    def __len__(self):
        return self.manifest['count']

    def __getitem__(self, index):
        ids, foreground = self.arrays()
        return np.array(ids[index]), np.array(foreground[index])

    def require(self, images=None, grid=None, num_parts=None, view=None):
        """Raise ValueError if this store was made for something else.

        view: of the images, as `semmae.datasets.transforms.view_of` gives it.
        """
        found = dict(grid=self.grid, num_parts=self.num_parts,
                     images=self.manifest['images_sha256'][:12],
                     view=self.manifest.get('view', view))
        wanted = dict(grid=grid, num_parts=num_parts, view=view,
                      images=None if images is None else images_hash(images)[:12])
        wrong = [f'{k} {found[k]}, wanted {v}' for k, v in wanted.items()
                 if v is not None and v != found[k]]
        if wrong:
            raise ValueError(f'part store {self.root} does not fit: {"; ".join(wrong)}. '
                             f'{self.command()}')
