"""The feature store: tokens and labels of one data set from a frozen encoder, on disk.

A folder with ``manifest.json`` (written last: no manifest, no store), ``images.txt`` (in the order
of the data set), ``layer11_class.npy`` and the like (float16), and labels: ``labels.npy`` (N,)
int64 of a classification, else ``maps.bin`` with a PNG of each label map at its full resolution and
``maps.npy`` (N, 4) int64: offset, length, height, width. Probes read it, never the images.

N images, L = h x w patches, D channels.
"""
import json
import mmap
import re
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch

from ..datasets import stored
from ..datasets.part_store import open_array
from ..datasets.sharded import ShardedWriter
from ..files import sha256, write_atomically

ARRAY = re.compile(r'layer(\d+)_(class|mean|patches)')
DEPTH_STEP = 1e-4  # metres in a step of a stored depth map, up to 6.5 m; coarser if it needs more


def array_name(layer, kind):
    """'layer11_class': the name of a file of the store, without its suffix."""
    return f'layer{layer}_{kind}'


def as_png(label_map):
    """The bytes of a PNG of a label map (H, W): uint8 or uint16 as it is."""
    return cv2.imencode('.png', label_map)[1]


class FeatureStoreWriter(ShardedWriter):
    """Writes a feature store in shards of images (`ShardedWriter`).

    manifest: at least grid, and what made the features. The files of a shard are one ``.npz``.
    """

    what = 'feature store'
    suffix = '.npz'
    cure = 'Remove the folder, or give another train_cfg.store'

    def write(self, start, tokens, labels):
        """One shard. tokens: {(layer, kind): (n, D) or (n, L, D)}; labels: (n,) or n label maps.

        Raises ValueError for NaN or infinite features.
        """
        arrays = {}
        for (layer, kind), values in tokens.items():
            if not np.isfinite(values).all() or np.abs(values).max() > np.finfo(np.float16).max:
                raise ValueError(f'layer {layer}: the {kind} tokens of images {start} to '
                                 f'{start + len(values) - 1} are NaN, infinite or above 65504. '
                                 'Expected finite features; check the checkpoint and the '
                                 'precision')
            arrays[array_name(layer, kind)] = values.astype(np.float16)
        if isinstance(labels, np.ndarray):
            arrays['labels'] = labels.astype(np.int64)
        else:
            pngs = [as_png(label_map) for label_map in labels]
            arrays['maps'] = np.concatenate(pngs)
            arrays['sizes'] = np.array([(len(png), *m.shape) for png, m in zip(pngs, labels)])
        write_atomically(self.shard_file(start), partial(np.savez, **arrays))
        self.written(start)

    def finish(self):
        """Join the shards, once for all processes; returns the complete store."""
        self.complete()
        return FeatureStore(self.root)

    def merge(self):
        starts = range(0, len(self.images), self.shard_size)
        with np.load(self.shard_file(0), allow_pickle=False) as first:
            like = {name: (first[name].dtype, first[name].shape[1:]) for name in first.files}
        done = dict(self.manifest)
        if 'maps' in like:
            sizes = np.concatenate([self.member(start, 'sizes') for start in starts])
            offsets = np.concatenate([[0], np.cumsum(sizes[:, 0])[:-1]])
            index = np.column_stack([offsets, sizes])
            write_atomically(self.root / 'maps.npy', lambda f: np.save(f, index))
            write_atomically(self.root / 'maps.bin', partial(self.join, starts, 'maps'))
        for name, (dtype, shape) in like.items():
            if name not in ('maps', 'sizes'):
                header = dict(descr=np.lib.format.dtype_to_descr(dtype), fortran_order=False,
                              shape=(len(self.images), *shape))
                write_atomically(self.root / f'{name}.npy', partial(
                    self.join, starts, name, header=header))
        files = [name for name in sorted(p.name for p in self.root.iterdir())
                 if name.endswith(('.npy', '.bin'))]
        return done | {'files': {name: sha256(self.root / name) for name in files}}

    def join(self, starts, name, f, header=None):
        """Write a member of all shards one after the other, after an array's header."""
        if header:
            np.lib.format.write_array_header_1_0(f, header)
        for start in starts:
            f.write(np.ascontiguousarray(self.member(start, name)).tobytes())

    def member(self, start, name):
        """An array of a shard; ValueError with the path for a damaged shard."""
        path = self.shard_file(start)
        try:
            with np.load(path, allow_pickle=False) as shard:
                return shard[name]
        except Exception as error:  # of zip, zlib and numpy's header
            raise ValueError(f'{path} cannot be read: {error}. Remove the file and run the command '
                             'again') from error


class LabelMaps:
    """``maps[i]``: the label map (H, W) of image i, at its full resolution.

    scale: 0 for class indices (uint8 or uint16); else a step of depth in metres (float32).
    """

    def __init__(self, root, scale=0.):
        self.path, self.scale = Path(root) / 'maps.bin', scale
        self.index = open_array(Path(root) / 'maps.npy')
        with self.path.open('rb') as f:
            self.bytes = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self):
        return len(self.index)

    def __getitem__(self, i):
        offset, length, height, width = map(int, self.index[i])
        found = cv2.imdecode(np.frombuffer(self.bytes, np.uint8, length, offset),
                             cv2.IMREAD_UNCHANGED)
        if found is None or found.shape != (height, width):
            raise ValueError(f'{self.path}: label map {i} is damaged. Remove the feature store and '
                             'run the command again')
        return found * np.float32(self.scale) if self.scale else found


class FeatureStore(stored.Stored):
    """A complete store, memory-mapped, as `features.Features`."""

    what = 'feature store'
    unfinished = 'shards'

    def __init__(self, root):
        super().__init__(root)
        self.grid = tuple(self.manifest['grid'])
        self.arrays = {}
        for name in self.manifest['files']:
            if found := ARRAY.fullmatch(Path(name).stem):
                self.arrays[int(found[1]), found[2]] = open_array(self.root / name)
        self.layers = tuple(sorted({layer for layer, _ in self.arrays}))
        for (layer, kind), array in self.arrays.items():
            if len(array) != len(self):
                raise ValueError(f'{self.root / array_name(layer, kind)}.npy has {len(array)} '
                                 f'rows, the manifest says {len(self)}. {self.command()}')
        self.names = self.images()
        is_class = 'labels.npy' in self.manifest['files']
        self.labels = (np.array(open_array(self.root / 'labels.npy')) if is_class else
                       LabelMaps(self.root, self.manifest.get('depth_step', 0.)))

    def command(self):
        return f'Remove {self.root} and run the command again, which makes it'

    def tokens(self, layer, kind, index=slice(None)):
        """float32 tokens of images: (n, D), of patches (n, L, D); ValueError if not stored."""
        if (layer, kind) not in self.arrays:
            there = ', '.join(f'layer {at} {name}' for at, name in sorted(self.arrays))
            raise ValueError(f'{self.root} has no {kind} tokens of layer {layer}, it has: {there}. '
                             'Set model.layers (class and mean) and model.patch_layers to what the '
                             'probe reads')
        return torch.from_numpy(np.asarray(self.arrays[layer, kind][index], dtype=np.float32))

    def verify(self):
        """Read everything; ValueError with the path of a file that was changed."""
        for name, wanted in self.manifest['files'].items():
            path = self.root / name
            if not path.is_file():
                raise FileNotFoundError(f'{path} is missing. {self.command()}')
            self.require_hash(path, sha256(path), wanted)


def fingerprint(made_of):
    """A short name for what a store is made of (a plain dict)."""
    return stored.manifest_hash(json.loads(json.dumps(made_of)))[:12]
