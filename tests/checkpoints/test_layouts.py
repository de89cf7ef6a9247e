"""Files of other projects load in every tensor and give the features of their official code.

Every weight and pixel comes from a fixed stream of numbers (`drawn`). The official code got the
same ones; its features are in `LAYOUTS`, none of its code is here. It ran on a CPU in float32 with
torch 2.11, its weights loaded strictly:

- MAE: https://github.com/facebookresearch/mae at efb2a8062c206524e35e47d04501ed4f544c0ae8,
  models_mae.py (forward_encoder with mask ratio 0, put back in order), models_vit.py; timm 0.3.2.
- SemMAE: https://github.com/ucasligang/SemMAE at 95b39ffe2a56a20d861a7394003cf01131cd09d7,
  models_mae_setting3.py (forward_encoder, its masking replaced by keeping all) and
  model/models_vit.py, with MAE's util/pos_embed.py and timm 0.3.2; patches of `candidates`.
- BEiT: https://github.com/microsoft/unilm at 768a3c873f598bb9b4d4dfb9267b099e35f8fe56,
  beit/modeling_pretrain.py (nothing masked) and beit/modeling_finetune.py.
- DINO: https://github.com/facebookresearch/dino at 7c446df5b9f45747937fb0d72314eb9f7b66930a,
  vision_transformer.py, get_intermediate_layers; iBOT: https://github.com/bytedance/ibot at
  da316d82636a7a7356835ef224b13d5f3ace0489, models/vision_transformer.py, return_all_tokens.
- Hugging Face: transformers 5.23.0, written by save_pretrained and read by from_pretrained.

``names`` is the CRC-32 of all names and shapes in the official state dict, sorted: the files of
this test hold exactly those.
"""
import functools
import os
import re
import sys
from zlib import crc32

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from safetensors.torch import load_file, save_file

from semmae.checkpoints import load
from semmae.commands import convert as convert_checkpoint
from semmae.commands import test as test_tool
from semmae.commands import train as train_tool
from semmae.config.options import read_config
from semmae.functional.patches import sincos_position_embedding
from semmae.models.backbone import relative_positions
from semmae.registry import MODELS
from semmae.suites.catalogue import PAPER
from semmae.suites.schedule import plan
from tests.checkpoints.drawn import drawn, image, weight

WIDTH, DEPTH, HEADS, PATCH = 48, 2, 3, 8
ARCH = dict(embed_dims=WIDTH, num_layers=DEPTH, num_heads=HEADS, feedforward_channels=4 * WIDTH)
TOLERANCE = 1e-4


def candidates():
    """(2, 196) places on the grid of 28x28, in the order in which the official code gets them."""
    return torch.from_numpy(np.stack([drawn(f'positions {i}', 784).argsort()[:196]
                                      for i in range(2)]))


# -- the shapes of each project's tensors, under its names


def linear(name, out, into):
    return {f'{name}.weight': (out, into), f'{name}.bias': (out,)}


def norm(name, width=WIDTH):
    return {f'{name}.weight': (width,), f'{name}.bias': (width,)}


def timm_block(name, width=WIDTH):
    return {**norm(f'{name}.norm1', width), **linear(f'{name}.attn.qkv', 3 * width, width),
            **linear(f'{name}.attn.proj', width, width), **norm(f'{name}.norm2', width),
            **linear(f'{name}.mlp.fc1', 4 * width, width),
            **linear(f'{name}.mlp.fc2', width, 4 * width)}


def timm_blocks(name, depth, width=WIDTH):
    return {k: v for i in range(depth) for k, v in timm_block(f'{name}.{i}', width).items()}


def embeddings(positions=17, patch=PATCH):
    return {'cls_token': (1, 1, WIDTH), 'pos_embed': (1, positions, WIDTH),
            'patch_embed.proj.weight': (WIDTH, 3, patch, patch), 'patch_embed.proj.bias': (WIDTH,)}


def mae_decoder(positions=17, patch=PATCH):
    return {**linear('decoder_embed', 32, WIDTH), 'mask_token': (1, 1, 32),
            'decoder_pos_embed': (1, positions, 32), **timm_blocks('decoder_blocks', 1, 32),
            **norm('decoder_norm', 32), **linear('decoder_pred', 3 * patch ** 2, 32)}


def timm_vit(positions=17, patch=PATCH):
    return {**embeddings(positions, patch), **timm_blocks('blocks', DEPTH)}


HEAD = linear('head', 5, WIDTH)
TABLE = {'relative_position_bias_table': (7 ** 2 + 3, HEADS), 'relative_position_index': (17, 17)}


def beit(is_shared):
    shapes = timm_vit()
    del shapes['pos_embed']
    for i in range(DEPTH):
        del shapes[f'blocks.{i}.attn.qkv.bias']
        for name in ('attn.q_bias', 'attn.v_bias', 'gamma_1', 'gamma_2'):
            shapes[f'blocks.{i}.{name}'] = (WIDTH,)
    owners = ['rel_pos_bias'] if is_shared else [f'blocks.{i}.attn' for i in range(DEPTH)]
    return shapes | {f'{owner}.{k}': v for owner in owners for k, v in TABLE.items()}


def hugging_face_block(name, width=WIDTH):
    parts = [linear(f'{name}.attention.attention.{x}', width, width)
             for x in ('query', 'key', 'value')]
    parts += [linear(f'{name}.attention.output.dense', width, width),
              linear(f'{name}.intermediate.dense', 4 * width, width),
              linear(f'{name}.output.dense', width, 4 * width),
              norm(f'{name}.layernorm_before', width), norm(f'{name}.layernorm_after', width)]
    return {k: v for part in parts for k, v in part.items()}


def hugging_face(prefix):
    shapes = {'embeddings.cls_token': (1, 1, WIDTH),
              'embeddings.position_embeddings': (1, 17, WIDTH),
              'embeddings.patch_embeddings.projection.weight': (WIDTH, 3, PATCH, PATCH),
              'embeddings.patch_embeddings.projection.bias': (WIDTH,), **norm('layernorm')}
    for i in range(DEPTH):
        shapes |= hugging_face_block(f'encoder.layer.{i}')
    return {f'{prefix}{k}': v for k, v in shapes.items()}


def hugging_face_decoder():
    return {**linear('decoder.decoder_embed', 32, WIDTH), 'decoder.mask_token': (1, 1, 32),
            'decoder.decoder_pos_embed': (1, 17, 32), **norm('decoder.decoder_norm', 32),
            **hugging_face_block('decoder.decoder_encoder.layer.0', 32),
            **linear('decoder.decoder_pred', 3 * PATCH ** 2, 32)}


# -- what each project's own code gave: the first channels of the class token, of the first and the
# last patch, mean and standard deviation over all; or of the pooled and normalised feature.

PLAIN = dict(  # timm's network and names: MAE, DINO and iBOT gave these numbers, one digit aside
    cls_token=[0.87707, -1.39176, 0.31489, -0.93181, -0.0944, -2.35365],
    first=[2.18199, -1.14322, -0.82711, -0.09995, -0.17208, -0.81012],
    last=[1.06234, -1.15377, 0.98133, 0.20446, -0.25774, -0.77818], all=[-0.03058, 1.09161])
PLAIN_AT_48 = dict(  # DINO and iBOT, the position embedding interpolated in their way
    cls_token=[0.74719, -1.60154, 1.53734, -0.34907, 0.24236, -2.14322],
    first=[2.41492, -0.79327, 1.0801, -0.60343, -0.08419, -1.5773],
    last=[0.87487, -0.99198, 0.72538, 0.14982, 1.5164, -2.11198], all=[-0.01462, 1.04754])
HF_WITH_PREFIX = dict(  # ViTMAEForPreTraining and ViTForImageClassification: names make weights
    cls_token=[0.79981, -0.94486, 0.20701, 1.3859, 2.62274, -2.08695],
    first=[4.09985, -0.56649, 0.1001, 0.0751, 1.51863, -3.03894],
    last=[1.88358, -0.40219, 0.77852, 1.03881, 3.42773, -3.13876], all=[-0.02354, 1.15829])
HF_BARE = dict(  # ViTMAEModel and ViTModel
    cls_token=[-0.01619, 0.75326, -0.47613, 1.6371, 0.49037, -0.71387],
    first=[0.1614, 0.52112, -1.34115, 1.98894, 0.7642, -0.3202],
    last=[-0.34601, 0.81822, -1.67972, 1.53618, 0.39535, -0.39603], all=[0.01271, 1.05597])

POOLED = dict(out_type='avg_featmap', final_norm=False)  # fine-tuned: fc_norm of the mean patch
BEIT = dict(layer_scale_init_value=0.1, rel_pos_bias=True)
AT_28 = dict(img_size=224)  # SemMAE's 8x8 patches

LAYOUTS = {
    'MAE': dict(
        names=1455569227, shapes=timm_vit() | norm('norm') | mae_decoder(), official=PLAIN),
    'MAE fine-tuned': dict(
        names=1927668820, shapes=timm_vit() | norm('fc_norm') | HEAD, vit=POOLED,
        official=dict(pooled=[0.02152, -1.13168, 0.23228, -0.30044, -0.81177, -0.77745, 0.03912,
                              3.33737])),
    'SemMAE 8x8': dict(
        names=1985544747, shapes=timm_vit(785) | norm('norm') | mae_decoder(785), vit=AT_28,
        official=dict(
            cls_token=[1.97706, -1.299, 0.84309, -0.10386, 1.18037, -2.08601],
            first=[0.75932, -1.59987, -0.45633, 0.65488, -0.17425, -4.02428],
            last=[2.45988, -0.49917, 1.59091, -0.42371, 0.14314, -3.80978],
            all=[0.02194, 1.06955])),
    'SemMAE 8x8 fine-tuned': dict(
        names=2826099304, shapes=timm_vit(785) | norm('fc_norm') | HEAD, vit=AT_28 | POOLED,
        official=dict(pooled=[0.65775, -1.41624, 0.41622, 0.72395, 0.34746, -1.75414, -0.43396,
                              1.27525])),
    'BEiT': dict(
        names=1048229049, vit=BEIT, zeros=['pos_embed'],
        shapes=beit(is_shared=True) | norm('norm') | linear('lm_head', 7, WIDTH)
        | {'mask_token': (1, 1, WIDTH)},
        official=dict(
            cls_token=[0.37147, -0.45443, -0.95617, 0.38218, 2.74223, -0.47477],
            first=[3.1021, -0.72193, -0.97138, 0.36704, 0.75962, 1.67211],
            last=[1.16103, -0.35249, -0.76442, 1.11635, 1.48598, -2.24266],
            all=[-0.02943, 1.10551])),
    'BEiT fine-tuned': dict(
        names=3357073688, vit=BEIT | POOLED, zeros=['pos_embed'],
        shapes=beit(is_shared=False) | norm('fc_norm') | HEAD,
        official=dict(pooled=[0.02346, -0.64731, -1.35546, 2.00142, 1.54716, -0.95804, -1.27532,
                              -1.05442])),
    'DINO': dict(names=2965863651, shapes=timm_vit() | norm('norm'), file='teacher',
                 official=PLAIN),
    'DINO at 48 pixels': dict(
        names=2965863651, shapes=timm_vit() | norm('norm'), file='bare', side=48,
        vit=dict(interpolate_offset=0.1), official=PLAIN_AT_48),
    'iBOT': dict(names=2965863651, shapes=timm_vit() | norm('norm'), file='state_dict',
                 vit=dict(interpolate_offset=0.1), official=PLAIN),
    'timm': dict(names=3022324315, shapes=timm_vit() | norm('norm') | HEAD, file='bare',
                 official=PLAIN),
    'HF ViTMAEForPreTraining': dict(
        names=2270792197, shapes=hugging_face('vit.') | hugging_face_decoder(),
        file='safetensors', official=HF_WITH_PREFIX),
    'HF ViTMAEModel': dict(names=232739362, shapes=hugging_face(''), file='bare',
                           official=HF_BARE),
    'HF ViTForImageClassification': dict(
        names=2114747095, shapes=hugging_face('vit.') | linear('classifier', 5, WIDTH),
        file='safetensors', official=HF_WITH_PREFIX),
    'HF ViTModel': dict(
        names=4009899205, shapes=hugging_face('') | linear('pooler.dense', WIDTH, WIDTH),
        file='bare', official=HF_BARE)}

# Tensors of these files that our network does not have.
BESIDE = ('decoder', 'mask_token', 'head.', 'lm_head', 'classifier', 'pooler')


@functools.cache
def tensors(layout):
    """The official state dict, filled; shared, so copy it before a change."""
    state = {}
    for name, shape in LAYOUTS[layout]['shapes'].items():
        if name.endswith('index'):
            state[name] = relative_positions(4, 4)
        elif 'SemMAE' in layout and name.endswith('pos_embed'):
            # Never trained: sines and cosines, the channels of the column first.
            rows, columns = sincos_position_embedding(shape[-1], 28).chunk(2, -1)
            state[name] = torch.cat([columns, rows], -1)
        else:
            state[name] = weight(name, shape)
    return state


def is_beside(name):
    return name.startswith(BESIDE) or name.endswith('index')


def write(layout, state, path, extra=None):
    """``state`` as the project saves it; returns the path. extra: what else is in the file."""
    kind = LAYOUTS[layout].get('file', 'model')
    if kind == 'safetensors' and extra is None:
        save_file(state, path.with_suffix('.safetensors'), metadata={'format': 'pt'})
        return path.with_suffix('.safetensors')
    if kind == 'teacher':
        state = {f'backbone.{k}': v for k, v in state.items()}
    content = state if kind in ('bare', 'safetensors') else {kind: state, 'epoch': 800}
    torch.save(content | (extra or {}), path)
    return path


def build(layout=None, **kwargs):
    options = dict(type='semmae.ViT', arch=ARCH, img_size=32, patch_size=PATCH, out_type='raw')
    model = MODELS.build(options | (LAYOUTS[layout].get('vit', {}) if layout else {}) | kwargs)
    model.init_weights()
    return model.eval()


@torch.no_grad()
def features(model, layout):
    """The features whose official numbers are in `LAYOUTS`."""
    if 'SemMAE' in layout:
        # The image of the official data is cut into the candidates; the second of two is compared.
        found = (model(image(224, 2), ids_keep=candidates())[0])[1:]
    else:
        found = model(image(LAYOUTS[layout].get('side', 32)))[0]
    if found.ndim == 2:
        return dict(pooled=found[0, :8])
    return dict(cls_token=found[0, 0, :6], first=found[0, 1, :6], last=found[0, -1, :6],
                all=torch.stack([found.mean(), found.double().std().float()]))


def off_by(found, official):
    assert found.keys() == official.keys()
    return max((found[k] - torch.tensor(v)).abs().max().item() for k, v in official.items())


@pytest.fixture(scope='module')
def models():
    """One model for each layout, which the tests fill; a test that changes more builds its own."""
    return {layout: build(layout) for layout in LAYOUTS}


# -- every layout loads and gives the features of the official code


@pytest.mark.parametrize('layout', LAYOUTS)
def test_every_tensor_loads_and_the_features_are_those_of_the_official_code(
        layout, models, tmp_path):
    case, state = LAYOUTS[layout], tensors(layout)
    text = '\n'.join(f'{k} {tuple(v.shape)}' for k, v in sorted(state.items()))
    assert crc32(text.encode()) == case['names'], 'not the tensors of the official state dict'
    report = load.load_backbone(models[layout], write(layout, state, tmp_path / 'x.pth'))
    zeros = case.get('zeros', [])
    assert report['matched'] == len(models[layout].state_dict()) - len(zeros)
    assert report['new'] == report['zeros'] == zeros and report['resized'] == []
    off = off_by(features(models[layout], layout), case['official'])
    print(f'{layout}: off by {off:.1e}')
    assert off < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize('layout', LAYOUTS)
def test_a_change_of_any_tensor_changes_the_features(layout, models, tmp_path):
    model = models[layout]
    load.load_backbone(model, write(layout, tensors(layout), tmp_path / 'x.pth'))
    unnoticed = []
    for name, tensor in model.state_dict().items():
        before = tensor.clone()
        # (The bias of k moves no softmax; of BEiT's positions only those of the window are used.)
        tensor.add_(torch.linspace(0, 1, tensor.numel()).view_as(tensor))
        if off_by(features(model, layout), LAYOUTS[layout]['official']) < 10 * TOLERANCE:
            unnoticed.append(name)
        tensor.copy_(before)
    assert not unnoticed


def test_timm_itself_gives_these_numbers(tmp_path):
    from timm.models.vision_transformer import VisionTransformer
    theirs = VisionTransformer(img_size=32, patch_size=PATCH, embed_dim=WIDTH, depth=DEPTH,
                               num_heads=HEADS, num_classes=5).eval()
    theirs.load_state_dict(tensors('timm'), strict=True)
    tokens = theirs.forward_features(image(32))[0]
    found = dict(cls_token=tokens[0, :6], first=tokens[1, :6], last=tokens[-1, :6],
                 all=torch.stack([tokens.mean(), tokens.std()]))
    assert off_by(found, PLAIN) < TOLERANCE


@pytest.mark.parametrize('is_shared', [True, False])
def test_timms_beit_loads_from_a_file_of_its_own(is_shared, tmp_path):
    from timm.models.beit import Beit
    theirs = Beit(img_size=32, patch_size=PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS,
                  num_classes=5, init_values=0.1, use_abs_pos_emb=False,
                  use_rel_pos_bias=not is_shared, use_shared_rel_pos_bias=is_shared).eval()
    theirs.load_state_dict({k: weight(k, v.shape) for k, v in theirs.state_dict().items()})
    torch.save(theirs.state_dict(), tmp_path / 'x.pth')
    ours = build(**BEIT | POOLED)
    assert load.load_backbone(ours, tmp_path / 'x.pth')['new'] == ['pos_embed']
    torch.testing.assert_close(ours(image(32))[0], theirs.forward_head(
        theirs.forward_features(image(32)), pre_logits=True), rtol=0, atol=TOLERANCE)


def test_a_timm_vit_with_layer_scale_loads_into_one_with_it_only(tmp_path):
    from timm.models.vision_transformer import VisionTransformer
    theirs = VisionTransformer(img_size=32, patch_size=PATCH, embed_dim=WIDTH, depth=DEPTH,
                               num_heads=HEADS, num_classes=0, init_values=0.1).eval()
    theirs.load_state_dict({k: weight(k, v.shape) for k, v in theirs.state_dict().items()})
    torch.save(theirs.state_dict(), tmp_path / 'x.pth')
    ours = build(layer_scale_init_value=0.5)
    load.load_backbone(ours, tmp_path / 'x.pth')
    torch.testing.assert_close(ours(image(32))[0], theirs.forward_features(image(32)), rtol=0,
                               atol=TOLERANCE)
    with pytest.raises(ValueError, match='ViT with layer scale, as BEiT: set '
                                         'layer_scale_init_value=0.1 in the semmae.ViT'):
        load.load_backbone(build(), tmp_path / 'x.pth')
    torch.save(build().state_dict(), tmp_path / 'x.pth')
    with pytest.raises(ValueError, match='no layer scale: set layer_scale_init_value=0 '):
        load.load_backbone(ours, tmp_path / 'x.pth')


def test_the_modules_of_transformers_5_are_read_under_their_new_names(models, tmp_path):
    """torch.save(model.state_dict()); its save_pretrained still writes the old names."""
    new = {}
    for name, tensor in tensors('HF ViTForImageClassification').items():
        for old, now in (('vit.encoder.layer.', 'vit.layers.'), ('attention.attention.query',
                         'attention.q_proj'), ('attention.attention.key', 'attention.k_proj'),
                         ('attention.attention.value', 'attention.v_proj'),
                         ('attention.output.dense', 'attention.o_proj'),
                         ('intermediate.dense', 'mlp.fc1'), ('output.dense', 'mlp.fc2')):
            name = name.replace(old, now)
        new[name] = tensor
    torch.save(new, tmp_path / 'x.pth')
    model = models['HF ViTModel']
    assert load.load_backbone(model, tmp_path / 'x.pth')['new'] == []
    assert off_by(features(model, 'HF ViTModel'), HF_WITH_PREFIX) < TOLERANCE


def test_semmaes_own_position_embedding_is_loaded_and_not_ours(tmp_path):
    state = tensors('SemMAE 8x8')
    path = write('SemMAE 8x8', state, tmp_path / 'x.pth')
    model = build('SemMAE 8x8')
    ours = model.pos_embed.clone()
    assert load.load_backbone(model, path)['resized'] == []
    assert model.pos_embed.equal(state['pos_embed']) and not model.pos_embed.equal(ours)
    # Patches of 16: 14x14 as they are. Of 28x28 places it says that it resized them.
    for positions, resized in ((197, []), (785, ['pos_embed (1, 785, 48) -> (1, 197, 48)'])):
        shapes = timm_vit(positions, 16) | norm('norm') | mae_decoder(positions, 16)
        torch.save(dict(model={k: weight(k, v) for k, v in shapes.items()}), tmp_path / 'x.pth')
        report = load.load_backbone(build(img_size=224, patch_size=16), tmp_path / 'x.pth')
        assert report['resized'] == resized


# -- BEiT's positions


def test_a_missing_position_embedding_is_zeros_for_beit_and_an_error_for_everyone_else(tmp_path):
    model = build('BEiT')
    assert model.pos_embed.abs().sum() > 1
    path = write('BEiT', tensors('BEiT'), tmp_path / 'x.pth')
    load.load_backbone(model, path)
    assert not model.pos_embed.any()
    for layout in ('MAE', 'timm'):  # also in a network that has relative positions
        state = dict(tensors(layout))
        del state['pos_embed']
        with pytest.raises(ValueError, match='pos_embed: missing in the file'):
            load.load_backbone(build(rel_pos_bias=True), write(layout, state, path))
    ours = {k: v for k, v in model.state_dict().items() if k != 'pos_embed'}
    torch.save(ours, path)  # all that BEiT has, but under our names: whole, so not BEiT
    with pytest.raises(ValueError, match='1 tensors differ .*\n  pos_embed: missing in the file'):
        load.load_backbone(build('BEiT'), path)


def test_the_shared_table_is_copied_to_each_layer_and_the_bias_of_k_is_zero(tmp_path):
    state, model = tensors('BEiT'), build('BEiT')
    load.load_backbone(model, write('BEiT', state, tmp_path / 'x.pth'))
    for i, layer in enumerate(model.layers):
        assert layer.attn.relative_position_bias_table.equal(
            state['rel_pos_bias.relative_position_bias_table'])
        q, k, v = layer.attn.qkv.bias.chunk(3)
        assert q.equal(state[f'blocks.{i}.attn.q_bias']) and not k.any()
        assert v.equal(state[f'blocks.{i}.attn.v_bias'])
        assert layer.attn.gamma1.weight.equal(state[f'blocks.{i}.gamma_1'])
        assert layer.ffn.gamma2.weight.equal(state[f'blocks.{i}.gamma_2'])


@pytest.mark.parametrize('layout', ['BEiT', 'BEiT fine-tuned'])
def test_tables_are_resized_as_timm_does_and_the_class_entries_stay(layout, tmp_path):
    from timm.layers.pos_embed_rel import resize_rel_pos_bias_table_simple
    state = tensors(layout)
    model = build(layout, img_size=(72, 56))
    report = load.load_backbone(model, write(layout, state, tmp_path / 'x.pth'))
    assert sorted(report['resized']) == [
        'layers.*.attn.relative_position_bias_table (52, 3) -> (224, 3)',
        'pos_embed (1, 17, 48) -> (1, 64, 48)'] and not model.pos_embed.any()
    for i, layer in enumerate(model.layers):
        found = layer.attn.relative_position_bias_table
        table = state[('rel_pos_bias.' if layout == 'BEiT' else f'blocks.{i}.attn.')
                      + 'relative_position_bias_table']
        torch.testing.assert_close(found, resize_rel_pos_bias_table_simple(
            table, (9, 7), (17 * 13 + 3, HEADS)))
        assert found[-3:].equal(table[-3:])
        # No offset stays in the middle of the grid.
        torch.testing.assert_close(found[17 * 13 // 2], table[7 ** 2 // 2], atol=0.2, rtol=0.2)
    assert torch.isfinite(model(torch.zeros(1, 3, 72, 56))[0]).all()


@pytest.mark.parametrize('options, said', [
    ({}, 'set layer_scale_init_value=0.1, rel_pos_bias=True, is_pos_embed_fixed=True in the sem'),
    (dict(rel_pos_bias=True), 'ViT with layer scale and relative position bias, as BEiT: set '),
    (dict(layer_scale_init_value=1e-5), 'ViT with layer scale and relative position bias, as BEi')])
def test_a_config_that_does_not_fit_beit_gets_an_error_with_what_to_set(options, said, tmp_path):
    path = write('BEiT', tensors('BEiT'), tmp_path / 'x.pth')
    with pytest.raises(ValueError, match='unknown to the model') as error:
        load.load_backbone(build(**options), path)
    assert said in str(error.value)


def test_a_part_encoder_shows_the_attention_of_a_beit_with_its_positions(tmp_path):
    path = write('BEiT', tensors('BEiT'), tmp_path / 'x.pth')
    encoder = MODELS.build(dict(
        type='semmae.PartEncoder', grid=4, checkpoint=str(path), backbone=dict(
            type='semmae.ViT', arch=ARCH, img_size=32, patch_size=PATCH, **BEIT)))
    encoder.init_weights()
    cls_token, _, heads = encoder(image(32), return_heads=True)
    torch.testing.assert_close(cls_token[0, :6], torch.tensor(
        LAYOUTS['BEiT']['official']['cls_token']), rtol=0, atol=TOLERANCE)
    seen = {}
    attn = encoder.attention_of(-1)
    attn.register_forward_hook(lambda _, args, __: seen.update(x=args[0]))
    encoder(image(32))
    q, k, _ = attn.qkv(seen['x']).view(1, 17, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
    wanted = (q @ k.mT / 4 + attn.bias()).softmax(-1)[:, :, 0, 1:]
    torch.testing.assert_close(heads, wanted)


@pytest.mark.slow
def test_a_suite_on_a_beit_sets_the_options_and_every_backbone_loads(tmp_path):
    """At ViT-Ti: at 224 pixels as it is, for ADE20K at 512 with its positions resized."""
    shapes = {f'blocks.{i}.{k.split(".", 2)[2]}': tuple(192 if n == WIDTH else n // WIDTH * 192
                                                        if n > WIDTH else n for n in v)
              for i in range(12) for k, v in beit(True).items() if k.startswith('blocks.0.')}
    shapes |= {'cls_token': (1, 1, 192), 'patch_embed.proj.weight': (192, 3, 16, 16),
               'patch_embed.proj.bias': (192,), 'norm.weight': (192,), 'norm.bias': (192,),
               'rel_pos_bias.relative_position_bias_table': (27 ** 2 + 3, 3)}
    torch.save(dict(model={k: torch.full(v, .1) for k, v in shapes.items()}),
               tmp_path / 'beit.pth')
    seen = set()
    for run in plan(PAPER, tmp_path, checkpoint=tmp_path / 'beit.pth'):
        task = run.id.split('/')[0]
        assert {'model.backbone.layer_scale_init_value=0.1', 'model.backbone.rel_pos_bias=True',
                'model.backbone.is_pos_embed_fixed=True'} <= set(run.command)
        args = train_tool.parse(run.command[run.command.index('tools/train.py') + 1:])
        backbone = read_config(args.config, args.cfg_options).model.backbone
        if str(Config(backbone)) in seen:
            continue
        seen.add(str(Config(backbone)))
        vit = MODELS.build(backbone)
        vit.init_weights()
        assert not vit.pos_embed.requires_grad and not vit.pos_embed.any(), task
        is_larger = vit.img_size != (224, 224)
        assert bool(vit.load_report['resized']) == is_larger
    assert len(seen) > 1


# -- a file that is not whole, not what it says, or hostile


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.slow
@pytest.mark.parametrize('layout', LAYOUTS)
def test_without_any_one_tensor_of_the_network_nothing_loads_and_nothing_is_converted(
        layout, models, tmp_path):
    whole, model = tensors(layout), models[layout]
    names = {k for k in whole if not is_beside(k)}
    assert len(names) > 20
    before = {k: v.clone() for k, v in model.state_dict().items()}
    known = set(load.backbone_state(dict(whole)))
    # Both layers have the same tensors, so the first stands for both.
    for name in sorted(n for n in names if not re.search(r'(blocks|layer)\.1\.', n)):
        state = {k: v for k, v in whole.items() if k != name}
        path = write(layout, state, tmp_path / 'x.pth')
        with pytest.raises(ValueError) as error:
            load.load_backbone(model, path)
        said = str(error.value)
        assert str(path) in said
        if 'for q, k and v of' in said:
            part = name.split('.')
            assert f'layers.{part[part.index("attn" if "attn" in part else "attention") - 1]}' \
                in said
        else:
            gone = known - set(load.backbone_state(state))
            assert gone and all(f'{k}: missing in the file' in said for k in gone), (name, said)
        with pytest.raises(ValueError, match='(holds|is) (no|an incomplete)'
                           if 'for q, k and v' not in said else 'for q, k and v'):
            load.convert(path, tmp_path / 'out.pth', 'mmseg-mae')
    assert not (tmp_path / 'out.pth').exists()
    assert all(v.equal(before[k]) for k, v in model.state_dict().items()), 'half-loaded'


def damaged(layout, tmp_path):
    """(what it is, the file, what is said) for each way in which a file can be wrong."""
    state = tensors(layout)
    proof = tmp_path / 'ran'
    patch = next(k for k in state if k.endswith(('proj.weight', 'projection.weight'))
                 and state[k].ndim == 4)
    norm1 = next(k for k in state if k.endswith(('norm1.weight', 'layernorm_before.weight')))
    yield ('another patch size', write(layout, state | {patch: torch.zeros(WIDTH, 3, 4, 4)},
                                       tmp_path / 'patch.pth'),
           f'patch size 4 in the file, {PATCH} in the model')
    yield ('a wrong prefix', write(layout, {f'student_model.{k}': v for k, v in state.items()},
                                   tmp_path / 'prefix.pth'), 'holds no ViT')
    yield ('NaN', write(layout, state | {norm1: torch.full((WIDTH,), float('nan'))},
                        tmp_path / 'nan.pth'), 'layers.0.ln1.weight: 48 of 48 values are NaN')
    yield ('an unknown tensor', write(layout, state | {norm1.replace('norm', 'norm9'): torch.ones(
        WIDTH)}, tmp_path / 'unknown.pth'), 'unknown to the model')
    yield ('a scalar', write(layout, state | {norm1: torch.ones(())}, tmp_path / 'scalar.pth'),
           'layers.0.ln1.weight: () in the file, (48) in the model')
    path = write(layout, state, tmp_path / 'cut.pth')
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
    yield 'cut', path, 'not a checkpoint that can be read'
    yield ('hostile', write(layout, state, tmp_path / 'hostile.pth', dict(args=Attack(proof))),
           'not executed')


@pytest.mark.parametrize('layout', LAYOUTS)
def test_a_damaged_or_hostile_file_is_refused_completely(layout, models, tmp_path):
    model = models[layout]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for what, path, said in damaged(layout, tmp_path):
        with pytest.raises(ValueError) as error:
            load.load_backbone(model, path)
        assert str(path) in str(error.value) and said in str(error.value), (what, error.value)
        assert all(v.equal(before[k]) for k, v in model.state_dict().items()), what
        assert not (tmp_path / 'ran').exists(), what


@pytest.mark.parametrize('layout, name, value', [
    ('BEiT', 'rel_pos_bias.relative_position_bias_table', torch.ones(())),
    ('BEiT', 'rel_pos_bias.relative_position_bias_table', torch.ones(51, HEADS)),
    ('BEiT', 'rel_pos_bias.relative_position_bias_table', torch.ones(52, HEADS).int()),
    ('BEiT fine-tuned', 'blocks.1.attn.relative_position_bias_table', torch.ones(52)),
    ('BEiT', 'cls_token', torch.ones(())), ('BEiT', 'blocks.0.attn.q_bias', torch.ones(())),
    ('BEiT', 'blocks.0.attn.v_bias', torch.ones(WIDTH).half()),
    ('BEiT', 'blocks.0.attn.v_bias', torch.ones(WIDTH - 1)),
    ('BEiT', 'blocks.0.attn.qkv.bias', torch.ones(3 * WIDTH)),
    ('BEiT', 'blocks.0.attn.relative_position_bias_table', torch.ones(52, HEADS)),
    ('MAE', 'pos_embed', torch.ones(())),
    ('MAE', 'pos_embed', torch.ones(1, 17, WIDTH).int()),
    ('HF ViTModel', 'encoder.layer.1.attention.attention.key.weight', torch.ones(WIDTH, 1)),
    ('HF ViTModel', 'layers.1.attn.qkv.weight', torch.ones(3 * WIDTH, WIDTH))])
def test_tensors_that_do_not_go_together_are_refused_in_words(
        layout, name, value, models, tmp_path):
    path = write(layout, tensors(layout) | {name: value}, tmp_path / 'x.pth')
    with pytest.raises(ValueError, match='x.pth'):
        load.load_backbone(models[layout], path)
    with pytest.raises(ValueError, match='x.pth'):
        load.convert(path, tmp_path / 'out.pth', 'mmseg-mae')


def test_a_table_of_another_number_of_heads_is_refused(models, tmp_path):
    table = {'rel_pos_bias.relative_position_bias_table': torch.ones(52, HEADS + 1)}
    path = write('BEiT', tensors('BEiT') | table, tmp_path / 'x.pth')
    with pytest.raises(ValueError, match=r'bias_table: \(52, 4\) in the file, \(52, 3\) in the mo'):
        load.load_backbone(models['BEiT'], path)


# -- conversion


def converted(layout, to, tmp_path, suffix='.safetensors'):
    path = write(layout, tensors(layout), tmp_path / 'x.pth')
    out = tmp_path / f'out{suffix}'
    count = load.convert(path, out, to)
    state = load_file(out) if suffix == '.safetensors' else torch.load(out, weights_only=True)
    assert count == len(state.get('state_dict', state))
    return out, state


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('to, suffix', [
    ('mmpretrain', '.pth'), ('mmseg-mae', '.safetensors'), ('timm', '.pth')])
def test_a_converted_file_loads_again_and_is_the_same_network(
        layout, to, suffix, models, tmp_path):
    if 'BEiT' in layout and to == 'timm':
        path = write(layout, tensors(layout), tmp_path / 'x.pth')
        with pytest.raises(ValueError, match='x.pth holds a ViT with a relative position bias .BEiT'
                                             ".*timm's VisionTransformer does not have"):
            load.convert(path, tmp_path / f'out{suffix}', to)
        assert not (tmp_path / f'out{suffix}').exists()
        return
    out, _ = converted(layout, to, tmp_path, suffix)
    model = models[layout]
    load.load_backbone(model, out)
    assert off_by(features(model, layout), LAYOUTS[layout]['official']) < TOLERANCE


@pytest.mark.parametrize('layout', [k for k in LAYOUTS if 'BEiT' not in k and 'fine' not in k
                                    and 'SemMAE' not in k and '48' not in k])
def test_timm_and_mmpretrain_read_it_strictly_and_give_the_numbers(layout, tmp_path):
    from mmpretrain.models import VisionTransformer as Theirs
    from timm.models.vision_transformer import VisionTransformer
    _, state = converted(layout, 'timm', tmp_path)
    timm = VisionTransformer(img_size=32, patch_size=PATCH, embed_dim=WIDTH, depth=DEPTH,
                             num_heads=HEADS, num_classes=0).eval()
    timm.load_state_dict(state, strict=True)
    _, state = converted(layout, 'mmpretrain', tmp_path)
    theirs = Theirs(arch=ARCH, img_size=32, patch_size=PATCH, out_type='raw')
    theirs.load_state_dict(state, strict=True)
    theirs.eval()  # returns nothing
    with torch.no_grad():
        for tokens in (timm.forward_features(image(32)), theirs(image(32))[0]):
            torch.testing.assert_close(tokens[0, 0, :6], torch.tensor(
                LAYOUTS[layout]['official']['cls_token']), rtol=0, atol=TOLERANCE)


def loads_but_for_the_index(model, state):
    found = model.load_state_dict(state, strict=False)
    assert not found.unexpected_keys
    assert all(k.endswith('relative_position_index') for k in found.missing_keys)
    model.eval()  # mmpretrain's returns nothing
    return model


def test_a_beit_becomes_mmpretrains_beit_and_mmsegs_mae(tmp_path):
    from mmpretrain.models import BEiTViT
    from mmseg.models.backbones import MAE
    official = torch.tensor(LAYOUTS['BEiT fine-tuned']['official']['pooled'])
    _, state = converted('BEiT fine-tuned', 'mmpretrain', tmp_path)
    theirs = loads_but_for_the_index(BEiTViT(arch=ARCH, img_size=32, patch_size=PATCH), state)
    torch.testing.assert_close(theirs(image(32))[0][0, :8], official, rtol=0, atol=TOLERANCE)
    _, state = converted('BEiT fine-tuned', 'mmseg-mae', tmp_path)
    pooled = {k: state.pop(k) for k in ('ln2.weight', 'ln2.bias')}
    theirs = loads_but_for_the_index(MAE(
        img_size=(32, 32), patch_size=PATCH, embed_dims=WIDTH, num_layers=DEPTH, num_heads=HEADS,
        mlp_ratio=4, norm_cfg=dict(type='LN', eps=1e-6)), state)
    mean = theirs(image(32))[0].flatten(2).mean(2)
    found = torch.nn.functional.layer_norm(mean, (WIDTH,), pooled['ln2.weight'],
                                           pooled['ln2.bias'], 1e-6)
    torch.testing.assert_close(found[0, :8], official, rtol=0, atol=TOLERANCE)


def test_our_own_network_with_relative_positions_becomes_a_beit_with_absolute_ones(tmp_path):
    from mmpretrain.models import BEiTViT
    ours = build(rel_pos_bias=True)
    for name, tensor in ours.state_dict().items():
        tensor.copy_(weight(name, tensor.shape))
    torch.save(dict(state_dict={f'backbone.{k}': v for k, v in ours.state_dict().items()}),
               tmp_path / 'x.pth')
    load.convert(tmp_path / 'x.pth', tmp_path / 'y.safetensors', 'mmpretrain')
    theirs = loads_but_for_the_index(BEiTViT(
        arch=ARCH, img_size=32, patch_size=PATCH, bias=True, final_norm=True, out_type='raw',
        use_abs_pos_emb=True, layer_scale_init_value=0), load_file(tmp_path / 'y.safetensors'))
    torch.testing.assert_close(theirs(image(32))[0], ours(image(32))[0], rtol=0, atol=TOLERANCE)


# -- the command line: exit status 2, one message, nothing executed and nothing written

CONFIG = '''
default_scope = 'mmpretrain'
loader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='mmpretrain.CustomDataset', data_root={images!r},
                 pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')]))
train_dataloader = test_dataloader = loader
train_cfg, test_cfg = dict(by_epoch=True, max_epochs=1), dict()
test_evaluator = dict(type='Accuracy')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1))
randomness = dict(seed=0)
model = dict(
    type='ImageClassifier', head=dict(type='LinearClsHead', num_classes=1, in_channels=48),
    backbone=dict(type='semmae.ViT', out_type='cls_token', img_size=32, patch_size=8,
                  init_cfg=dict(type='Pretrained', checkpoint=None), arch=dict(
                      embed_dims=48, num_layers=2, num_heads=3, feedforward_channels=192)))
'''


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    """A classifier of one class of one picture."""
    from PIL import Image
    root = tmp_path_factory.mktemp('config')
    (root / 'images' / 'one').mkdir(parents=True)
    for i in range(2):
        Image.new('RGB', (32, 32)).save(root / 'images' / 'one' / f'{i}.png')
    (root / 'config.py').write_text(CONFIG.format(images=str(root / 'images')))
    return str(root / 'config.py')


def status(tool, monkeypatch, *args):
    """The exit status of a script, run in this process."""
    monkeypatch.setattr(sys, 'argv', ['tool', *map(str, args)])
    try:
        tool.main()
    except SystemExit as stop:
        return stop.code
    return 0


@pytest.fixture
def quick_runner(monkeypatch):
    """mmengine's runner without what takes it seconds: a list of the machine, a pretty config."""
    monkeypatch.setattr(Runner, '_log_env', lambda *_: None)
    monkeypatch.setattr(Config, 'pretty_text', property(lambda cfg: repr(cfg._cfg_dict)))


@pytest.mark.usefixtures('quick_runner')
@pytest.mark.parametrize('layout', ['MAE', 'BEiT', 'DINO', 'HF ViTForImageClassification'])
def test_the_scripts_end_with_status_2_and_run_nothing(
        layout, config, tmp_path, monkeypatch, capsys):
    whole = tensors(layout)
    one = next(k for k in whole if k.endswith(('mlp.fc1.weight', 'intermediate.dense.weight')))
    files = [*damaged(layout, tmp_path),
             ('a tensor is missing', write(layout, {k: v for k, v in whole.items() if k != one},
                                           tmp_path / 'missing.pth'), 'layers.0.ffn.layers.0.0.we')]
    option = 'model.backbone.init_cfg.checkpoint'
    for what, path, said in files:
        runs = []
        if what != 'another patch size':  # nothing to compare it with: it is a ViT
            runs += [(convert_checkpoint, (path, tmp_path / 'out.pth', '--to', 'mmseg-mae'))]
        if what in ('cut', 'hostile'):
            runs += [(test_tool, (config, path, '--work-dir', tmp_path / 'run'))]
        if what in ('hostile', 'another patch size', 'a tensor is missing'):
            runs += [(train_tool, (config, '--work-dir', tmp_path / 'run', '--cfg-options',
                                   f'{option}={path}'))]
        for tool, args in runs:
            assert status(tool, monkeypatch, *args) == 2, (what, tool)
            error = capsys.readouterr().err
            assert 'Error: ' in error and 'Traceback' not in error, (what, error)
            assert said in error, (what, error)
    assert not (tmp_path / 'ran').exists() and not (tmp_path / 'out.pth').exists()


@pytest.mark.usefixtures('quick_runner')
def test_the_config_of_these_refusals_trains_with_a_complete_file(
        config, tmp_path, monkeypatch):
    path = write('HF ViTMAEModel', tensors('HF ViTMAEModel'), tmp_path / 'x.pth')
    assert status(train_tool, monkeypatch, config, '--work-dir', tmp_path / 'run', '--cfg-options',
                  f'model.backbone.init_cfg.checkpoint={path}') == 0
    assert status(convert_checkpoint, monkeypatch, path, tmp_path / 'out.safetensors', '--to',
                  'timm') == 0
    assert (tmp_path / 'out.safetensors').is_file()
