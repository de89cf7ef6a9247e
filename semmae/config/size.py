"""The size of a run compared with the paper: epochs, images, batch, pixels."""
from typing import Any

from mmengine.dist import get_world_size
from mmengine.runner import Runner
from torch.nn.modules.batchnorm import _BatchNorm  # also the base of mmengine's

from ..models.layers import unwrapped
from .identity import accumulated_steps, training_data
from .lookup import Fields, Node, at


def run_size(runner: Runner) -> Fields:
    """Epochs or updates, image side, global batch and training images of a run's config.

    norm_batch: images over which batch norm normalises, if the model has one. Accumulation does not
    change it. pixels: of the backbone; of the first training image if the backbone has no size.
    """
    cfg = runner.cfg
    loader = cfg.get('train_dataloader') or {}
    train = cfg.get('train_cfg') or {}
    steps, iters = accumulated_steps(cfg), train.get('max_iters')
    size = dict(epochs=train.get('max_epochs'), iters=iters and iters // steps,
                batch_size=loader.get('batch_size', 0) * get_world_size() * steps)
    model = unwrapped(runner.model)
    if any(isinstance(m, _BatchNorm) for m in model.modules()):
        is_synced = 'SyncBN' in str(cfg.model)
        size['norm_batch'] = loader.get('batch_size', 0) * (get_world_size() if is_synced else 1)
    size['pixels'] = side_of(getattr(model, 'backbone', None)) or getattr(
        runner, 'sample_side', None)
    if (data := training_data(runner)) is not None:
        size['num_train'] = len(data)
    return {k: v for k, v in size.items() if v is not None}


def side_of(backbone: Node) -> int | None:
    """Pixels a side of the images of a backbone, or None if it takes any size."""
    size = None if getattr(backbone, 'takes_any_size', False) else getattr(
        backbone, 'img_size', None)
    return size[0] if isinstance(size, (tuple, list)) else size


NAMES = dict(num_train='training images', iters='iterations', pixels='pixels a side',
             batch_size='images in a batch', norm_batch='images in a batch norm')


def why_reduced(full: Fields, size: Fields) -> str:
    """How a run is smaller than the paper's size, as '20 of 90 epochs, ...'; '' if it is not."""
    return ', '.join(f'{size[k]} of {v} {NAMES.get(k, k)}' for k, v in full.items()
                     if k in size and (size[k] < v or k == 'batch_size' and size[k] != v))


def why_enlarged(full: Fields, size: Fields) -> str:
    """How a run is larger than the paper's size, as '1600 instead of 800 epochs'; '' if not."""
    return ', '.join(f'{size[k]} instead of {v} {NAMES.get(k, k)}' for k, v in full.items()
                     if k in size and size[k] > v and k not in ('batch_size', 'norm_batch'))


def model_facts(model: Node, cfg: Node) -> Fields:
    """Type, sizes and parameters of a network, for the cells of a table."""
    backbone = getattr(model, 'backbone', None)
    layers: Any = getattr(backbone, 'layers', None)
    patch = getattr(backbone, 'patch_size', None)
    return dict(type=str(at(cfg.model, 'backbone.type')),
                width=getattr(backbone, 'embed_dims', None),
                depth=len(layers) if hasattr(layers, '__len__') else getattr(
                    backbone, 'num_layers', None),
                patch_size=patch if isinstance(patch, int) else None,
                pixels=side_of(backbone),
                parameters=sum(p.numel() for p in getattr(backbone, 'parameters', list)()))
