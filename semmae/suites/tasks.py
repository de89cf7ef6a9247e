"""The tasks of a suite on a checkpoint from anywhere, with the options that make its network."""
import re
from pathlib import Path

from mmengine.config import Config

from ..checkpoints.layouts import options_of
from ..checkpoints.load import anatomy, backbone_state
from ..checkpoints.read import read_checkpoint
from ..files import sha256

# Their code resizes positions by a factor with 0.1 added to the grid: `interpolate_pos_encoding` of
# https://github.com/facebookresearch/dino, of bytedance/ibot and gkakogeorgiou/attmask.
ADDS_A_TENTH = re.compile(r'(dino(?!v[23])|ibot|attmask)', re.IGNORECASE)
# Names of weights whose code resizes to the new size.
ADDS_NOTHING = re.compile(r'(mae|beit|simmim|moco|deit|supervised|vit384|scratch)', re.IGNORECASE)


def offset_of(content, recipe, checkpoint, is_own):
    """How the code of a checkpoint resizes positions: 0.1, 0., or None where nothing tells.

    The name of the recipe and of the file count, then what the file holds: a teacher (DINO, iBOT),
    a classifier's head or a key ``model`` (timm, MAE, DeiT).
    """
    names = [recipe, Path(checkpoint).stem]
    if is_own:
        return 0.
    if 'teacher' in content or any(ADDS_A_TENTH.match(name) for name in names):
        return .1
    holds = {'model', 'state_dict', 'head.weight', 'mask_token', 'decoder_embed.weight'}
    return 0. if any(ADDS_NOTHING.search(n) for n in names) or holds & {*content} else None


def resizes_positions(config, state, patch):
    """Whether a task looks at another grid of patches than a checkpoint has positions for."""
    positions = state.get('pos_embed')
    grid = Config.fromfile(config).model.backbone.img_size // patch
    return positions is not None and positions.shape[1] != grid ** 2 + 1


def tasks_on(suite, checkpoint, only=(), offset=None):
    """Rows for the tasks of the suite on one checkpoint, with a backbone that is its network.

    only: row ids ``task/recipe``; the recipe names weights that do not name themselves.
    offset: ``interpolate_offset`` of the backbone; None takes what names and content tell
        (`offset_of`). ValueError where nothing tells and positions would be resized, and where no
        task takes the file's patches.
    """
    content = read_checkpoint(checkpoint)
    state = backbone_state(content, source=str(checkpoint))
    weight = state.get('patch_embed.projection.weight')
    if weight is None:
        raise ValueError(f'{checkpoint} holds no ViT: patch_embed.projection.weight is missing')
    patch = weight.shape[-1]
    meta = content.get('meta')
    own = (meta.get('semmae') if isinstance(meta, dict) else None) or {}
    name = own.get('id') or Path(checkpoint).stem
    if only and own and any(n.split('/')[-1] != name for n in only):
        raise ValueError(f"{checkpoint} says that it is '{name}', --only asks for {list(only)}")
    wanted = [n.split('/', 1) for n in only] or [
        (task, name) for task, configs in suite.tasks.items() if patch in configs]
    if not wanted:
        sizes = sorted({size for configs in suite.tasks.values() for size in configs})
        raise ValueError(
            f'{checkpoint} is a ViT with patches of {patch} pixels, which no task of the suite '
            f'takes; expected one of {", ".join(map(str, sizes))}. With --only TASK/NAME a task '
            f'runs at {patch}; the suite has {", ".join(suite.tasks)}')
    row, found = type(suite.rows[0]), []
    for task, recipe in wanted:
        configs = suite.tasks.get(task)
        if not configs:
            raise ValueError(f"the suite has no task '{task}'; it has {', '.join(suite.tasks)}")
        # A config for the patch size, or that of 16x16 with the file's.
        near = patch if patch in configs else max(configs)
        options = {'model.backbone.init_cfg.checkpoint': str(checkpoint)}
        options |= {} if own else {'result.recipe': recipe, 'result.method': recipe}
        options |= {} if near == patch else {'model.backbone.patch_size': str(patch)}
        options |= sizes_of(configs[near], anatomy(state))
        options |= {f'model.backbone.{k}': str(v) for k, v in options_of(state).items()}  # BEiT
        told = offset if offset is not None else offset_of(content, recipe, checkpoint, bool(own))
        if told is None and resizes_positions(configs[near], state, patch):
            raise ValueError(
                f'{checkpoint}: {task} resizes its positions, and nothing tells in which way its '
                'code does so. Add --interpolate-offset 0.1 for DINO, iBOT and AttMask, '
                '--interpolate-offset 0 for MAE, DeiT, timm and others')
        if told:
            options['model.backbone.interpolate_offset'] = f'{told:g}'
        found.append(suite.complete(row(f'{task}/{recipe}', 'results.jsonl', configs[near], options,
                                        home=f'{task}/{recipe}-{sha256(checkpoint)[:8]}')))
    return found


# {(width, depth): (arch of mmpretrain's ViT, the layers that UPerNet looks at (MAE, A.4))}.
ARCHS = {(192, 12): ('deit-tiny', None), (384, 12): ('deit-small', None),
         (1024, 24): ('large', (7, 11, 15, 23)), (1280, 32): ('huge', (7, 15, 23, 31))}
WIDTHS = ('model.neck.input_features', 'model.neck.embed_dim', 'model.head.in_channels',
          'model.decode_head.in_channels', 'model.auxiliary_head.in_channels')


def sizes_of(config, found):
    """Overrides that give a ViT-B config the arch of a checkpoint, {} for ViT-B and unknown ones.

    found: `checkpoint.anatomy`. Heads are not in a file: 64 (huge: 80) wide, as in DeiT and MAE.
    """
    arch, layers = ARCHS.get((found['width'], found['depth']), (None, None))
    if arch is None:
        return {}
    cfg = Config.fromfile(config)
    sizes = {'model.backbone.arch': arch}
    if layers and cfg.model.backbone.get('out_indices'):
        sizes['model.backbone.out_indices'] = str(list(layers)).replace(' ', '')
    for key in WIDTHS:
        node = cfg
        for part in key.split('.'):
            node = (node or {}).get(part)
        if node is not None:
            width = found['width']
            sizes[key] = (str([width] * len(node)).replace(' ', '')
                          if isinstance(node, (list, tuple)) else str(width))
    return sizes
