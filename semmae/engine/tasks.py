"""The tasks of a suite on a checkpoint from anywhere, with the options that make its network."""
from pathlib import Path

from mmengine.config import Config

from ..files import sha256
from .checkpoint import anatomy, backbone_state, read_checkpoint
from .layouts import options_of


def tasks_on(suite, checkpoint, only=()):
    """Rows for the tasks of the suite on one checkpoint, with a backbone that is its network.

    only: row ids ``task/recipe``; the recipe names weights that do not name themselves.
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
        if 'teacher' in content:  # DINO and iBOT resize positions in their own way
            options['model.backbone.interpolate_offset'] = '0.1'
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
