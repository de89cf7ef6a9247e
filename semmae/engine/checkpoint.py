"""Weights in, strictly: what does not load is an error, and nothing in a file is ever executed.

One loader for every stage. It reads tensors only, finds the backbone whatever the file calls it,
translates timm's names (MAE, DINO, iBOT, timm use them) into mmpretrain's, interpolates the
position embedding where the grid differs, and refuses everything else that does not fit.
"""
import pickle
import re
from pathlib import Path

import numpy as np
import torch
from mmengine.fileio import LocalBackend, register_backend
from mmengine.logging import HistoryBuffer, MMLogger
from mmengine.runner import CheckpointLoader

from ..files import sha256, write_atomically


def _statistics_of_history(owner, name):
    """``getattr`` for what mmengine's log buffers need it for, and for nothing else."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise pickle.UnpicklingError(f'the file asks for getattr({owner!r}, {name!r})')
    return getattr(owner, name)


# Plain containers of numbers that mmengine writes beside the weights.
_numpy = np._core if hasattr(np, '_core') else np.core  # numpy 2 and 1
SAFE = [HistoryBuffer, (_statistics_of_history, 'builtins.getattr'), np.ndarray, np.dtype,
        _numpy.multiarray._reconstruct,
        _numpy.multiarray.scalar,
        *{type(np.dtype(t)) for t in ('f8', 'f4', 'f2', 'i8', 'i4', 'i2', 'i1', 'u1', 'b1')}]

OURS_TO_TIMM = [(r'^layers\.(\d+)\.ln(\d)\.', r'blocks.\1.norm\2.'),
                (r'^layers\.(\d+)\.ffn\.layers\.0\.0\.', r'blocks.\1.mlp.fc1.'),
                (r'^layers\.(\d+)\.ffn\.layers\.1\.', r'blocks.\1.mlp.fc2.'),
                (r'^layers\.', r'blocks.'),
                (r'^patch_embed\.projection\.', r'patch_embed.proj.'),
                (r'^ln2\.', r'fc_norm.'),
                (r'^ln1\.', r'norm.')]
TIMM_NAMES = [(r'^blocks\.(\d+)\.norm(\d)\.', r'layers.\1.ln\2.'),
              (r'^blocks\.(\d+)\.mlp\.fc1\.', r'layers.\1.ffn.layers.0.0.'),
              (r'^blocks\.(\d+)\.mlp\.fc2\.', r'layers.\1.ffn.layers.1.'),
              (r'^blocks\.', r'layers.'),
              (r'^patch_embed\.proj\.', r'patch_embed.projection.'),
              (r'^fc_norm\.', r'ln2.'),
              (r'^norm\.', r'ln1.')]

# Tensors that pre-training does not have (new in fine-tuning) or that fine-tuning does not want.
MAY_BE_NEW = re.compile(r'^ln2\.|relative_position|^relative_position')
MAY_BE_LEFT = re.compile(r'^(ln1|ln2|norm|fc_norm|head|fc|neck)\.|^decoder|^mask')


class AtomicBackend(LocalBackend):
    """mmengine's local files, written beside their place, synced and renamed.

    A run killed while it saves leaves the last complete checkpoint, never half of a new one.
    """

    def put(self, obj, filepath):
        Path(filepath).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(filepath, lambda f: f.write(obj))

    def put_text(self, obj, filepath, encoding='utf-8'):
        self.put(obj.encode(encoding), filepath)


register_backend('local', AtomicBackend, force=True, prefixes='')


def read_checkpoint(path, map_location='cpu') -> dict:
    """A checkpoint's content as tensors and plain values; never runs code from the file."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'no checkpoint at {path}; train it first, or give another path')
    if path.suffix == '.safetensors':
        from safetensors.torch import load_file
        return load_file(path)
    try:
        with torch.serialization.safe_globals(SAFE):
            return torch.load(path, map_location=map_location, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        lines = [line for line in str(error).splitlines() if 'Error' in line or 'error' in line]
        first = (lines or str(error).splitlines() or [type(error).__name__])[0].strip()
        raise ValueError(
            f'{path} ({path.stat().st_size} bytes) is not a checkpoint that can be read as plain '
            f'tensors: {first}. Expected a file written by torch.save or safetensors with weights '
            'only; it was not executed.') from error


def for_mmengine(filename, map_location=None, logger=None):
    """mmengine's loader for local files: ours, without its fallback to unsafe unpickling."""
    return read_checkpoint(filename, map_location or 'cpu')


# prefixes='' is every path without a scheme.
CheckpointLoader.register_scheme(prefixes='', loader=for_mmengine, force=True)


def backbone_state(content: dict) -> dict:
    """The ViT's tensors in a checkpoint, under mmpretrain's names.

    Understands mmengine (``state_dict``), MAE (``model``), DINO and iBOT (``teacher``) files and
    bare state dicts, with ``module.``, ``backbone.``, ``encoder.`` in front or not.
    """
    state = content
    for key in ('state_dict', 'model', 'teacher'):
        if isinstance(state.get(key), dict):
            state = state[key]
            break
    state = {k: v for k, v in state.items() if torch.is_tensor(v)}
    for prefix in ('module.', 'backbone.', 'encoder.'):
        inside = {k[len(prefix):]: v for k, v in state.items() if k.startswith(prefix)}
        if inside:
            state = inside
    if any(k.startswith('blocks.') for k in state):
        state = renamed(state, TIMM_NAMES)
    return state


def renamed(state, names) -> dict:
    """``state`` with every (pattern, replacement) of ``names`` applied to its keys, in order."""
    for pattern, name in names:
        state = {re.sub(pattern, name, k): v for k, v in state.items()}
    return state


def resize_position_embedding(pos_embed, wanted: int, num_extra: int = 1):
    """(1, extra + L, D) interpolated bicubically to (1, extra + wanted, D); square grids."""
    old, new = round((pos_embed.shape[1] - num_extra) ** .5), round(wanted ** .5)
    extra, grid = pos_embed[:, :num_extra], pos_embed[:, num_extra:]
    grid = grid.reshape(1, old, old, -1).permute(0, 3, 1, 2).float()
    grid = torch.nn.functional.interpolate(grid, (new, new), mode='bicubic', align_corners=False)
    return torch.cat([extra, grid.flatten(2).transpose(1, 2).to(extra)], 1)


def latest(work_dir):
    """The checkpoint with the highest number in a work directory, or None."""
    found = [p for kind in ('epoch', 'iter') for p in Path(work_dir).glob(f'{kind}_*.pth')
             if p.stem.split('_')[1].isdigit()]
    return max(found, key=lambda p: int(p.stem.split('_')[1]), default=None)


def load_backbone(model, path, names=()) -> dict:
    """Fill ``model`` from ``path`` and return the load report.

    names: renames mmpretrain's names into the model's (`OURS_TO_TIMM` for a timm ViT).

    Raises ValueError if any tensor of the model stays as it was initialised (but those that
    fine-tuning adds: relative position bias, pooled norm), if a shape other than the position
    embedding's differs, or if the file holds layers that the model does not have.
    Report: path, sha256, matched, new, left, resized, recipe (of our own pre-training, else None).
    """
    content = read_checkpoint(path)
    state, own = renamed(backbone_state(content), names), model.state_dict()
    resized = []
    if 'pos_embed' in state and 'pos_embed' in own \
            and state['pos_embed'].shape != own['pos_embed'].shape:
        resized.append(f"pos_embed {tuple(state['pos_embed'].shape)} -> "
                       f"{tuple(own['pos_embed'].shape)}")
        state['pos_embed'] = resize_position_embedding(
            state['pos_embed'], own['pos_embed'].shape[1] - 1)
    missing = [k for k in own if k not in state and not MAY_BE_NEW.search(k)]
    left = [k for k in state if k not in own]
    strange = [k for k in left if not MAY_BE_LEFT.search(k)]
    shapes = [f'{k} {tuple(state[k].shape)} in the file, {tuple(own[k].shape)} in the model'
              for k in own if k in state and state[k].shape != own[k].shape]
    if missing or strange or shapes:
        say = [f'{len(v)} {what} (first: {v[0]})' for what, v in
               (('tensors missing', missing), ('tensors unknown', strange),
                ('shapes differ', shapes)) if v]
        raise ValueError(
            f'{path} does not fit the backbone: {"; ".join(say)}. '
            f'Expected {len(own)} tensors of {type(model).__name__}; check arch, patch_size and '
            'depth of model.backbone against the checkpoint.')
    matched = [k for k in own if k in state]
    model.load_state_dict({k: state[k] for k in matched}, strict=False)
    meta = content.get('meta')
    report = dict(path=str(path), sha256=sha256(path), matched=len(matched),
                  new=sorted(set(own) - set(matched)), left=len(left), resized=resized,
                  recipe=meta.get('semmae') if isinstance(meta, dict) else None)
    MMLogger.get_current_instance().info(
        f'{path}: {len(matched)} of {len(own)} backbone tensors loaded, '
        f'new: {report["new"] or "none"}, resized: {resized or "none"}')
    return report


def load_whole(model, path) -> dict:
    """Fill every tensor of ``model`` from an mmengine checkpoint; returns the file's ``meta``."""
    content = read_checkpoint(path)
    state = content.get('state_dict', content)
    keys, own = set(state), model.state_dict()
    shapes = [k for k in own if k in keys and state[k].shape != own[k].shape]
    missing, strange = sorted(set(own) - keys), sorted(keys - set(own))
    if missing or strange or shapes:
        raise ValueError(
            f'{path} is not a checkpoint of this config: {len(missing)} tensors missing '
            f'{missing[:2]}, {len(strange)} unknown {strange[:2]}, {len(shapes)} of another shape '
            f'{shapes[:2]}. Give the config that trained it.')
    model.load_state_dict(state)
    return content.get('meta', {})


def convert(src, dst, to) -> int:
    """Write the ViT of ``src`` to ``dst`` under another library's names; returns the tensor count.

    to: 'mmpretrain' (in .pth behind ``state_dict`` and ``backbone.``, as its own checkpoints),
    'mmseg-mae' (bare names, the only ones that mmseg's MAE backbone loads) or 'timm'.
    """
    dst = Path(dst)
    if dst.suffix not in ('.pth', '.safetensors'):
        raise ValueError(f'{dst}: expected a name that ends in .pth or .safetensors')
    state = {k: v.contiguous() for k, v in backbone_state(read_checkpoint(src)).items()
             if k.startswith(('ln1.', 'ln2.')) or not MAY_BE_LEFT.search(k)}
    if 'patch_embed.projection.weight' not in state:
        raise ValueError(f'{src} holds no ViT: no patch embedding among {sorted(state)[:3]} ...')
    if to == 'timm':
        state = renamed(state, OURS_TO_TIMM)
    elif to == 'mmpretrain' and dst.suffix == '.pth':
        state = dict(state_dict={f'backbone.{k}': v for k, v in state.items()})
    if dst.suffix == '.safetensors':
        from safetensors.torch import save
        write_atomically(dst, lambda f: f.write(save(state)))
    else:
        write_atomically(dst, lambda f: torch.save(state, f))
    return len(state.get('state_dict', state))
