"""Features of a folder of images from a frozen backbone, as arrays.

N images, L patches, D channels.
"""
import numpy as np
from mmengine.device import get_device
from mmengine.registry import init_default_scope

from ..datasets.part_store import list_images
from ..datasets.photos import Photos
from ..progress_bar import Bar
from ..registry import MODELS


def embed(cfg, images, kinds=('class', 'mean'), batch_size=64, num_workers=None):
    """(names of N images, {kind: float32 array}, dict of what made them) of the last layer.

    cfg: a config with a `FrozenProbe`, such as mm_configs/dense/dense_imagenet.py; images go
    through its val_dataloader's pipeline. kinds: of `features.KINDS`; arrays are (N, D), those of
    'patches' (N, L, D). A kind that the backbone does not have is left out.
    Raises ValueError for another model, for random weights, for weights that do not fit, and for an
    image that cannot be read; FileNotFoundError for a folder without images.
    """
    if cfg.model.type != 'semmae.FrozenProbe':
        raise ValueError(f'{cfg.filename} has a {cfg.model.type}, expected a semmae.FrozenProbe. '
                         'Derive a config of mm_configs/dense/')
    names = list_images(images)
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    cfg.model.update(probes={}, layers=(-1,), patch_layers=(-1,) if 'patches' in kinds else ())
    model = MODELS.build(cfg.model)
    model.backbone.init_weights()
    if getattr(model.backbone, 'load_report', None) is None:
        raise ValueError('the backbone has random weights: give --checkpoint FILE')
    model.to(get_device()).eval()
    keys = list(enumerate(names))
    batches = [keys[i:i + batch_size] for i in range(0, len(keys), batch_size)]
    loader = Photos(images, cfg.val_dataloader.dataset.pipeline).loader(batches, num_workers)
    found: dict[str, list] = {kind: [] for kind in kinds}
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
    return names, {kind: np.concatenate(values) for kind, values in found.items() if values}, dict(
        weights_sha256=model.weights_sha256(), grid=list(grid),
        backbone=cfg.model.backbone.to_dict())
