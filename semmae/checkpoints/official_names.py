"""Translates the names in files of many projects to those of the official repositories.

Sources: https://github.com/huggingface/transformers, version 5.23.0, models/{dinov2,
dinov2_with_registers,dinov3_vit,siglip,vit,deit,vit_mae,ijepa}/: the files that save_pretrained
writes, and the modules since version 5, which have other names (except Dinov2's MLP with a gate).
"""
import re

import torch

from .layouts import OURS_TO_TIMM, renamed, with_one_qkv
from .load import chosen_state, find_backbone

# What is in front of a ViT's names, found by its patch embedding.
PATCH_EMBEDDING = re.compile(
    r'((?:.*\.)?)(?:patch_embed\.proj(?:ection)?|embeddings\.patch_embedding(?:s(?:\.projection)?)?)'
    r'\.(?:weight|bias)')
# transformers to official names. DINOv3 has layer. or model.layer., SigLIP encoder.layers..
HUGGING_FACE = [
    (r'^embeddings\.patch_embedding(?:s\.projection|s)?\.', r'patch_embed.proj.'),
    (r'^embeddings\.position_embedding(?:s|\.weight)$', r'pos_embed'),
    (r'^embeddings\.distillation_token$', r'dist_token'),
    (r'^embeddings\.(cls|mask)_token$', r'\1_token'),
    (r'^embeddings\.register_tokens$', r'register_tokens'),
    (r'^(?:(?:encoder|model)\.)?layers?\.', r'blocks.'),
    (r'^(blocks\.\d+)\.(?:layernorm_before|layer_norm1)\.', r'\1.norm1.'),
    (r'^(blocks\.\d+)\.(?:layernorm_after|layer_norm2)\.', r'\1.norm2.'),
    (r'^(blocks\.\d+)\.(?:attention|self_attn)\.(?:attention\.(query|key|value)|([qkv])_proj)\.',
     r'\1.attn.\2\3.'),
    (r'^(blocks\.\d+)\.(?:attention|self_attn)\.(?:output\.dense|o_proj|out_proj)\.',
     r'\1.attn.proj.'),
    (r'^(blocks\.\d+)\.intermediate\.dense\.', r'\1.mlp.fc1.'),
    (r'^(blocks\.\d+)\.output\.dense\.', r'\1.mlp.fc2.'),
    (r'^(blocks\.\d+)\.layer_scale(\d)\.lambda1$', r'\1.ls\2.gamma'),
    (r'^(blocks\.\d+\.mlp)\.weights_in\.', r'\1.w12.'),
    (r'^(blocks\.\d+\.mlp)\.weights_out\.', r'\1.w3.'),
    (r'^(?:layernorm|post_layernorm)\.', r'norm.')]
# The MLP of DINOv3: with a gate, and without.
GATED = [(r'\.mlp\.gate_proj\.', r'.mlp.w1.'), (r'\.mlp\.up_proj\.', r'.mlp.w2.'),
         (r'\.mlp\.down_proj\.', r'.mlp.w3.')]
PLAIN = [(r'\.mlp\.up_proj\.', r'.mlp.fc1.'), (r'\.mlp\.down_proj\.', r'.mlp.fc2.')]
# SigLIP pools by attention; transformers calls it the head.
POOLING = [(r'^head\.probe$', r'attn_pool.latent'),
           (r'^head\.attention\.out_proj\.', r'attn_pool.proj.'),
           (r'^head\.layernorm\.', r'attn_pool.norm.'), (r'^head\.mlp\.', r'attn_pool.mlp.')]


def official_names(content, checkpoint_key, source, own) -> dict:
    """The ViT's tensors in a file under the names of the official repositories, without prefix.

    own: the tensors of the model. A file without a patch embedding of a known name is returned
    whole: timm's filter knows more layouts, for example of CLIP.
    Raises ValueError for more than one ViT, for a duplicate tensor, and for a query, key or value
    without the others.
    """
    state, say = chosen_state(content, checkpoint_key, source)
    prefixes = sorted({found[1] for k in state if (found := PATCH_EMBEDDING.fullmatch(k))})
    if len(prefixes) > 1:
        raise ValueError(f'{source} holds {len(prefixes)} ViTs, under {prefixes}; {say}. Expected '
                         'one. checkpoint_key chooses another state dict.')
    if not state:
        raise ValueError(f'{source} holds no tensors; {say}. Set checkpoint_key to one of them.')
    start = prefixes[0] if prefixes else ''
    state = {k[len(start):]: v for k, v in state.items() if k.startswith(start)}
    if any(k.startswith('embeddings.') for k in state):
        gated = any('.mlp.gate_proj.' in k for k in state)
        pooling = POOLING if any(k.startswith('head.attention.') for k in state) else []
        state = renamed(state, HUGGING_FACE + (GATED if gated else PLAIN) + pooling, source)
        if state.get('pos_embed', torch.empty(0)).ndim == 2:  # SigLIP
            state['pos_embed'] = state['pos_embed'][None]
        for kind in ('weight', 'bias'):  # SigLIP's pooling: timm has q apart from k and v
            joint = state.get(name := f'head.attention.in_proj_{kind}')
            if joint is not None and joint.ndim:
                q, kv = state.pop(name).tensor_split([len(joint) // 3])
                state |= {f'attn_pool.q.{kind}': q, f'attn_pool.kv.{kind}': kv}
        if not any(k.endswith('.attn.k.bias') for k in state):  # DINOv3: BEiT's biases of q and v
            state = renamed(state, [(r'\.attn\.([qv])\.bias$', r'.attn.\1_bias')], source)
    elif any(k.startswith('layers.') for k in state):
        state = renamed(find_backbone(content, checkpoint_key, source)[0], OURS_TO_TIMM, source)
    is_joint = any(k.endswith('.attn.qkv.weight') for k in own)
    return with_one_qkv(state, source) if is_joint else state
