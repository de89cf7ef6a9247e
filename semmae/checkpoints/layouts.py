"""ViT checkpoints of other projects under mmpretrain's names.

Each table is a list of (pattern, replacement), applied in order to the name of each tensor:
`TIMM_NAMES` for timm, DeiT, MAE, SemMAE, DINO, iBOT and BEiT, `HUGGING_FACE_NAMES` for ViTMAE and
ViT of transformers (its files, and its modules since version 5). `to_mmpretrain` also joins q, k
and v, and adds what BEiT does not have.
"""
import math
import re
from collections import Counter

import torch

TIMM_NAMES = [(r'^blocks\.(\d+)\.norm(\d)\.', r'layers.\1.ln\2.'),
              (r'^blocks\.(\d+)\.mlp\.fc1\.', r'layers.\1.ffn.layers.0.0.'),
              (r'^blocks\.(\d+)\.mlp\.fc2\.', r'layers.\1.ffn.layers.1.'),
              (r'^blocks\.(\d+)\.ls1\.gamma$', r'layers.\1.attn.gamma1.weight'),
              (r'^blocks\.(\d+)\.ls2\.gamma$', r'layers.\1.ffn.gamma2.weight'),
              (r'^blocks\.', r'layers.'),
              (r'^patch_embed\.proj\.', r'patch_embed.projection.'),
              (r'^fc_norm\.', r'ln2.'),
              (r'^norm\.', r'ln1.')]
OURS_TO_TIMM = [(r'^layers\.(\d+)\.ln(\d)\.', r'blocks.\1.norm\2.'),
                (r'^layers\.(\d+)\.ffn\.layers\.0\.0\.', r'blocks.\1.mlp.fc1.'),
                (r'^layers\.(\d+)\.ffn\.layers\.1\.', r'blocks.\1.mlp.fc2.'),
                (r'^layers\.(\d+)\.attn\.gamma1\.weight$', r'blocks.\1.ls1.gamma'),
                (r'^layers\.(\d+)\.ffn\.gamma2\.weight$', r'blocks.\1.ls2.gamma'),
                (r'^layers\.', r'blocks.'),
                (r'^patch_embed\.projection\.', r'patch_embed.proj.'),
                (r'^ln2\.', r'fc_norm.'),
                (r'^ln1\.', r'norm.')]
HUGGING_FACE_NAMES = [
    (r'^embeddings\.position_embeddings$', r'pos_embed'),
    (r'^embeddings\.patch_embeddings\.', r'patch_embed.'),
    (r'^embeddings\.', r''),  # cls_token, mask_token
    (r'^encoder\.layer\.', r'layers.'),
    (r'^(layers\.\d+)\.layernorm_before\.', r'\1.ln1.'),
    (r'^(layers\.\d+)\.layernorm_after\.', r'\1.ln2.'),
    (r'^(layers\.\d+)\.attention\.(?:attention\.(query|key|value)|([qkv])_proj)\.',
     r'\1.attn.\2\3.'),
    (r'^(layers\.\d+)\.attention\.(?:output\.dense|o_proj)\.', r'\1.attn.proj.'),
    (r'^(layers\.\d+)\.(?:intermediate\.dense|mlp\.fc1)\.', r'\1.ffn.layers.0.0.'),
    (r'^(layers\.\d+)\.(?:output\.dense|mlp\.fc2)\.', r'\1.ffn.layers.1.'),
    (r'^layernorm\.', r'ln1.')]

# BEiT's layer scale, in its own files, in timm's Beit and in both libraries of OpenMMLab.
GAMMA_TO_OURS = [(r'^(layers\.\d+)\.gamma_1$', r'\1.attn.gamma1.weight'),
                 (r'^(layers\.\d+)\.gamma_2$', r'\1.ffn.gamma2.weight')]
OURS_TO_GAMMA = [(r'^(layers\.\d+)\.attn\.gamma1\.weight$', r'\1.gamma_1'),
                 (r'^(layers\.\d+)\.ffn\.gamma2\.weight$', r'\1.gamma_2')]

# Prefixes of a ViT's own names, in any order, of DDP, DINO, this package, compile, Hugging Face.
WRAPPERS = r'(?:(?:module|backbone|encoder|_orig_mod|vit)\.)*'
VIT = re.compile(rf'({WRAPPERS})(?:(?:cls_token|pos_embed)$|(?:patch_embed|blocks|layers|embeddings'
                 r'|encoder\.layer)\.)')

QKV_PART = re.compile(
    r'^((?:layers|blocks)\.\d+\.attn)\.([qkv])(?:uery|ey|alue)?([._])(weight|bias)$')
TABLE = 'relative_position_bias_table'
CLASS_ENTRIES = 3  # at the end of a table: class to patch, patch to class, class to class


def renamed(state, names, source='the state dict') -> dict:
    """``state`` with every (pattern, replacement) of ``names`` applied to its keys, in order.

    Raises ValueError if two tensors get the same name. source: what the message calls ``state``.
    """
    keys = list(state)
    for pattern, name in names:
        keys = [re.sub(pattern, name, k) for k in keys]
    twice = [k for k, count in Counter(keys).items() if count > 1]
    if twice:
        raise duplicate(source, twice)
    return dict(zip(keys, state.values(), strict=True))


def duplicate(source, names):
    """The ValueError for tensors that a file contains twice."""
    return ValueError(f"{source} holds tensors under another project's and under mmpretrain's "
                      f'names: {", ".join(names[:8])}. Expected each once.')


def to_mmpretrain(state, source='the state dict') -> tuple[dict, list]:
    """(``state`` under mmpretrain's names, the names in it that the file does not have).

    q, k and v become one tensor. BEiT (https://github.com/microsoft/unilm, beit/) has no bias of k:
    it is 0. A relative position bias that all layers share (pre-training) is copied to each. A file
    with BEiT's biases and relative positions but no position embedding gets one of zeros, which the
    second value names.

    Raises ValueError for a duplicate tensor, and for a q, k or v without the other two.
    """
    if any(k.startswith(('embeddings.', 'encoder.layer.')) for k in state):
        state = renamed(state, HUGGING_FACE_NAMES, source)
    elif any(k.startswith('blocks.') for k in state):
        state = renamed(state, TIMM_NAMES, source)
    state = renamed(state, GAMMA_TO_OURS, source)
    is_beit = any((part := QKV_PART.match(k)) and part[3] == '_' for k in state)
    state = with_one_qkv(state, source)
    shared = state.pop(f'rel_pos_bias.{TABLE}', None)
    if shared is not None:
        layers = {k.split('.')[1]: None for k in state if k.startswith('layers.')}
        tables = {f'layers.{i}.attn.{TABLE}': shared.clone() for i in layers}
        if twice := [k for k in tables if k in state]:
            raise duplicate(source, twice)
        state |= tables
    table = next((v for k, v in state.items() if k.endswith(TABLE)), None)
    cls_token = state.get('cls_token', torch.empty(()))
    if is_beit and table is not None and 'pos_embed' not in state and cls_token.ndim \
            and (side := window_of(table)):
        state['pos_embed'] = cls_token.new_zeros(1, 1 + side ** 2, cls_token.shape[-1])
        return state, ['pos_embed']
    return state, []


def with_one_qkv(state, source) -> dict:
    """``state`` with q, k, v of each layer (``attn.q_bias``, ``attn.query.weight``) joined to qkv.

    Hugging Face has all three; BEiT has biases of q and v, and that of k is 0.
    """
    out: dict[str, torch.Tensor] = {}
    found: dict[tuple, dict[str, str]] = {}
    for name, tensor in state.items():
        part = QKV_PART.match(name)
        if part:
            found.setdefault((part[1], part[4]), {})[part[2]] = name
        else:
            out[name] = tensor
    for (attn, kind), names in found.items():
        parts = {letter: state[name] for letter, name in names.items()}
        if f'{attn}.q_bias' in names.values() and 'k' not in parts:
            parts['k'] = torch.zeros_like(parts['q'])
        if set(parts) != set('qkv') or len({(p.shape, p.dtype) for p in parts.values()}) > 1 \
                or not parts['q'].ndim:
            shapes = ', '.join(f'{n} {tuple(state[n].shape)}' for n in sorted(names.values()))
            raise ValueError(
                f'{source}: got {shapes} for q, k and v of {attn}.qkv.{kind}; expected all of '
                'them (in BEiT q_bias and v_bias), of one shape and type. A tensor is missing or '
                'damaged. Get the file again.')
        if f'{attn}.qkv.{kind}' in out:
            raise duplicate(source, [f'{attn}.qkv.{kind}'])
        out[f'{attn}.qkv.{kind}'] = torch.cat([parts[letter] for letter in 'qkv'])
    return out


def window_of(table):
    """Side of the square window of patches of a table ((2 side - 1)^2 + 3, heads), or None."""
    width = math.isqrt(max(len(table) - CLASS_ENTRIES, 0)) if table.ndim == 2 else 0
    is_square = width % 2 and width ** 2 + CLASS_ENTRIES == len(table)
    return (width + 1) // 2 if is_square else None


def resize_relative_positions(table, new):
    """A table of a square window for the window ``new`` (h, w): ((2h-1) (2w-1) + 3, heads).

    Bicubic over the grid of offsets, as timm's `resize_rel_pos_bias_table_simple`: all distances
    grow with the window. The three entries of the class token stay. Deviation: the code of BEiT and
    mmseg keeps small distances and stretches large ones more.
    """
    width, (h, w) = 2 * window_of(table) - 1, new
    grid = table[:-CLASS_ENTRIES].mT.reshape(1, -1, width, width).float()
    grid = torch.nn.functional.interpolate(grid, (2 * h - 1, 2 * w - 1), mode='bicubic',
                                           align_corners=False)
    return torch.cat([grid[0].flatten(1).mT.to(table), table[-CLASS_ENTRIES:]])


def anatomy(state) -> dict:
    """Patch size, width, depth and BEiT's parts of a ViT, from its tensors (mmpretrain's names)."""
    weight = state.get('patch_embed.projection.weight', torch.empty(0))
    known = dict(zip(('width', 'channels', 'patch size'), weight.shape, strict=False)
                 if weight.ndim == 4 else ())
    return known | {'depth': len({k.split('.')[1] for k in state if k.startswith('layers.')}),
                    'layer scale': any('.gamma1.' in k for k in state),
                    'relative position bias': any(k.endswith(TABLE) for k in state)}


def options_of(state) -> dict:
    """Arguments besides arch and sizes that make a `semmae.ViT` the network of ``state``.

    The file replaces the value of the layer scale. A position embedding of zeros, which relative
    positions replace, is not trained.
    """
    known, pos_embed = anatomy(state), state.get('pos_embed')
    options = {'layer_scale_init_value': 0.1} if known['layer scale'] else {}
    if known['relative position bias']:
        options['rel_pos_bias'] = True
        if pos_embed is not None and not pos_embed.any():
            options['is_pos_embed_fixed'] = True
    return options


def advice(found, ours) -> str:
    """Text: the options to set if the ViT ``found`` in a file is not the network ``ours``."""
    wanted, theirs, mine = options_of(found), anatomy(found), anatomy(ours)
    parts = ('layer scale', 'relative position bias')
    if any(theirs[part] and not mine[part] for part in parts):
        has = ' and '.join(part for part in parts if theirs[part])
        options = ', '.join(f'{k}={v}' for k, v in wanted.items())
        return (f'The file is a ViT with {has}, as BEiT: set {options} in the semmae.ViT of the '
                'config (the values of the file replace the initial ones).')
    if mine['layer scale'] and not theirs['layer scale']:
        return ('The file has no layer scale: set layer_scale_init_value=0 in the backbone, or '
                'give another checkpoint.')
    return 'Give the backbone the arch and patch_size of the checkpoint, or another checkpoint.'


def whole(state) -> dict:
    """{name: empty tensor of its shape} of each tensor that a ViT with the parts of ``state`` has.

    Sizes come from the patch embedding and the first tensor of each kind. Final norms, layer scale,
    relative position bias and the bias of q, k, v are expected in all layers if one has them.
    """
    weight = state['patch_embed.projection.weight']
    width, patch = len(weight), weight.shape[-1]
    numbers, kinds = set(), dict[str, tuple]()  # of layers; the first shape of each kind
    for name, tensor in state.items():
        if found := re.match(r'layers\.(\d+)\.(.+)', name):
            numbers.add(found[1])
            kinds.setdefault(found[2], tensor.shape)
    hidden = (kinds.get('ffn.layers.0.0.bias') or (4 * width,))[0]
    linear = {'attn.qkv': (3 * width, width), 'attn.proj': (width, width),
              'ffn.layers.0.0': (hidden, width), 'ffn.layers.1': (width, hidden)}
    layer: dict[str, tuple] = (
             {f'{k}.weight': v for k, v in linear.items()}
             | {f'{k}.bias': v[:1] for k, v in linear.items()}
             | {f'{norm}.{x}': (width,) for norm in ('ln1', 'ln2') for x in ('weight', 'bias')})
    if 'attn.qkv.bias' not in kinds:
        del layer['attn.qkv.bias']
    scales = ('attn.gamma1.weight', 'ffn.gamma2.weight')
    if any(k in kinds for k in scales):
        layer |= dict.fromkeys(scales, (width,))
    layer |= {k: v for k, v in kinds.items() if k == f'attn.{TABLE}'}
    # Without a position embedding: the number for an image of 224 pixels.
    positions = (state['pos_embed'].shape[1:2] if 'pos_embed' in state else ()) or (
        1 + (224 // patch) ** 2,)
    shapes = {'cls_token': (1, 1, width), 'pos_embed': (1, *positions, width),
              'patch_embed.projection.weight': tuple(weight.shape),
              'patch_embed.projection.bias': (width,)}
    shapes |= {f'layers.{i}.{k}': v for i in range(max(len(numbers), 1)) for k, v in layer.items()}
    shapes |= {f'{norm}.{x}': (width,) for norm in ('ln1', 'ln2') for x in ('weight', 'bias')
               if any(k.startswith(f'{norm}.') for k in state)}
    return {k: torch.empty(v, device='meta') for k, v in shapes.items()}


def for_timm(state, source='the state dict') -> dict:
    """``state`` under timm's names; ValueError for a relative position bias, which timm lacks."""
    if any(k.endswith(TABLE) for k in state):
        raise ValueError(
            f"{source} holds a ViT with a relative position bias (BEiT), which timm's "
            'VisionTransformer does not have. Expected a plain ViT; convert to mmpretrain (its '
            'BEiTViT) or mmseg-mae instead')
    return renamed(state, OURS_TO_TIMM, source)


def for_mmseg_mae(state, source='the state dict') -> dict:
    """Names of mmseg's MAE backbone, which has layer scale and relative position bias."""
    return renamed(state, OURS_TO_GAMMA, source)


def for_mmpretrain(state, source='the state dict') -> dict:
    """Names of mmpretrain's VisionTransformer, or of its BEiTViT if relative positions are there.

    BEiTViT has the biases of q and v (its ``bias='qv_bias'``) where k's is 0, one for all three
    (``bias=True``) elsewhere, and a position embedding (``use_abs_pos_emb=True``) if it is not 0.
    """
    if not any(k.endswith(TABLE) for k in state):
        return state
    state = renamed(state, OURS_TO_GAMMA, source)
    if 'pos_embed' in state and not state['pos_embed'].any():
        del state['pos_embed']
    biases = [k for k in state if k.endswith('.attn.qkv.bias')]
    if not any(state[k].chunk(3)[1].any() for k in biases):
        for name in biases:
            q, _, v = state.pop(name).clone().chunk(3)
            state |= {name.replace('qkv.bias', 'q_bias'): q.clone(),
                      name.replace('qkv.bias', 'v_bias'): v.clone()}
    return state
