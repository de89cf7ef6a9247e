"""Loads files of many projects into a vision transformer of timm, strictly.

The names of a file become those of the official repositories (`official_names`), and timm's own
``checkpoint_filter_fn`` makes timm's of them. That filter drops tensors, resizes patch embeddings
and skips what it does not know (timm 1.0.31, models/vision_transformer.py and models/eva.py). So
tensors that it would drop although they matter are kept away from it (`hold_back`), and the result
must fill the model.
"""
import inspect
import math
import re

import torch
from mmengine.logging import MMLogger
from timm.models.vision_transformer import VisionTransformer

from ..files import sha256
from .layouts import TABLE, anatomy, renamed
from .load import MAY_BE_LEFT, listed, misfits
from .official_names import official_names
from .read import local_file, read_checkpoint

# Besides `MAY_BE_LEFT`: a model without it does not pool by attention. head_dist: DeiT's.
LEFT = re.compile(rf'{MAY_BE_LEFT.pattern}|^(?:attn_pool|head_dist)\.')
DINOV2 = re.compile(r'^register_tokens$|\.mlp\.w12\.')
PERIODS = 'rope_embed.periods'  # of DINOv3's rotary positions; timm computes its own


def load_timm(vit, path, checkpoint_key=None) -> dict:
    """Fill ``vit`` from ``path`` (or an http(s) address) and return the load report.

    vit: a timm model with ``num_classes=0``; weights are cast to its dtype.
    path: a file with the names of timm, of the official repository (MAE, DINO, DINOv2, DINOv3,
        DeiT, I-JEPA, EVA-02, ...), of transformers, or of mmpretrain and ``semmae.ViT``; its
        tensors may have ``module.``, ``backbone.``, ``backbone.vit.`` or another prefix.
    checkpoint_key: which state dict of the file; see `load.find_backbone`. I-JEPA's default is
        ``encoder``, as in timm and transformers; its other one is ``target_encoder``.

    Positions of another grid are resized as timm does (bicubic, antialiased). A class position is
    added to the class token if the model has positions for patches only, as DINOv2 with registers.
    Raises ValueError that lists the tensors, and loads nothing, if any other tensor of the model is
    missing, of another shape or not finite, or if the file holds tensors that the model does not
    have (except heads, decoders and mask tokens). The report has the keys of `load.load_backbone`.
    """
    content, own = read_checkpoint(path), vit.state_dict()
    found = official_names(content, checkpoint_key, str(path), own)
    state, changed = timm_names(found, vit, own, str(path))
    wrong = misfits(state, own, may_be_left=LEFT)
    if wrong:
        raise ValueError(
            f'{path} does not fit {name_of(vit)}: {differences(found, own)}{len(wrong)} tensors '
            f'differ from the {len(own)} of the model:{listed(wrong)}\n{advice(state, own)}')
    vit.load_state_dict({k: state[k] for k in own})
    meta = content.get('meta')
    MMLogger.get_current_instance().info(
        f'{path}: all {len(own)} tensors of {name_of(vit)} loaded, resized: {changed or "none"}')
    return dict(path=str(path), sha256=sha256(local_file(path)), matched=len(own), zeros=[], new=[],
                left=len(set(state) - set(own)), resized=changed,
                recipe=meta.get('semmae') if isinstance(meta, dict) else None)


def timm_names(found, vit, own, source) -> tuple[dict, list]:
    """(``found`` under the names of timm's model ``vit``, what was resized).

    found: tensors under official names. Tensors that do not fit keep their names and shapes, for
    `misfits`.
    """
    state = dict(found)
    if 'blocks.0.gamma_1' in own:  # Eva
        state = renamed(state, [(r'\.ls(\d)\.gamma$', r'.gamma_\1')], source)
    held = hold_back(state, vit, own)
    for name in ('cls_token', 'pos_embed'):
        if name in state and name in own and state[name].is_floating_point():
            state[name] = state[name].to(own[name].dtype)
    translated = filtered(state, vit)
    return translated | held, resized(state, translated)


def resized(before, after) -> list:
    """'name old shape -> new shape' of positions that timm's filter resized; one for all layers."""
    found: dict[str, None] = {}
    for name, new in after.items():
        old = before.get(name)
        if old is None or not name.endswith(('pos_embed', TABLE)) or min(old.ndim, new.ndim) < 2:
            continue
        if not old[:, -new.shape[1]:].equal(new):  # equal also without the class position
            what = re.sub(r'\.\d+\.', '.*.', name)
            found[f'{what} {tuple(old.shape)} -> {tuple(new.shape)}'] = None
    return list(found)


def filtered(state, vit) -> dict:
    """``state`` after timm's filter for the class of ``vit``; ``state`` itself if that fails."""
    translate = getattr(inspect.getmodule(type(vit)), 'checkpoint_filter_fn', None)
    if translate is None:
        return state
    options = {}
    if 'adapt_layer_scale' in inspect.signature(translate).parameters:
        options['adapt_layer_scale'] = True  # of DeiT-III
    try:
        return translate(dict(state), vit, **options)
    except Exception:  # a file can cause any error; `misfits` names the tensors
        return state


def hold_back(state, vit, own) -> dict:
    """Remove from ``state`` what timm's filter must not drop or resize; returns it.

    state: tensors under official names; it changes in place. own: the tensors of the model.
    """
    held = biases(state, own)
    periods = getattr(getattr(vit, 'rope', None), 'periods', torch.empty(0)).float().cpu()
    if PERIODS in state and state[PERIODS].shape == periods.shape and torch.allclose(
            state[PERIODS].float(), periods, rtol=1e-2):  # the official files are in bfloat16
        del state[PERIODS]
    weight = state.get(name := 'patch_embed.proj.weight')
    is_patch = weight is None or name not in own or weight.shape == own[name].shape
    is_class = 'cls_token' not in state or state['cls_token'].is_floating_point()
    for name, fits in (('patch_embed.proj.weight', is_patch), ('cls_token', is_class),
                       ('pos_embed', has_positions(state, vit, own)), (PERIODS, False)):
        if not fits and name in state:
            held[name] = state.pop(name)
    if 'norm.weight' in own:
        state.pop('mask_token', None)  # with it the filter for Eva makes a pooled norm of this one
    if 'register_tokens' in state and 'blocks.0.gamma_1' in own:
        state['storage_tokens'] = state.pop('register_tokens')  # DINOv3 of transformers
    if isinstance(vit, VisionTransformer) and any(DINOV2.search(k) for k in state):
        state['mask_token'] = torch.empty(0)  # by it the filter knows DINOv2; it drops it
    return held


def biases(state, own) -> dict:
    """Remove the biases of q, k and v from ``state``; returns them under the names of ``own``.

    A bias that the model does not have must be 0 (that of k in DINOv3 and EVA); one that is not
    keeps its name, which the model does not have.
    """
    found: dict[str, torch.Tensor] = {}
    for name in [k for k in state if k.endswith('.attn.qkv.bias')]:
        bias, mask = state.pop(name), state.get(f'{name}_mask')
        if mask is not None and mask.shape == bias.shape:  # DINOv3: 0 for k
            bias = bias * state.pop(f'{name}_mask').to(bias)
        q, k, v = bias.chunk(3) if bias.ndim and len(bias) % 3 == 0 else (bias, bias, bias)
        parts = {name.replace('qkv.bias', 'q_bias'): q, name.replace('qkv.bias', 'v_bias'): v}
        if name not in own and parts.keys() <= own.keys() and not k.any():
            found |= parts
        elif name in own or bias.any():
            found[name] = bias
    return found


def has_positions(state, vit, own) -> bool:
    """Whether timm's filter can resize the positions in ``state``, or has nothing to resize."""
    theirs, mine = state.get('pos_embed'), own.get('pos_embed')
    if theirs is None or mine is None:
        return True
    if theirs.ndim != 3 or theirs.shape[-1] != mine.shape[-1] or not theirs.is_floating_point():
        return False
    height, width = vit.patch_embed.grid_size
    count = theirs.shape[1] - (mine.shape[1] - height * width)
    count -= 'register_tokens' in state  # DINOv2: the class position goes to the class token
    return count == height * width or (count > 0 and math.isqrt(count) ** 2 == count)


def name_of(vit) -> str:
    """timm's name of the model, or its class."""
    return (getattr(vit, 'pretrained_cfg', None) or {}).get('architecture') or type(vit).__name__


def differences(found, own) -> str:
    """'width 48 in the file, 24 in the model; ' for each size that differs."""
    sizes = []
    for state in (found, own):
        registers = next((state[k] for k in ('register_tokens', 'storage_tokens', 'reg_token')
                          if k in state), torch.empty(1, 0, 0))
        sizes.append(anatomy({re.sub(r'^blocks\.(\d+)\.', r'layers.\1.', k).replace(
            'patch_embed.proj.', 'patch_embed.projection.'): v for k, v in state.items()})
            | {'registers': registers.shape[1] if registers.ndim == 3 else 0})
    theirs, mine = sizes
    return ''.join(f'{what} {theirs[what]} in the file, {mine[what]} in the model; '
                   for what in ('width', 'channels', 'patch size', 'depth', 'registers')
                   if what in theirs and theirs[what] != mine.get(what))


def advice(state, own) -> str:
    """Text: what to set if the tensors ``state`` of a file do not fit the model's ``own``."""
    def only(name, here, there):
        return any(name in k for k in here) and not any(name in k for k in there)
    if not state.keys() & own.keys():
        return f'No tensor has the name of one of the model; they are {sorted(state)[:5]}.'
    if only('attn.qkv.bias', state, own):
        return ("The file has a bias of q, k and v: take timm's model of the same name with _qkvb, "
                'if there is one.')
    if only('fc_norm.', own, state):
        return ("The model has a norm after pooling, which the file does not have: set "
                "global_pool='token', or fc_norm=False.")
    if only('attn_pool.', own, state):
        return "The file has no attention pooling: set global_pool='avg' or 'token'."
    return ("Take timm's model of the checkpoint, or another checkpoint; "
            'timm.list_models("vit*") lists the names.')
