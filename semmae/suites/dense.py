"""Rows of the dense benchmark: one backbone on every data set with frozen and fine-tuned heads."""
import logging
import re
import warnings
from pathlib import Path
from typing import Any

import torch

from ..checkpoints.load import anatomy, backbone_state
from ..checkpoints.read import read_checkpoint
from ..checkpoints.timm_models import load_timm
from ..config.lookup import at
from ..config.options import config_of
from ..files import sha256
from ..models.timm_vit import timm_vit
from .rows import INIT, Suite, Train
from .tasks import ARCHS, WIDTHS, offset_of

FINISHED = 'probes.json'  # `semmae.probes.loop` writes it when every probe has its result
ARCH_FIELD = 'model.backbone.arch'
BASE = {(768, 12): 'base'}


def dense_rows(suite: Suite, timm=None, checkpoint=None, only=(), offset=None,
               is_untrained=False) -> list[Train]:
    """A row for each data set of the suite, with the backbone in its config.

    timm: name of a timm model; checkpoint: its file, or a checkpoint of a ViT without a timm name.
    only: data sets, or ``data set/probe``; () for all but the optional ones.
    offset: ``interpolate_offset`` of a checkpoint without a timm name (`tasks.offset_of`).
    is_untrained: a timm model with random weights.
    Raises ValueError for unknown names, for no backbone, and for a file whose network is not known.
    """
    if not (timm or checkpoint):
        raise ValueError('the dense suite evaluates one backbone: got none, expected --timm NAME '
                         '(a model of timm, with its weights, or those of --checkpoint FILE), or '
                         '--checkpoint FILE alone')
    if is_untrained and (checkpoint or not timm):
        raise ValueError('--untrained goes with --timm NAME alone')
    chosen: dict[str, list[str]] = {}
    for name in only or [task for task in suite.tasks if task not in suite.optional]:
        task, _, probe = name.partition('/')
        if task not in suite.tasks:
            raise ValueError(f"the dense suite has no data set '{task}', it has: "
                             f'{", ".join(suite.tasks)}')
        chosen.setdefault(task, []).append(probe)
    backbone = of_timm(timm, checkpoint, is_untrained) if timm else of_file(checkpoint, offset)
    rows = []
    for task, probes in chosen.items():
        config = next(iter(suite.tasks[task].values()))
        options = backbone.options(config_of(config))
        part = ''
        if all(probes):  # and not the whole data set
            known = [k for k, v in (at(config_of(config), 'model.probes') or {}).items() if v]
            if unknown := [p for p in probes if p not in known]:
                raise ValueError(f"{task} has no probe '{unknown[0]}', it has: "
                                 f'{", ".join(known) or "one fine-tuning"}')
            options['train_cfg.only'] = probes
            part = '-' + '-'.join(probes)  # a folder of its own: a finished row is skipped
        rows.append(Train(f'{task}/{backbone.recipe}', 'results.jsonl', config, options,
                          home=f'{task}/{backbone.recipe}{backbone.tag}{part}'))
    return rows


class Backbone:
    """What the options of a row say about a backbone.

    recipe, method: its id and its name in tables. tag: the end of its folder's name.
    changes: options of the backbone, for a frozen one with ``raw`` outputs.
    """

    def __init__(self, recipe, method, width, depth, changes, tag='', is_replaced=False,
                 has_class_token=True):
        self.recipe, self.method, self.tag = recipe, method, tag
        self.width, self.depth, self.changes = width, depth, changes
        self.is_replaced, self.has_class_token = is_replaced, has_class_token

    def options(self, cfg) -> dict[str, Any]:
        """The overrides of a config of the dense suite for this backbone."""
        is_probe = at(cfg, 'model.probes') is not None
        options: dict[str, Any] = dict(self.changes)
        if is_probe:
            count = min(len(cfg.model.backbone.out_indices), self.depth)
            indices = list(range(-count, 0))
        else:
            indices = [max(0, round(self.depth * part / 4) - 1) for part in (1, 2, 3, 4)]
        options['model.backbone.out_indices'] = indices
        if is_probe and len(cfg.model.layers) > self.depth:
            options['model.layers'] = indices
        if not self.has_class_token and at(cfg, 'model.probes.depth_linear'):
            options['model.probes.depth_linear.has_class_token'] = False
        if self.is_replaced:
            if not is_probe:  # positions are made for the crops
                options['model.backbone.img_size'] = cfg.model.backbone.img_size
            kept = {k: v for k, v in cfg.model.backbone.items() if k in (
                'out_type', 'is_frozen', 'drop_path_rate', 'final_norm')}
            options = {f'+{key}': value for key, value in {
                'model.backbone._delete_': True, **options,
                **{f'model.backbone.{k}': v for k, v in kept.items()}}.items()}
        for key in WIDTHS:
            if (node := at(cfg, key)) is not None:
                options[key] = ([self.width] * len(node) if isinstance(node, (list, tuple))
                                else self.width)
        if self.method:
            options |= {'result.recipe': self.recipe, 'result.method': self.method}
        return options


def of_timm(name, checkpoint, is_untrained) -> Backbone:
    """A timm model with a file, with timm's own weights, or with random weights."""
    with torch.device('meta'):  # for its sizes alone
        vit = timm_vit(name)
    changes: dict[str, Any] = {'model.backbone.model_name': name}
    recipe, method, tag = name, name, ''
    if checkpoint:
        require_fit(vit, checkpoint)
        stem = Path(checkpoint).stem
        recipe, method = f'{name}-{stem}', f'{name} ({stem})'
        changes[INIT], tag = str(checkpoint), f'-{sha256(checkpoint)[:8]}'
    else:
        changes['model.backbone.init_cfg'] = None
        if is_untrained:
            recipe, method = f'{name}-untrained', f'untrained {name}'
        else:
            changes['model.backbone.pretrained'] = True
    return Backbone(as_name(recipe), method, vit.embed_dim, len(vit.blocks), changes, tag,
                    has_class_token=getattr(vit, 'cls_token', None) is not None)


def require_fit(vit, checkpoint) -> None:
    """Raises ValueError for a file of another network, before a run starts. vit: without memory."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # a tensor without memory takes no value
            load_timm(vit, checkpoint)
    except NotImplementedError:
        pass  # values must be compared (DINOv3's rotary periods): the run does that
    finally:
        logging.disable(before)


def of_file(checkpoint, offset) -> Backbone:
    """A ViT of MAE's architecture from a file: ours, MAE, iBOT, DINO, DeiT."""
    content = read_checkpoint(checkpoint)
    state = backbone_state(content, source=str(checkpoint))
    found, own = anatomy(state), at(content, 'meta.semmae') or {}
    width, depth, patch = found.get('width'), found['depth'], found.get('patch size')
    if patch is None or 'pos_embed' not in state:
        raise ValueError(f'{checkpoint} holds no ViT with patches and positions. Give the name of '
                         'its network: --timm NAME')
    stated = {key[len('model.backbone.'):]: value for key, value in (
        at(content, 'meta.semmae_config') or {}).items() if key.startswith(ARCH_FIELD)}
    if not stated:
        known: dict[Any, str] = BASE | {k: v[0] for k, v in ARCHS.items()}
        arch = known.get((width, depth))
        if arch is None or found['layer scale']:
            raise ValueError(f'{checkpoint}: a ViT {width} wide with {depth} layers'
                             f'{" and layer scale" if found["layer scale"] else ""}, whose number '
                             'of heads is not in the file. Give the name of its network: '
                             '--timm NAME')
        stated = {'arch': arch}
    side = round((state['pos_embed'].shape[1] - 1) ** .5) * patch
    name = own.get('id') or Path(checkpoint).stem
    if offset is None:
        offset = offset_of(content, name, checkpoint, bool(own))
    if offset is None:
        raise ValueError(f'{checkpoint}: positions are resized, and the file does not say how its '
                         'code does it. Add --interpolate-offset 0.1 for DINO, iBOT and AttMask, '
                         '--interpolate-offset 0 for MAE, DeiT and others, or --timm NAME')
    changes = {'model.backbone.type': 'semmae.ViT', 'model.backbone.img_size': side,
               'model.backbone.patch_size': patch, 'model.backbone.interpolate_offset': offset,
               **{f'model.backbone.{k}': v for k, v in stated.items()},
               'model.backbone.init_cfg.type': 'Pretrained', INIT: str(checkpoint)}
    return Backbone(as_name(name), '' if own else name, width, depth, changes,
                    f'-{sha256(checkpoint)[:8]}', is_replaced=True)


def as_name(text) -> str:
    """A text as an id and the name of a folder."""
    return re.sub(r'[^\w.+-]', '-', text)
