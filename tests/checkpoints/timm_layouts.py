"""State dicts of official code for timm's models, and the features that it computed with them.

Every weight and pixel comes from a fixed stream of numbers (`drawn`). The official code got the
same ones; its features are in `LAYOUTS`, none of its code is here. It ran on a CPU in float32, its
weights loaded strictly:

- DINOv2: https://github.com/facebookresearch/dinov2 at b8931f7bf91576930313be2c6d6af376033b35f0;
  DINOv3: https://github.com/facebookresearch/dinov3 at 6876159a11b4df116f30f667f8c9888617df0751,
  with the options of its hub (LayerNorm eps 1e-5); forward_features.
- I-JEPA: https://github.com/facebookresearch/ijepa at 52c1ae95d05f743e000e8f10a1f3a79b10cff048;
  DeiT-III: https://github.com/facebookresearch/deit at 7e160fe43f0252d17191b71cbb5826254114ea5b,
  models_v2.py.
- Hugging Face: transformers 5.23.0, written by save_pretrained and read by from_pretrained
  (layer_norm_eps=1e-6 where timm has it; hidden_act='silu' for the MLP with a gate).

``names`` is the CRC-32 of all names and shapes in the official state dict, sorted.
"""
import functools

import torch

from tests.checkpoints.drawn import weight

WIDTH, DEPTH = 48, 2

# The shapes of each project's tensors, under its names


def linear(name, out=WIDTH, into=WIDTH, bias=True):
    return {f'{name}.weight': (out, into)} | ({f'{name}.bias': (out,)} if bias else {})


def norm(name, width=WIDTH):
    return {f'{name}.weight': (width,), f'{name}.bias': (width,)}


def embedding(name, patch):
    return {f'{name}.weight': (WIDTH, 3, patch, patch), f'{name}.bias': (WIDTH,)}


def token(name, count=1):
    return {name: (1, count, WIDTH)}


def joined(parts):
    return {k: v for part in parts for k, v in part.items()}


def mlp(name, hidden=4 * WIDTH):
    return {**linear(f'{name}.fc1', hidden), **linear(f'{name}.fc2', WIDTH, hidden)}


def official(patch, positions=17, scales=(), mlp=mlp, bias=True, **more):
    """Names of timm, DINOv2, DINOv3, I-JEPA and DeiT."""
    shapes = {**embedding('patch_embed.proj', patch), **norm('norm'), **more}
    shapes |= token('pos_embed', positions) if positions else {}
    for block in (f'blocks.{i}' for i in range(DEPTH)):
        shapes |= joined([norm(f'{block}.norm1'), norm(f'{block}.norm2'), mlp(f'{block}.mlp'),
                          linear(f'{block}.attn.qkv', 3 * WIDTH, bias=bias),
                          linear(f'{block}.attn.proj'),
                          {f'{block}.{scale}': (WIDTH,) for scale in scales}])
    return shapes


LS = ('ls1.gamma', 'ls2.gamma')
CLS = token('cls_token')
MASK = {'mask_token': (1, WIDTH)}


def dinov2_gate(name, into='w12', out='w3'):
    return {**linear(f'{name}.{into}', 256), **linear(f'{name}.{out}', WIDTH, 128)}


def dinov3_gate(name, names=('w1', 'w2', 'w3')):
    return joined([linear(f'{name}.{names[0]}', 192), linear(f'{name}.{names[1]}', 192),
                   linear(f'{name}.{names[2]}', WIDTH, 192)])


def dinov3(bias=True, mlp=mlp, **more):
    masks = {f'blocks.{i}.attn.qkv.bias_mask': (3 * WIDTH,) for i in range(DEPTH) if bias}
    return official(16, 0, LS, mlp, bias, **CLS, **MASK, **token('storage_tokens', 4), **masks,
                    **{'rope_embed.periods': (4,)}, **more)


def hf_attention(name, width=WIDTH):
    return joined([*(linear(f'{name}.attention.{x}', width, width)
                     for x in ('query', 'key', 'value')),
                   linear(f'{name}.output.dense', width, width)])


def hf_layer(name, width=WIDTH, hidden=4 * WIDTH):
    return joined([hf_attention(f'{name}.attention', width),
                   norm(f'{name}.layernorm_before', width),
                   norm(f'{name}.layernorm_after', width),
                   linear(f'{name}.intermediate.dense', hidden, width),
                   linear(f'{name}.output.dense', width, hidden)])


def hf_vit(patch, positions=17, prefix='', **more):
    """ViT, DeiT, ViTMAE and I-JEPA of transformers."""
    shapes = {**embedding('embeddings.patch_embeddings.projection', patch), **norm('layernorm'),
              **token('embeddings.position_embeddings', positions), **more}
    for i in range(DEPTH):
        shapes |= hf_layer(f'encoder.layer.{i}')
    return {f'{prefix}{k}': v for k, v in shapes.items()}


def hf_dinov2(mlp=mlp, **more):
    shapes = {**embedding('embeddings.patch_embeddings.projection', 14), **norm('layernorm'),
              **token('embeddings.position_embeddings', 17), **token('embeddings.cls_token'),
              'embeddings.mask_token': (1, WIDTH), **more}
    for layer in (f'encoder.layer.{i}' for i in range(DEPTH)):
        shapes |= joined([hf_attention(f'{layer}.attention'), norm(f'{layer}.norm1'),
                          norm(f'{layer}.norm2'), mlp(f'{layer}.mlp'),
                          {f'{layer}.layer_scale{i}.lambda1': (WIDTH,) for i in (1, 2)}])
    return shapes


def hf_dinov3(mlp, bias=True):
    shapes = joined([embedding('embeddings.patch_embeddings', 16), norm('norm'),
                     token('embeddings.cls_token'), token('embeddings.mask_token'),
                     token('embeddings.register_tokens', 4)])
    for layer in (f'layer.{i}' for i in range(DEPTH)):
        shapes |= joined([norm(f'{layer}.norm1'), norm(f'{layer}.norm2'), mlp(f'{layer}.mlp'),
                          {f'{layer}.layer_scale{i}.lambda1': (WIDTH,) for i in (1, 2)},
                          linear(f'{layer}.attention.o_proj'),
                          *(linear(f'{layer}.attention.{x}_proj', bias=bias and x != 'k')
                            for x in 'qkv')])
    return shapes


def hf_up_down(name):
    return {**linear(f'{name}.up_proj', 4 * WIDTH), **linear(f'{name}.down_proj', WIDTH, 4 * WIDTH)}


def clip_layers(name):
    """The layers of SigLIP's encoders."""
    return joined([joined([norm(f'{layer}.layer_norm1'), norm(f'{layer}.layer_norm2'),
                           mlp(f'{layer}.mlp'), *(linear(f'{layer}.self_attn.{x}_proj')
                                                  for x in ('q', 'k', 'v', 'out'))])
                   for layer in (f'{name}.{i}' for i in range(DEPTH))])


def siglip(prefix=''):
    shapes = joined([embedding('embeddings.patch_embedding', 16), norm('post_layernorm'),
                     {'embeddings.position_embedding.weight': (16, WIDTH)},
                     clip_layers('encoder.layers'), token('head.probe'), norm('head.layernorm'),
                     mlp('head.mlp'), linear('head.attention.out_proj'),
                     {'head.attention.in_proj_weight': (3 * WIDTH, WIDTH),
                      'head.attention.in_proj_bias': (3 * WIDTH,)}])
    return {f'{prefix}{k}': v for k, v in shapes.items()}


TEXT = {f'text_model.{k}': v for k, v in joined([
    clip_layers('encoder.layers'), norm('final_layer_norm'), linear('head'),
    {'embeddings.token_embedding.weight': (11, WIDTH),
     'embeddings.position_embedding.weight': (64, WIDTH)}]).items()}
TEXT |= {'logit_scale': (1,), 'logit_bias': (1,)}
DECODER = {f'decoder.{k}': v for k, v in joined([
    linear('decoder_embed', 32), {'mask_token': (1, 1, 32), 'decoder_pos_embed': (1, 17, 32)},
    linear('decoder_pred', 768, 32), norm('decoder_norm', 32),
    hf_layer('decoder_encoder.layer.0', 32, 64)]).items()}
POOLER = linear('pooler.dense')
HF_CLS = token('embeddings.cls_token')
HF_GATE = functools.partial(dinov2_gate, into='weights_in', out='weights_out')
HF_GATED = functools.partial(dinov3_gate, names=('gate_proj', 'up_proj', 'down_proj'))
TANH = dict(act_layer='gelu_tanh')  # SigLIP; vit_base_patch16_siglip_224 of timm has the exact one

# The first six channels of the first and the last token, mean and standard deviation over all
# tokens; pooled: the first six channels of the pooled feature.
LAYOUTS = {
    'DINOv2': dict(
        names=2795840610, model='vit_small_patch14_dinov2',
        shapes=official(14, 17, LS, **CLS, **MASK),
        first=[-0.04669, -0.54747, -1.59825, -1.92525, 0.16243, -0.82379],
        last=[-2.31905, -1.04166, 0.10306, 0.0203, -0.9129, 2.88068], all=[-0.02148, 1.10968]),
    'DINOv2 with registers': dict(
        names=695488548, model='vit_small_patch14_reg4_dinov2',
        shapes=official(14, 17, LS, **CLS, **MASK, **token('register_tokens', 4)),
        first=[-0.38262, -0.67212, -1.22397, -2.09336, 0.17784, -0.55697],
        last=[-2.45481, -1.05321, 0.24928, 0.03275, -0.90152, 2.8178], all=[-0.02315, 1.112]),
    'DINOv2 swiglu': dict(
        names=640301441, model='vit_giant_patch14_dinov2',
        shapes=official(14, 17, LS, dinov2_gate, **CLS, **MASK),
        first=[-0.3688, -1.32189, -0.49379, -1.82709, -0.11033, -1.17573],
        last=[-2.12222, -1.37219, 0.15008, 0.37475, -0.59767, 2.26026], all=[-0.01746, 1.11761]),
    'DINOv3': dict(
        names=3661801591, model='vit_small_patch16_dinov3_qkvb',
        shapes=dinov3(),
        first=[-1.14371, 0.15173, -2.37353, -1.08534, 0.76012, -1.39446],
        last=[-0.67926, -0.92109, -1.79735, -0.05894, 0.14062, 0.53257], all=[-0.02728, 1.07735]),
    'DINOv3 swiglu': dict(
        names=1974591611, model='vit_small_plus_patch16_dinov3',
        shapes=dinov3(False, dinov3_gate),
        first=[1.15608, -0.44077, -2.88938, -0.3114, 0.77971, -1.95157],
        last=[-0.59723, -1.31548, -2.09867, 0.35219, 0.21479, 0.23148], all=[-0.01338, 1.10336]),
    'I-JEPA': dict(
        names=1568602975, model='vit_huge_patch14_gap_224',
        shapes=official(14, 16),
        first=[-0.27952, -0.25664, 2.06833, -0.37235, -0.58337, -1.73219],
        last=[-0.18596, -1.27252, 2.11771, 0.12386, -1.0784, 0.64995], all=[-0.0123, 1.06366]),
    'DeiT-III': dict(
        names=1737697937, model='deit3_small_patch16_224',
        shapes=official(16, 16, ('gamma_1', 'gamma_2'), **CLS, **linear('head', 5)),
        first=[0.3609, -1.01205, 1.365, 0.1585, 2.8162, -1.18024],
        last=[-0.5669, -1.30963, -1.59904, 0.99569, 0.58114, 0.44894], all=[-0.03303, 1.10055]),
    'HF Dinov2Model': dict(
        names=1729669542, model='vit_small_patch14_dinov2',
        shapes=hf_dinov2(),
        first=[-1.3564, 0.90903, -1.34177, 0.31925, 0.91878, -0.57921],
        last=[-1.01122, -0.64398, -0.96967, 1.25357, -0.41315, 0.31735], all=[0.03295, 1.0385]),
    'HF Dinov2Model swiglu': dict(
        names=855378455, model='vit_giant_patch14_dinov2',
        shapes=hf_dinov2(HF_GATE),
        first=[-0.41896, 1.3402, -0.25387, 0.33683, -0.0349, -0.98166],
        last=[-0.14183, -0.49593, -0.36163, 1.42595, -0.65612, 0.11778], all=[0.03232, 1.02166]),
    'HF Dinov2WithRegistersModel': dict(
        names=914733353, model='vit_small_patch14_reg4_dinov2',
        shapes=hf_dinov2(**token('embeddings.register_tokens', 4)),
        first=[-1.25638, 1.01721, -1.37956, 0.27505, 0.77934, -0.52567],
        last=[-0.9222, -0.58596, -0.93834, 1.23028, -0.43492, 0.31772], all=[0.03585, 1.05632]),
    'HF DINOv3ViTModel': dict(
        names=634675740, model='vit_small_patch16_dinov3_qkvb',
        shapes=hf_dinov3(hf_up_down),
        first=[-1.07938, 0.12202, 0.5871, -1.20375, 1.59405, -0.8225],
        last=[3.01545, -1.29781, 0.56741, -0.18214, 1.33843, -0.09515], all=[-0.02599, 1.06977]),
    'HF DINOv3ViTModel gated': dict(
        names=3861719950, model='vit_small_plus_patch16_dinov3',
        shapes=hf_dinov3(HF_GATED, bias=False),
        first=[-0.67119, 0.01131, -0.72809, -1.33791, 1.23664, -2.01874],
        last=[3.0262, -1.20948, 0.63334, -0.27009, 1.15364, -0.55335], all=[0.00023, 1.06101]),
    'HF SiglipVisionModel': dict(
        names=3961821378, model='vit_base_patch16_siglip_224', more=TANH,
        shapes=siglip(),
        first=[1.12828, -0.87973, 0.27327, -1.00095, -0.21583, 0.81726],
        last=[0.74961, -0.51452, -0.51334, 0.2271, -1.12713, 0.20298], all=[0.04594, 1.10099],
        pooled=[-1.41193, -0.39228, 1.38044, -0.79764, -0.20254, 1.78449]),
    'HF SiglipModel': dict(
        names=760561646, model='vit_base_patch16_siglip_224', more=TANH,
        shapes=siglip('vision_model.') | TEXT,
        first=[-1.25614, -0.50008, 0.4037, 3.3679, -0.76892, 0.07478],
        last=[0.13873, 0.00845, 0.67167, 0.70996, -0.29344, 0.66511], all=[0.00246, 1.13398],
        pooled=[-1.00784, -4.02599, 0.6402, 0.17315, -0.9465, -1.28893]),
    'HF ViTModel': dict(
        names=641309002, model='vit_base_patch16_224',
        shapes=hf_vit(16, **HF_CLS, **POOLER),
        first=[-0.39281, 0.65236, -0.33891, 1.20494, 0.22087, -1.20321],
        last=[0.06629, 0.67728, -0.41578, 2.07438, 0.01648, 0.50128], all=[0.00253, 1.04431]),
    'HF DeiTModel': dict(
        names=3889032517, model='deit_tiny_distilled_patch16_224',
        shapes=hf_vit(16, 18, **HF_CLS, **POOLER, **token('embeddings.distillation_token')),
        first=[-0.51653, 0.77839, -0.37422, 1.51716, 0.60658, -0.65013],
        last=[-0.00849, 0.74234, -0.46279, 1.84761, -0.07623, 0.71551], all=[4e-05, 1.05344]),
    'HF ViTMAEForPreTraining': dict(
        names=856363447, model='vit_base_patch16_224',
        shapes=hf_vit(16, prefix='vit.', **HF_CLS) | DECODER,
        first=[1.03069, -0.02321, -0.68486, 1.15019, 2.15131, -1.95377],
        last=[1.13077, -1.36018, 0.75913, 0.7662, 1.30168, -1.43929], all=[-0.01919, 1.12211]),
    'HF IJepaModel': dict(
        names=3778003792, model='vit_huge_patch14_gap_224',
        shapes=hf_vit(14, 16),
        first=[-0.02254, 0.86715, -0.75172, 1.18345, 0.70262, 0.00893],
        last=[-0.1848, 0.59553, 0.03587, 1.94062, -0.07876, -0.34262], all=[-6e-05, 1.0253])}


@functools.cache
def tensors(layout):
    """The official state dict, filled; shared, so copy it before a change."""
    state = {k: weight(k, v) for k, v in LAYOUTS[layout]['shapes'].items()}
    for name in state:
        if name.endswith('bias_mask'):  # of q, k and v
            state[name] = torch.tensor([1., 0., 1.]).repeat_interleave(WIDTH)
        elif name.endswith('periods'):
            state[name] = torch.tensor([1., 10 ** 0.5, 10., 1000 ** 0.5])
    return state
