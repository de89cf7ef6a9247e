"""Loads weights strictly: a tensor that does not load is an error.

The loader of all stages. It reads tensors only (`read`), finds the backbone under any prefix,
translates the names of other projects (`layouts`), interpolates positions to another grid, and
refuses all other misfits.
"""
import math
import re

import torch
from mmengine.logging import MMLogger

from ..files import sha256, writable_file, write_atomically
from .layouts import OURS_TO_TIMM as OURS_TO_TIMM
from .layouts import (
    TABLE,
    TIMM_NAMES,
    VIT,
    WRAPPERS,
    advice,
    anatomy,
    for_mmpretrain,
    for_mmseg_mae,
    for_timm,
    renamed,
    resize_relative_positions,
    to_mmpretrain,
    whole,
    window_of,
)
from .read import local_file, read_checkpoint

# mmengine, lightning; MAE, DeiT; DINO, iBOT; I-JEPA
STATE_DICTS = ('state_dict', 'model', 'teacher', 'encoder')

LISTED = 8  # tensors that an error names

# Tensors that fine-tuning does not use.
MAY_BE_LEFT = re.compile(
    rf'^{WRAPPERS}(?:(ln1|ln2|norm|fc_norm|head|fc|neck|lm_head|pooler|classifier)\.|decoder|mask)'
    r'|relative_position_index$')
CONVERTERS = {'mmpretrain': for_mmpretrain, 'mmseg-mae': for_mmseg_mae, 'timm': for_timm}


def backbone_state(content: dict, checkpoint_key=None, source='the checkpoint') -> dict:
    """The ViT's tensors in a checkpoint, under mmpretrain's names; see `find_backbone`."""
    return find_backbone(content, checkpoint_key, source)[0]


def chosen_state(content: dict, checkpoint_key, source) -> tuple[dict, str]:
    """(the tensors of one state dict of a file, the names of all state dicts in it as a text).

    The arguments are those of `find_backbone`. Raises ValueError if none or more than one fits.
    """
    inside = [k for k, v in content.items()
              if isinstance(v, dict) and any(torch.is_tensor(x) for x in v.values())]
    say = f'state dicts in it: {", ".join(map(str, inside)) or "itself only"}'
    keys = [checkpoint_key] if checkpoint_key else [k for k in STATE_DICTS if k in inside]
    if len(keys) > 1 or not {*keys} <= {*inside}:
        wrong = 'more than one state dict' if len(keys) > 1 else f'no state dict {checkpoint_key!r}'
        raise ValueError(f'{source} holds {wrong}; {say}. Set checkpoint_key to one of them.')
    state = {k: v for k, v in (content[keys[0]] if keys else content).items()
             if torch.is_tensor(v) and isinstance(k, str)}
    return state, say


def find_backbone(content: dict, checkpoint_key=None, source='the checkpoint'):
    """(the ViT's tensors in a checkpoint under mmpretrain's names, names of those added as zeros).

    Reads mmengine (``state_dict``), MAE, SemMAE and BEiT (``model``), DINO and iBOT (full, or
    the extracted backbone), timm and Hugging Face files and bare state dicts, with ``module.``,
    ``backbone.``, ``encoder.`` and ``vit.`` in front in any order, or not. Tensors besides the
    ViT's (head, mask token) may be there too. Zeros: the position embedding that BEiT does not have
    (`layouts.to_mmpretrain`).
    checkpoint_key: which state dict of the file, for example 'student'. None takes the only one
        of `STATE_DICTS` in the file (for DINO and iBOT the teacher), else the file itself.
    source: what the messages call the file.

    Raises ValueError for no ViT, for more than one, for a duplicate tensor, and for a query, key or
    value without the others.
    """
    state, say = chosen_state(content, checkpoint_key, source)
    prefixes = sorted({found[1] for k in state if (found := VIT.match(k))})
    if len(prefixes) != 1:
        wrong = (f'{len(prefixes)} ViTs, under {prefixes}' if prefixes else
                 f'no ViT, its tensors are {sorted(state)[:5] or "none"}')
        raise ValueError(
            f'{source} holds {wrong}; {say}. Expected one cls_token, pos_embed, patch_embed and '
            'blocks or layers (or Hugging Face\'s embeddings and encoder.layer), with module., '
            'backbone., encoder. or vit. in front or not. checkpoint_key chooses another state '
            'dict.')
    return to_mmpretrain({k[len(prefixes[0]):]: v for k, v in state.items()
                          if k.startswith(prefixes[0])}, source)


def resize_position_embedding(pos_embed, old, new, num_extra=1, offset=0., mode='bicubic'):
    """A position embedding (1, extra + h * w, D) of the grid ``old`` (h, w) for the grid ``new``.

    offset: 0 interpolates to the size ``new``, as MAE and mmpretrain do. Otherwise by the factor
        (new + offset) / old, as DINO and iBOT do with 0.1, which shifts positions to the upper left
        (https://github.com/facebookresearch/dino/issues/8; DINOv2 calls it interpolate_offset).
    """
    if tuple(old) == tuple(new):
        return pos_embed
    extra, grid = pos_embed[:, :num_extra], pos_embed[:, num_extra:]
    grid = grid.reshape(1, *old, -1).permute(0, 3, 1, 2).float()
    to = (dict(scale_factor=tuple((n + offset) / o for n, o in zip(new, old, strict=True)))
          if offset else dict(size=tuple(new)))
    grid = torch.nn.functional.interpolate(grid, mode=mode, align_corners=False, **to)
    return torch.cat([extra, grid.flatten(2).transpose(1, 2).to(extra)], 1)


def misfits(state, own, may_be_new=None, may_be_left=None) -> list:
    """'name: what is wrong' for each tensor of a file that a model cannot load, or that it lacks.

    state, own: {name: tensor} of the file and of the model.
    may_be_new, may_be_left: patterns of names that only the model, or only the file, may have.
    """
    def shape(v):
        return f'({", ".join(map(str, v.shape))})'
    lines = []
    for name, mine in own.items():
        value = state.get(name)
        if value is None:
            if not (may_be_new and may_be_new.search(name)):
                lines.append(f'{name}: missing in the file, {shape(mine)} in the model')
        elif value.shape != mine.shape:
            lines.append(f'{name}: {shape(value)} in the file, {shape(mine)} in the model')
        elif value.is_floating_point() != mine.is_floating_point():
            lines.append(f'{name}: {value.dtype} in the file, {mine.dtype} in the model')
        elif wrong := int((~value.to(mine.dtype).isfinite()).sum()):
            lines.append(f'{name}: {wrong} of {value.numel()} values are NaN or infinite')
    return lines + [f'{k}: {shape(v)} in the file, unknown to the model' for k, v in state.items()
                    if k not in own and not (may_be_left and may_be_left.search(k))]


def listed(lines) -> str:
    """One line for each of the first `LISTED`, and the number of the others."""
    more = [f'and {len(lines) - LISTED} more'] if len(lines) > LISTED else []
    return ''.join(f'\n  {line}' for line in lines[:LISTED] + more)


def may_be_new(state) -> re.Pattern:
    """Names of tensors that fine-tuning may add to ``state``, if it has none of that kind.

    The kinds: pooled norm; relative positions, if the file has absolute ones.
    """
    kinds = [r'^ln2\.', *(['relative_position'] if 'pos_embed' in state else [])]
    return re.compile('|'.join(kind for kind in kinds if not any(re.search(kind, k) for k in state))
                      or '(?!)')


def fit_positions(state, own, model) -> list:
    """Interpolate positions in ``state`` to the grid of ``model``; returns what was resized.

    own: the model's tensors. `misfits` reports all other differences.
    """
    new = getattr(model, 'patch_resolution', None) or model.patch_embed.grid_size
    resized: dict[str, None] = {}
    for name, mine in own.items():
        theirs = state.get(name)
        if theirs is None or theirs.shape == mine.shape or theirs.ndim != mine.ndim \
                or theirs.shape[-1] != mine.shape[-1] or not theirs.is_floating_point():
            continue
        if name == 'pos_embed':
            num_extra = mine.shape[1] - new[0] * new[1]
            side = math.isqrt(max(theirs.shape[1] - num_extra, 0))
            if not side or side ** 2 + num_extra != theirs.shape[1]:
                continue
            state[name] = resize_position_embedding(
                theirs.to(mine.dtype), (side, side), new, num_extra,
                offset=getattr(model, 'interpolate_offset', 0.))
        elif name.endswith(TABLE) and window_of(theirs):
            state[name] = resize_relative_positions(theirs.to(mine.dtype), new)
        else:
            continue
        what = re.sub(r'\.\d+\.', '.*.', name)  # one entry for all layers
        resized[f'{what} {tuple(theirs.shape)} -> {tuple(mine.shape)}'] = None
    return list(resized)


def load_backbone(model, path, names=(), checkpoint_key=None) -> dict:
    """Fill ``model`` from ``path`` (or an http(s) address) and return the load report.

    model: ``semmae.ViT`` or timm's VisionTransformer; weights are cast to its dtype.
    names: renames mmpretrain's names into the model's (`OURS_TO_TIMM` for a timm ViT).
    checkpoint_key: which state dict of the file; see `find_backbone`.

    Raises ValueError that lists the tensors, and loads nothing, if a tensor of the model is not in
    the file (except `may_be_new`), if a shape other than that of positions differs, if a value is
    NaN or infinite, or if the file holds layers that the model does not have.
    Report: path, sha256, matched, new (not in the file), zeros (new ones that are set to 0:
    the position embedding for BEiT), left, resized, recipe (of our own pre-training, else None).
    """
    content, own = read_checkpoint(path), model.state_dict()
    found, zeros = find_backbone(content, checkpoint_key, str(path))
    state = renamed(found, names)
    resized = fit_positions(state, own, model)
    wrong = misfits(state, own, may_be_new(state), MAY_BE_LEFT)
    if wrong:
        ours = renamed(own, TIMM_NAMES)
        theirs, mine = anatomy(found), anatomy(ours)
        words = [f'{what} {theirs[what]} in the file, {mine[what]} in the model; '
                 for what in ('width', 'channels', 'patch size', 'depth')
                 if what in theirs and theirs[what] != mine.get(what)]
        raise ValueError(
            f'{path} does not fit the backbone: {"".join(words)}'
            f'{len(wrong)} tensors differ from the {len(own)} of {type(model).__name__}:'
            f'{listed(wrong)}\n{advice(found, ours)}')
    matched = [k for k in own if k in state]
    model.load_state_dict({k: state[k] for k in matched}, strict=False)
    zeros = [k for k in matched if k in zeros]
    meta = content.get('meta')
    report = dict(path=str(path), sha256=sha256(local_file(path)),
                  matched=len(matched) - len(zeros), zeros=zeros,
                  new=sorted({*own} - {*matched} | {*zeros}),
                  left=len(set(state) - set(own)), resized=resized,
                  recipe=meta.get('semmae') if isinstance(meta, dict) else None)
    MMLogger.get_current_instance().info(
        f'{path}: {report["matched"]} of {len(own)} backbone tensors loaded, '
        f'new: {report["new"] or "none"}, resized: {resized or "none"}'
        + (f', zeros, because BEiT has none: {zeros}' if zeros else ''))
    return report


def load_whole(model, path, content=None) -> dict:
    """Fill every tensor of ``model`` from an mmengine checkpoint; returns the file's ``meta``.

    content: of the file, if it was read already.
    Raises ValueError with a list of the tensors if any is missing, unknown, of another shape or
    not finite.
    """
    content = content or read_checkpoint(path)
    state = content.get('state_dict', content)
    wrong = misfits({k: v for k, v in state.items() if torch.is_tensor(v)}, model.state_dict())
    if wrong:
        raise ValueError(f'{path} is not a checkpoint of this config: {len(wrong)} tensors differ:'
                         f'{listed(wrong)}\nGive the config that trained it.')
    model.load_state_dict(state)
    return content.get('meta', {})


def convert(src, dst, to) -> int:
    """Write the ViT of ``src`` to ``dst`` under another library's names; returns the tensor count.

    to: 'mmpretrain' (a .pth has ``state_dict`` and ``backbone.`` as its own checkpoints; a BEiT
    becomes its BEiTViT), 'mmseg-mae' (bare names, as mmseg's MAE backbone needs them) or 'timm'.

    Raises ValueError, and writes nothing, if a tensor of the ViT is missing, unknown, of a wrong
    shape or not finite, and for a network that ``to`` does not have.
    """
    dst = writable_file(dst, ('.pth', '.safetensors'), 'DST')
    state = {k: v.contiguous() for k, v in backbone_state(
        read_checkpoint(src), source=str(src)).items()
        if k.startswith(('ln1.', 'ln2.')) or not MAY_BE_LEFT.search(k)}
    weight = state.get('patch_embed.projection.weight')
    if weight is None or weight.ndim != 4:
        raise ValueError(f'{src} holds no ViT: no patch embedding among {sorted(state)[:3]} ...')
    expected = whole(state)
    if wrong := misfits(state, expected):
        raise ValueError(f'{src} holds an incomplete ViT: {len(wrong)} tensors differ from the '
                         f'{len(expected)} of one {len(weight)} wide:{listed(wrong)}\n'
                         'Get the file again, or give another one.')
    state = CONVERTERS[to](state, str(src))
    if to == 'mmpretrain' and dst.suffix == '.pth':
        state = dict(state_dict={f'backbone.{k}': v for k, v in state.items()})
    if dst.suffix == '.safetensors':
        from safetensors.torch import save
        write_atomically(dst, lambda f: f.write(save(state)))
    else:
        write_atomically(dst, lambda f: torch.save(state, f))
    return len(state.get('state_dict', state))
