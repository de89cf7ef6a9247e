"""Features of images from a frozen backbone, as arrays.

N images, L patches, D channels.
"""
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import DefaultScope

from ..datasets.photos import Photos, images_of, require_count
from ..progress_bar import Bar
from ..registry import MODELS
from .frozen import FrozenProbe

KINDS = ('class', 'mean', 'patches')


@dataclass(frozen=True)
class LoadedBackbone:
    """A backbone with its weights, on the GPU if there is one. cfg: the config that names it."""

    model: FrozenProbe
    cfg: Config

    @property
    def network(self):
        """The torch module: normalised images (B, 3, H, W) -> tuple of features."""
        return self.model.backbone

    @property
    def load_report(self):
        """What was loaded: path, sha256, matched, new, left, resized."""
        return self.model.backbone.load_report


class Features(NamedTuple):
    """Features of N images.

    names: relative paths, or the files as given. arrays: {kind: (N, D) or (N, L, D) float32}.
    about: what made them: the backbone's config, the hash of its weights, the grid of patches.
    """

    names: list
    arrays: dict
    about: dict


def load(cfg) -> LoadedBackbone:
    """The backbone of a config with a `FrozenProbe`, such as mm_configs/dense/dense_imagenet.py.

    Raises ValueError for another model, for random weights and for weights that do not fit.
    """
    if cfg.model.type != 'semmae.FrozenProbe':
        raise ValueError(f'{cfg.filename} has a {cfg.model.type}, expected a semmae.FrozenProbe. '
                         'Derive a config of mm_configs/dense/')
    cfg.model.update(probes={}, layers=(-1,))
    with scope_of(cfg):
        model = MODELS.build(cfg.model)
        model.backbone.init_weights()
    if getattr(model.backbone, 'load_report', None) is None:
        raise ValueError('the backbone has random weights: give a checkpoint (--checkpoint FILE)')
    return LoadedBackbone(model.to(get_device()).eval(), cfg)


def scope_of(cfg):
    """The scope in which the names of a config are looked up, as a context."""
    return DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmpretrain'))


def embed(backbone, images, kinds=KINDS[:2], batch_size=64, num_workers=None) -> Features:
    """`Features` of the last layer of a `LoadedBackbone`.

    images: a folder, a file or a list of files; they go through the pipeline of the config's
    val_dataloader. kinds: of `KINDS`. A kind that the backbone does not have is left out.
    Raises ValueError for unknown kinds, if it has none of them, and for an image that cannot be
    read; FileNotFoundError for a folder without images.
    """
    model, cfg = backbone.model, backbone.cfg
    if not kinds or not {*kinds} <= {*KINDS}:
        raise ValueError(f'got kinds {list(kinds)}, expected some of {", ".join(KINDS)}')
    require_count('batch_size', batch_size)
    if num_workers is not None:
        require_count('num_workers', num_workers, 0)
    root, names = images_of(images)
    model.patch_layers = (-1,) if 'patches' in kinds else ()
    keys = list(enumerate(names))
    batches = [keys[i:i + batch_size] for i in range(0, len(keys), batch_size)]
    with scope_of(cfg):
        photos = Photos(root, cfg.val_dataloader.dataset.pipeline)
    found: dict[str, list] = {kind: [] for kind in kinds}
    loader = photos.loader(batches, num_workers)
    with Bar('encoding', len(names)) as bar:
        for batch in loader:
            if isinstance(batch, str):
                raise ValueError(batch)
            inputs = model.data_preprocessor(batch, False)['inputs']
            tokens, grid = model.encode(inputs)
            for (_, kind), values in tokens.items():
                if kind in found:
                    found[kind].append(values)
            bar.add(len(inputs))
    if not any(found.values()):
        raise ValueError(f'the backbone has no {" nor ".join(kinds)} tokens; expected a --kind '
                         f'among {", ".join(KINDS)} that it has')
    arrays = {kind: np.concatenate(values) for kind, values in found.items() if values}
    return Features(names, arrays, dict(
        weights_sha256=model.weights_sha256(), grid=list(grid),
        backbone=cfg.model.backbone.to_dict()))
