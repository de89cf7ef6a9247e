"""Files of other projects fill a timm model completely, or are refused.

The layouts, and the features of the official code, are in `timm_layouts`.
"""
import functools
import re
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.layers import resample_abs_pos_embed

from semmae.checkpoints.load import OURS_TO_TIMM, renamed
from semmae.checkpoints.timm_models import load_timm
from semmae.registry import MODELS
from tests.checkpoints.drawn import digest, image
from tests.checkpoints.timm_layouts import DEPTH, LAYOUTS, WIDTH, tensors

HEADS = 3
TOLERANCE = 2e-5
SHARED = Path(__file__).resolve().parents[3] / 'shared' / 'data'


def vit(name, side=None, **kwargs):
    """timm's model of this name, small, with random weights that are nowhere 0 or 1."""
    patch = int(re.search(r'patch(\d+)', name)[1])
    any_size = {} if 'beit' in name else dict(dynamic_img_size=True)
    model = timm.create_model(name, **dict(
        dict(num_classes=0, **any_size, depth=DEPTH, embed_dim=WIDTH, num_heads=HEADS,
             img_size=side or 4 * patch), **kwargs)).eval()
    for parameter in model.parameters():
        parameter.data.normal_(std=0.1)
    return model


@pytest.fixture(scope='module')
def models():
    """One model for each layout, which the tests fill."""
    return {k: vit(v['model'], **v.get('more', {})) for k, v in LAYOUTS.items()}


def copied(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def is_equal(model, state):
    own = model.state_dict()
    return own.keys() == state.keys() and all(v.equal(state[k]) for k, v in own.items())


def refusal(model, state, tmp_path, save=torch.save):
    """The message with which ``model`` refuses the file, left as it was."""
    path = tmp_path / ('x.safetensors' if save is save_file else 'x.pth')
    save(state, path)
    before = copied(model)
    with pytest.raises(ValueError) as error:
        load_timm(model, path)
    assert is_equal(model, before), 'half-loaded'
    assert str(path) in str(error.value)
    return str(error.value)


# -- every layout loads and gives the features of the official code


@pytest.mark.parametrize('layout', LAYOUTS)
@torch.no_grad()
def test_every_tensor_loads_and_the_features_are_those_of_the_official_code(
        layout, models, tmp_path):
    case, state, model = LAYOUTS[layout], tensors(layout), models[layout]
    assert digest({k: v.shape for k, v in state.items()}) == case['names'], \
        'not the tensors of the official state dict'
    save_file(state, tmp_path / 'x.safetensors')
    report = load_timm(model, tmp_path / 'x.safetensors')
    assert report['matched'] == len(model.state_dict())
    assert report['new'] == report['zeros'] == report['resized'] == []
    pixels = image(model.patch_embed.img_size[0])
    tokens = model.forward_features(pixels)
    for found, key in ((tokens[0, 0, :6], 'first'), (tokens[0, -1, :6], 'last'),
                       (torch.stack([tokens.mean(), tokens.std()]), 'all'),
                       (model(pixels)[0, :6], 'pooled')):
        if key in case:
            torch.testing.assert_close(found, torch.tensor(case[key]), rtol=0, atol=TOLERANCE)


# -- names of timm and of this package, in the files of many tools

TIMM = ['vit_small_patch14_dinov2', 'vit_small_patch14_reg4_dinov2', 'vit_small_patch16_dinov3',
        'vit_base_patch16_siglip_224', 'deit3_small_patch16_224', 'eva02_tiny_patch14_224',
        'eva02_base_patch14_224', 'vit_huge_patch14_gap_224', 'vit_base_patch16_224',
        'vit_base_patch16_clip_224', 'beit_base_patch16_224', 'vit_base_patch16_rope_mixed_224']


def behind(prefix, state):
    return {f'{prefix}{k}': v for k, v in state.items()}


@pytest.mark.parametrize('name', TIMM)
def test_a_file_under_timms_names_loads_bit_identically(name, tmp_path):
    source, target = vit(name, num_classes=5), vit(name)
    state = source.state_dict()
    save_file(state, tmp_path / 'x.safetensors')
    report = load_timm(target, tmp_path / 'x.safetensors')
    del state['head.weight'], state['head.bias']
    assert is_equal(target, state)
    assert report['left'] == 2 and report['matched'] == len(state) and not report['resized']
    assert report['path'] == str(tmp_path / 'x.safetensors') and len(report['sha256']) == 64

    again = vit(name)
    torch.save(dict(meta=dict(semmae=dict(seed=1)), state_dict=behind('backbone.vit.', state)
                    | {'head.fc.weight': torch.ones(5, WIDTH)}), tmp_path / 'x.pth')
    assert load_timm(again, tmp_path / 'x.pth')['recipe'] == dict(seed=1)
    assert is_equal(again, state)


PLAIN = 'vit_base_patch16_224'
FILES = {
    'MAE': lambda s: dict(model=s | {'mask_token': torch.zeros(1, 1, 32),
                                     'decoder_norm.bias': torch.zeros(32)}),
    'DINO and iBOT': lambda s: dict(
        student=behind('module.backbone.', {k: v + 1 for k, v in s.items()}),
        teacher=behind('backbone.', s) | {'head.last_layer.weight_g': torch.zeros(1)}, epoch=800),
    'DDP': lambda s: dict(model=behind('module.', s)),
    'OpenCLIP': lambda s: behind('visual.trunk.', s) | {'text.ln_final.bias': torch.zeros(3)}}


@pytest.mark.parametrize('file', FILES)
def test_a_file_of_another_tool_loads_bit_identically(file, tmp_path):
    source, target = vit(PLAIN), vit(PLAIN)
    torch.save(FILES[file](copied(source)), tmp_path / 'x.pth')
    load_timm(target, tmp_path / 'x.pth')
    assert is_equal(target, source.state_dict())


@pytest.mark.parametrize('prefix', ['', 'backbone.', 'encoder.backbone.'])
def test_our_own_vit_loads_into_timms(prefix, tmp_path):
    ours = MODELS.build(dict(type='semmae.ViT', img_size=64, patch_size=16, arch=dict(
        embed_dims=WIDTH, num_layers=DEPTH, num_heads=HEADS, feedforward_channels=4 * WIDTH)))
    target = vit(PLAIN)
    torch.save(dict(state_dict=behind(prefix, ours.state_dict())), tmp_path / 'x.pth')
    load_timm(target, tmp_path / 'x.pth')
    assert is_equal(target, renamed(ours.state_dict(), OURS_TO_TIMM))


def test_the_modules_of_transformers_since_version_5_load_as_its_files(models, tmp_path):
    names = {
        'HF ViTModel': [(r'^encoder\.layer\.', 'layers.'), (r'intermediate\.dense', 'mlp.fc1'),
                        (r'attention\.output\.dense', 'attention.o_proj'),
                        (r'(\d)\.output\.dense', r'\1.mlp.fc2'),
                        (r'attention\.attention\.(.)[a-z]+', r'attention.\1_proj')],
        'HF DINOv3ViTModel': [('^layer', 'model.layer')]}
    for layout, table in names.items():
        torch.save(tensors(layout), tmp_path / 'x.pth')
        load_timm(models[layout], tmp_path / 'x.pth')
        expected = copied(models[layout])
        for parameter in models[layout].parameters():
            parameter.data.zero_()
        torch.save(renamed(tensors(layout), table), tmp_path / 'x.pth')
        load_timm(models[layout], tmp_path / 'x.pth')
        assert is_equal(models[layout], expected)


def test_the_encoder_of_i_jepa_loads_unless_the_target_encoder_is_asked_for(tmp_path):
    layout, target = tensors('I-JEPA'), vit('vit_huge_patch14_gap_224')
    torch.save(dict(encoder=behind('module.', layout), predictor={'x': torch.ones(1)}, epoch=300,
                    target_encoder=behind('module.', {k: -v for k, v in layout.items()})),
               tmp_path / 'x.pth')
    load_timm(target, tmp_path / 'x.pth')
    assert is_equal(target, layout)
    load_timm(target, tmp_path / 'x.pth', 'target_encoder')
    assert is_equal(target, {k: -v for k, v in layout.items()})


# -- what is resized, cast and translated


@pytest.mark.parametrize('layout, extra', [
    ('DINOv2', 1), ('DINOv2 with registers', 0), ('DeiT-III', 0), ('HF SiglipModel', 0),
    ('HF DeiTModel', 2)])
@pytest.mark.parametrize('kind', [torch.float32, torch.float16])
def test_positions_of_another_grid_are_resized_as_in_timm(layout, extra, kind, tmp_path):
    name = LAYOUTS[layout]['model']
    side = 6 * int(re.search(r'patch(\d+)', name)[1])
    target, state = vit(name, side), {k: v.to(kind) for k, v in tensors(layout).items()}
    torch.save(state, tmp_path / 'x.pth')
    report = load_timm(target, tmp_path / 'x.pth')
    theirs = next(v for k, v in state.items() if 'vision_model.embeddings.position' in k
                  or k in ('pos_embed', 'embeddings.position_embeddings')).float()
    theirs = theirs.reshape(1, -1, WIDTH)
    is_folded = 'registers' in layout
    expected = resample_abs_pos_embed(theirs[:, is_folded:], (6, 6), num_prefix_tokens=extra)
    torch.testing.assert_close(target.pos_embed.data, expected, rtol=0, atol=0)
    count = theirs.shape[1]
    assert report['resized'] == [
        f'pos_embed (1, {count}, 48) -> (1, {36 + extra}, 48)'], report['resized']
    assert all(v.dtype == torch.float32 for v in target.state_dict().values())


def test_the_class_position_is_added_to_the_class_token_of_dinov2_with_registers(models, tmp_path):
    layout = 'DINOv2 with registers'
    model, state = models[layout], tensors(layout)
    torch.save(state, tmp_path / 'x.pth')
    load_timm(model, tmp_path / 'x.pth')
    assert model.cls_token.equal(state['cls_token'] + state['pos_embed'][:, :1])
    assert model.reg_token.equal(state['register_tokens'])
    assert model.pos_embed.equal(state['pos_embed'][:, 1:])


@pytest.mark.parametrize('layout', ['DINOv3', 'HF DINOv3ViTModel'])
def test_a_bias_of_zeros_loads_into_a_model_without_it_and_another_bias_does_not(layout, tmp_path):
    state, target = dict(tensors(layout)), vit('vit_small_patch16_dinov3')
    said = refusal(target, state, tmp_path)
    assert 'blocks.0.attn.qkv.bias: (144) in the file, unknown to the model' in said
    assert "take timm's model of the same name with _qkvb" in said
    state |= {k: torch.zeros_like(v) for k, v in state.items()
              if k.endswith(('qkv.bias', 'q_proj.bias', 'v_proj.bias'))}
    torch.save(state, tmp_path / 'x.pth')
    assert load_timm(target, tmp_path / 'x.pth')['matched'] == len(target.state_dict())


def test_a_bias_of_k_in_dinov3_is_refused_unless_its_mask_is_zero(models, tmp_path):
    state = {k: v for k, v in tensors('DINOv3').items() if not k.endswith('bias_mask')}
    said = refusal(models['DINOv3'], state, tmp_path)
    assert 'blocks.1.attn.q_bias: missing in the file' in said
    assert 'blocks.1.attn.qkv.bias: (144) in the file, unknown to the model' in said


def test_rotary_positions_of_other_periods_are_refused(models, tmp_path):
    state = dict(tensors('DINOv3'))
    state['rope_embed.periods'] = state['rope_embed.periods'].bfloat16()
    torch.save(state, tmp_path / 'x.pth')
    load_timm(models['DINOv3'], tmp_path / 'x.pth')
    state['rope_embed.periods'] = 2 * state['rope_embed.periods']
    said = refusal(models['DINOv3'], state, tmp_path)
    assert 'rope_embed.periods: (4) in the file, unknown to the model' in said


EVA02 = {  # timm's names to those of the official files
    'eva02_tiny_patch14_224': [(r'mlp\.fc1', 'mlp.w12'), (r'mlp\.fc2', 'mlp.w3')],
    'eva02_base_patch14_224': [
        (r'mlp\.fc1_g', 'mlp.w1'), (r'mlp\.fc1_x', 'mlp.w2'), (r'mlp\.fc2', 'mlp.w3'),
        (r'mlp\.norm', 'mlp.ffn_ln'), (r'attn\.norm', 'attn.inner_attn_ln'),
        (r'attn\.([qv])_proj\.bias', r'attn.\1_bias')]}


@pytest.mark.parametrize('name', EVA02)
def test_the_norm_of_eva02_pretraining_becomes_the_norm_after_pooling(name, tmp_path):
    target, state = vit(name), copied(vit(name))
    file = renamed(state, [('^fc_norm', 'norm'), *EVA02[name]])
    assert not any('fc1' in k or 'fc_norm' in k for k in file)
    torch.save(dict(model=file | {
        'mask_token': torch.zeros(1, 1, WIDTH), 'lm_head.bias': torch.zeros(4),
        'rope.freqs_cos': torch.zeros(4)}), tmp_path / 'x.pth')
    load_timm(target, tmp_path / 'x.pth')
    assert is_equal(target, state)

    unpooled = vit(name, global_pool='token')  # has the norm itself
    load_timm(unpooled, tmp_path / 'x.pth')
    assert is_equal(unpooled, renamed(state, [('^fc_norm', 'norm')]))


def test_relative_positions_of_another_window_are_resized_and_reported(tmp_path):
    target = vit('beit_base_patch16_224', 96)
    torch.save(vit('beit_base_patch16_224').state_dict(), tmp_path / 'x.pth')
    assert load_timm(target, tmp_path / 'x.pth')['resized'] == [
        'blocks.*.attn.relative_position_bias_table (52, 3) -> (124, 3)']


# -- refusals

BESIDE = re.compile(r'mask_token|pooler|decoder|text_model|logit|periods|^head\.(weight|bias)')


@pytest.mark.parametrize('layout', LAYOUTS)
def test_a_missing_unknown_or_damaged_tensor_is_refused_and_the_model_stays_as_it_was(
        layout, models, tmp_path):
    state, model = tensors(layout), models[layout]
    refuse = functools.partial(refusal, model, tmp_path=tmp_path, save=save_file)  # fast
    needed = [k for k in state if not BESIDE.search(k)]
    # One of each kind, not of each layer.
    for name in {re.sub(r'\.\d+\.', '.*.', k): k for k in needed}.values():
        said = refuse({k: v for k, v in state.items() if k != name})
        assert 'missing' in said or 'unknown' in said or 'expected all of' in said, (name, said)
    prefix = next(k for k in ('vision_model.', 'vit.', '') if any(n.startswith(k) for n in state))
    extra = f'{prefix}norm_pre.weight'
    said = refuse(state | {extra: torch.ones(WIDTH)})
    assert '1 tensors differ' in said
    assert 'norm_pre.weight: (48) in the file, unknown to the model' in said
    broken = state[needed[-1]].clone()
    broken.view(-1)[-1] = float('nan')
    assert 'NaN or infinite' in refuse(state | {needed[-1]: broken})
    longer = torch.cat([state[needed[0]]] * 2)
    assert 'tensors differ' in refuse(state | {needed[0]: longer})


@pytest.mark.parametrize('file, words', [
    (dict(embed_dim=24), 'width 24 in the file, 48 in the model; '),
    (dict(depth=3), 'depth 3 in the file, 2 in the model; '),
    (dict(depth=1), 'depth 1 in the file, 2 in the model; '),
    (dict(patch_size=8, img_size=32), 'patch size 8 in the file, 14 in the model; '),
    (dict(in_chans=1), 'channels 1 in the file, 3 in the model; '),
    (dict(reg_tokens=4), 'registers 4 in the file, 0 in the model; ')])
def test_another_architecture_is_refused_and_its_sizes_are_named(file, words, tmp_path):
    name = 'vit_small_patch14_dinov2'
    said = refusal(vit(name), vit(name, **file).state_dict(), tmp_path)
    assert f'x.pth does not fit {name}: {words}' in said, said
    assert "Take timm's model of the checkpoint, or another checkpoint" in said


def test_a_file_for_another_pooling_is_refused_with_what_to_set(tmp_path):
    said = refusal(vit(PLAIN, global_pool='avg'), vit(PLAIN).state_dict(), tmp_path)
    assert "set global_pool='token', or fc_norm=False" in said
    siglip = vit('vit_base_patch16_siglip_224')
    plain = vit('vit_base_patch16_siglip_224', global_pool='avg', fc_norm=False)
    assert "set global_pool='avg' or 'token'" in refusal(siglip, plain.state_dict(), tmp_path)
    torch.save(siglip.state_dict(), tmp_path / 'x.pth')
    assert load_timm(plain, tmp_path / 'x.pth')['left'] == 13, 'the pooling is a head'


def test_a_file_without_a_vit_or_with_two_is_refused(tmp_path):
    target = vit(PLAIN)
    said = refusal(target, {'conv1.weight': torch.ones(8, 3, 7, 7)}, tmp_path)
    assert "No tensor has the name of one of the model; they are ['conv1.weight']" in said
    state = copied(target)
    said = refusal(target, behind('a.', state) | behind('b.', state), tmp_path)
    assert "holds 2 ViTs, under ['a.', 'b.']" in said
    said = refusal(target, dict(student=state), tmp_path)
    assert 'holds no tensors; state dicts in it: student. Set checkpoint_key' in said


@pytest.mark.shared_data
def test_the_real_dinov2_file_fills_timms_model(tmp_path):
    path = SHARED / 'weights' / 'dinov2_vits14_saliency.safetensors'
    model = timm.create_model('vit_small_patch14_dinov2', num_classes=0, dynamic_img_size=True)
    report = load_timm(model, path)
    assert report['matched'] == 174 and report['new'] == report['resized'] == []
    assert is_equal(model, {k: v.float() for k, v in load_file(path).items()})
