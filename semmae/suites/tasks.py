"""Rows that run the tasks of a suite on any checkpoint, with the options for its network."""
import re
from pathlib import Path
from typing import Any

from ..checkpoints.layouts import options_of
from ..checkpoints.load import anatomy, backbone_state
from ..checkpoints.read import read_checkpoint
from ..config.lookup import at
from ..config.options import config_of
from ..files import sha256
from .rows import INIT, Suite, Train

# Their code adds 0.1 to the grid before it resizes positions: `interpolate_pos_encoding` of
# https://github.com/facebookresearch/dino, of bytedance/ibot and gkakogeorgiou/attmask.
ADDS_A_TENTH = re.compile(r'(dino(?!v[23])|ibot|attmask)', re.IGNORECASE)
# Their code resizes to the new grid.
ADDS_NOTHING = re.compile(r'(mae|beit|simmim|moco|deit|supervised|vit384|scratch)', re.IGNORECASE)


def offset_of(content, recipe, checkpoint, is_own) -> float | None:
    """``interpolate_offset`` of a checkpoint: 0.1, 0., or None where it is not known.

    It follows from the names of the recipe and of the file, then from the content: a teacher (DINO,
    iBOT), the head of a classifier or a key ``model`` (timm, MAE, DeiT).
    """
    names = [recipe, Path(checkpoint).stem]
    if is_own:
        return 0.
    if 'teacher' in content or any(ADDS_A_TENTH.match(name) for name in names):
        return .1
    holds = {'model', 'state_dict', 'head.weight', 'mask_token', 'decoder_embed.weight'}
    return 0. if any(ADDS_NOTHING.search(n) for n in names) or holds & {*content} else None


def resizes_positions(config, state, patch) -> bool:
    """Whether a task has another grid of patches than the positions of a checkpoint."""
    positions = state.get('pos_embed')
    grid = config_of(config).model.backbone.img_size // patch
    return positions is not None and positions.shape[1] != grid ** 2 + 1


def tasks_on(suite: Suite, checkpoint, only=(), offset=None) -> list[Train]:
    """Rows for the tasks of the suite on one checkpoint, with a backbone for its weights.

    only: row ids ``task/recipe``; the recipe names weights that have no name of their own.
    offset: ``interpolate_offset`` of the backbone; None: from `offset_of`.
    Raises ValueError for a file that is not a ViT, for a file with another name than in ``only``,
    where positions would be resized in an unknown way, and where no task takes its patch size.
    """
    content = read_checkpoint(checkpoint)
    state = backbone_state(content, source=str(checkpoint))
    weight = state.get('patch_embed.projection.weight')
    if weight is None:
        raise ValueError(f'{checkpoint} holds no ViT: patch_embed.projection.weight is missing')
    patch = weight.shape[-1]
    own = at(content, 'meta.semmae') or {}
    name = own.get('id') or Path(checkpoint).stem
    if only and own and any(row.split('/')[-1] != name for row in only):
        raise ValueError(f"{checkpoint} says that it is '{name}', --only asks for {list(only)}")
    wanted = [row.split('/', 1) for row in only] or [
        (task, name) for task, configs in suite.tasks.items() if patch in configs]
    if not wanted:
        sizes = sorted({size for configs in suite.tasks.values() for size in configs})
        raise ValueError(
            f'{checkpoint} is a ViT with patches of {patch} pixels, which no task of the suite '
            f'takes; expected one of {", ".join(map(str, sizes))}. With --only TASK/NAME a task '
            f'runs at {patch}; the suite has {", ".join(suite.tasks)}')
    home = sha256(checkpoint)[:8]
    rows = []
    for task, recipe in wanted:
        if not (configs := suite.tasks.get(task)):
            raise ValueError(f"the suite has no task '{task}'; it has {', '.join(suite.tasks)}")
        # The config for the patch size, or that for 16x16 with the patch size of the file.
        size = patch if patch in configs else max(configs)
        named = {} if own else {'result.recipe': recipe, 'result.method': recipe}
        resized = {} if size == patch else {'model.backbone.patch_size': patch}
        options = {INIT: str(checkpoint), **named, **resized, **sizes_of(configs[size], state)}
        told = offset if offset is not None else offset_of(content, recipe, checkpoint, bool(own))
        if told is None and resizes_positions(configs[size], state, patch):
            raise ValueError(
                f'{checkpoint}: {task} resizes its positions, and the file does not say how its '
                'code does it. Add --interpolate-offset 0.1 for DINO, iBOT and AttMask, '
                '--interpolate-offset 0 for MAE, DeiT, timm and others')
        if told:
            options['model.backbone.interpolate_offset'] = told
        rows.append(suite.complete(Train(f'{task}/{recipe}', 'results.jsonl', configs[size],
                                         options, home=f'{task}/{recipe}-{home}')))
    return rows


# {(width, depth): (arch of mmpretrain's ViT, the layers that UPerNet reads (MAE, A.4))}.
ARCHS = {(192, 12): ('deit-tiny', None), (384, 12): ('deit-small', None),
         (1024, 24): ('large', [7, 11, 15, 23]), (1280, 32): ('huge', [7, 15, 23, 31])}
WIDTHS = ('model.neck.input_features', 'model.neck.embed_dim', 'model.head.in_channels',
          'model.decode_head.in_channels', 'model.auxiliary_head.in_channels')


def sizes_of(config, state) -> dict:
    """Overrides that give a ViT-B config the arch of a checkpoint.

    Sizes stay for ViT-B and for unknown ones. Attention heads are not in a file: 64 wide (huge:
    80), as in DeiT and MAE.
    """
    found = anatomy(state)
    width = found['width']
    arch, layers = ARCHS.get((width, found['depth']), (None, None))
    sizes: dict[str, Any] = {}
    if arch:
        cfg = config_of(config)
        sizes['model.backbone.arch'] = arch
        if layers and cfg.model.backbone.get('out_indices'):
            sizes['model.backbone.out_indices'] = layers
        for key in WIDTHS:
            if (node := at(cfg, key)) is not None:
                sizes[key] = [width] * len(node) if isinstance(node, (list, tuple)) else width
    return sizes | {f'model.backbone.{k}': v for k, v in options_of(state).items()}  # BEiT
