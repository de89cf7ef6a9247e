"""The frozen encoder of part learning: the numbers of iBOT's code, weights of any ViT."""
import argparse
import weakref

import numpy as np
import pytest
import timm
import torch

from semmae.checkpoints.load import OURS_TO_TIMM, renamed
from semmae.models import layers
from semmae.registry import MODELS

TOY = dict(type='semmae.ViT', img_size=32, patch_size=8,
           arch=dict(embed_dims=24, num_layers=2, num_heads=3, feedforward_channels=48))
TIMM = 'vit_tiny_patch16_224'  # 192 wide, 12 layers, 3 heads


def encoder(backbone, grid, state, tmp_path, **kwargs):
    torch.save(state, tmp_path / 'encoder.pth')
    model = MODELS.build(dict(type='semmae.PartEncoder', backbone=backbone, grid=grid,
                              checkpoint=str(tmp_path / 'encoder.pth'), **kwargs))
    model.init_weights()
    return model


def toy(tmp_path, grid=8):
    torch.manual_seed(0)
    vit = MODELS.build(TOY)
    vit.init_weights()
    return encoder(TOY, grid, vit.state_dict(), tmp_path)


# Source of the numbers: https://github.com/bytedance/ibot, commit
# da316d82636a7a7356835ef224b13d5f3ace0489, models/vision_transformer.py, in float32 on a CPU.
# To make them again: build its VisionTransformer (widths of `IBOT`, qkv_bias=True, other defaults)
# and load `weights` of the shapes of its state_dict, strictly. For `image(side)` take
# forward(return_all_tokens=True), equal to get_intermediate_layers()[0], and the row of the class
# token of get_last_selfattention(). Tokens: the first 8 or 6 channels. heads: attention times the
# number of patches. all: mean and standard deviation of the patch tokens.
IBOT = {  # embed_dim, depth, num_heads; `vit_small` is the network of the published ViT-S/16
    'small': dict(embed_dims=96, num_layers=3, num_heads=6, feedforward_channels=384),
    'vit_small': 'deit-small'}
REFERENCE = {
    ('small', 224): dict(
        cls_token=[-1.26909, 1.58961, 0.38474, -0.90588, 1.30288, -1.00402, 1.13551, -0.70067],
        first=[-2.47281, 0.00291, 0.92966, -0.93965, -0.30121, 0.9776],
        middle=[-1.00869, 1.38243, 0.27737, -1.35214, -2.29642, -1.34319],
        last=[-1.23631, 0.53853, 0.34169, -0.57241, -0.0002, -0.57738],
        all=[0.00516, 1.02271],
        heads_first=[0.14126, 0.63231, 1.06349, 0.70277, 0.37596, 0.60607],
        heads_last=[0.28365, 0.60928, 0.72378, 0.63536, 0.50668, 2.34603],
        heads_sum=[0.99774, 0.99196, 0.99407, 0.99316, 0.99221, 0.99628]),
    ('small', 448): dict(
        cls_token=[-1.5063, 1.3804, 0.45495, -0.87191, 1.37665, -0.8871, 1.06554, -0.70494],
        first=[-1.63876, -0.58059, 0.37045, 0.88846, -0.76024, -1.7758],
        middle=[-1.05905, 0.64856, 0.89094, -1.39396, 0.55137, 2.6494],
        last=[0.96462, 0.94345, -0.56658, -0.35696, 1.02524, -1.27293],
        all=[0.00361, 1.02249],
        heads_first=[2.24289, 3.49846, 1.26728, 0.80591, 0.45719, 0.73846],
        heads_last=[2.43019, 0.12831, 2.55627, 0.72403, 0.63449, 1.04969],
        heads_sum=[0.99929, 0.99839, 0.99871, 0.99838, 0.99801, 0.99911]),
    ('vit_small', 448): dict(
        cls_token=[-0.86095, 1.22173, -1.06386, 0.57978, 1.77269, 1.14639, -0.64278, -1.31563],
        first=[1.09995, 0.77575, 1.35859, 1.07764, 0.9039, 0.32612],
        middle=[-0.3248, 1.43409, 0.85044, 2.3784, 0.75647, 0.81543],
        last=[-0.54908, 0.80744, 0.8779, -0.38028, 1.93657, -0.69716],
        all=[-0.00242, 1.00762],
        heads_first=[0.29634, 1.37002, 0.32886, 0.96765, 0.524, 1.63759],
        heads_last=[0.99359, 1.44662, 0.21439, 1.51209, 0.8558, 1.0073],
        heads_sum=[0.99944, 0.99919, 0.99954, 0.99963, 0.99864, 0.99855])}


def normal(seed, *shape):
    # numpy never changes this stream; torch may.
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype('float32'))


def image(side):
    return normal(side, 1, 3, side, side)


def weights(shapes, width):
    """Tensor k of the sorted names: normal noise of seed k, scaled so that each has an effect."""
    state = {}
    for k, name in enumerate(sorted(shapes)):
        noise = normal(k, *shapes[name])
        if 'norm' in name:
            state[name] = 0.1 * noise + name.endswith('weight')
        else:
            state[name] = noise * (1 if name in ('cls_token', 'pos_embed') else width ** -0.5)
    return state


def ibot(name, grid, tmp_path, **kwargs):
    """Our encoder with the reference weights, from a file in the form of iBOT's training."""
    backbone = dict(dict(type='semmae.ViT', arch=IBOT[name], img_size=224, patch_size=16,
                         interpolate_offset=0.1), **kwargs)
    with torch.device('meta'):
        ours = MODELS.build(dict(backbone, img_size=224))
    shapes = {k: v.shape for k, v in renamed(ours.state_dict(), OURS_TO_TIMM).items()}
    teacher = {f'backbone.{k}': v for k, v in weights(shapes, ours.embed_dims).items()}
    return encoder(backbone, grid, dict(teacher=teacher, student={}, epoch=800,
                                        args=argparse.Namespace(arch=name)), tmp_path)


def summary(cls_token, patches, heads):
    length, middle = patches.shape[1], patches.shape[1] // 2
    return dict(cls_token=cls_token[0, :8], first=patches[0, 0, :6], middle=patches[0, middle, :6],
                last=patches[0, -1, :6], all=torch.stack([patches.mean(), patches.std()]),
                heads_first=length * heads[0, :, 0], heads_last=length * heads[0, :, -1],
                heads_sum=heads[0].sum(1))


@pytest.mark.slow
@pytest.mark.parametrize('name, side', REFERENCE)
def test_tokens_and_head_attention_equal_those_of_ibots_code(name, side, tmp_path):
    found = summary(*ibot(name, side // 16, tmp_path)(image(side), return_heads=True))
    for what, values in REFERENCE[name, side].items():
        torch.testing.assert_close(found[what], torch.tensor(values), rtol=0, atol=1e-4,
                                   msg=lambda said, what=what: f'{what}: {said}')


@pytest.mark.parametrize('kwargs, is_ibots', [
    (dict(img_size=448), True),  # resized when it is loaded
    (dict(interpolate_offset=0.), False)])
def test_only_ibots_interpolation_gives_ibots_tokens_at_another_size(kwargs, is_ibots, tmp_path):
    found = summary(*ibot('small', 28, tmp_path, **kwargs)(image(448), return_heads=True))
    wanted = {k: torch.tensor(v) for k, v in REFERENCE['small', 448].items()}
    worst = max((found[k] - wanted[k]).abs().max() for k in ('cls_token', 'first', 'middle'))
    assert worst < 1e-4 if is_ibots else worst > 1e-2


def test_the_image_is_resized_to_the_grid(tmp_path):
    cls_token, patches, heads = toy(tmp_path)(torch.randn(2, 3, 32, 32), return_heads=True)
    assert cls_token.shape == (2, 24) and patches.shape == (2, 64, 24)
    assert heads.shape == (2, 3, 64) and (heads >= 0).all() and (heads.sum(-1) <= 1).all()


def test_return_heads_changes_no_token_and_leaves_no_hook(tmp_path):
    model, images = toy(tmp_path), torch.randn(1, 3, 64, 64)
    with_heads, without = model(images, return_heads=True), model(images)
    assert with_heads[0].equal(without[0]) and with_heads[1].equal(without[1])
    output = weakref.ref(model.attention_of(-1).qkv(torch.zeros(1, 24)))
    assert output() is None  # no hook keeps it
    assert not any(t.requires_grad for t in with_heads)


def test_head_attention_is_that_of_the_last_layer(tmp_path, monkeypatch):
    model = toy(tmp_path)
    seen = {}

    def explicit(q, k, v, bias, dropout):
        seen['attention'] = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
        return seen['attention'] @ v  # of the last layer, when all have run
    monkeypatch.setattr(layers, 'attend', explicit)
    heads = model(torch.randn(1, 3, 64, 64), return_heads=True)[2]
    torch.testing.assert_close(heads, seen['attention'][:, :, 0, 1:])


def test_an_encoder_stays_frozen_and_in_evaluation_mode(tmp_path):
    model = toy(tmp_path)
    model.train()
    assert not any(m.training for m in model.modules())
    assert not any(p.requires_grad for p in model.parameters())


def test_an_encoder_without_weights_is_refused(tmp_path):
    model = toy(tmp_path)
    model.checkpoint = None
    with pytest.raises(ValueError, match='parts of an untrained network are useless'):
        model.init_weights()


def test_checkpoint_key_chooses_the_student_of_a_file(tmp_path):
    teacher = MODELS.build(TOY).state_dict()
    student = dict(teacher, cls_token=teacher['cls_token'] + 1)
    model = encoder(TOY, 4, dict(teacher=teacher, student=student), tmp_path,
                    checkpoint_key='student')
    assert model.backbone.cls_token.equal(student['cls_token'])


@pytest.mark.parametrize('is_qk_norm', [False, True])
def test_a_timm_vit_by_name_gives_timms_features_and_attention(is_qk_norm, tmp_path):
    theirs = timm.create_model(TIMM, num_classes=0).eval()
    state = {'teacher': {f'backbone.{k}': v for k, v in theirs.state_dict().items()}}
    model = encoder(TIMM, 14, state, tmp_path)
    last = theirs.blocks[-1].attn
    last.fused_attn = False
    if is_qk_norm:
        last.q_norm, last.k_norm = torch.nn.LayerNorm(64), torch.nn.LayerNorm(64)
        model.attention_of(-1).q_norm, model.attention_of(-1).k_norm = last.q_norm, last.k_norm
    seen = {}
    last.attn_drop.register_forward_hook(lambda _, __, out: seen.update(attention=out))
    images = torch.randn(1, 3, 224, 224)
    tokens = theirs.forward_features(images)
    cls_token, patches, heads = model(images, return_heads=True)
    torch.testing.assert_close(cls_token, tokens[:, 0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(patches, tokens[:, 1:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(heads, seen['attention'][:, :, 0, 1:])


def test_a_timm_file_with_a_tensor_missing_is_refused(tmp_path):
    state = timm.create_model(TIMM, num_classes=0).state_dict()
    state.pop('blocks.3.attn.qkv.weight')
    with pytest.raises(ValueError, match=r'1 tensors differ from the 150 of the model:\n'
                                         r'  blocks.3.attn.qkv.weight: missing in the file, '
                                         r'\(576, 192\) in the model'):
        encoder(TIMM, 4, state, tmp_path)


@pytest.mark.parametrize('name, complaint', [
    ('test_vit2', 'part encoder: test_vit2 has no class token'),  # but a register
    ('resnet10t', "timm's 'resnet10t' is a ResNet without patch_embed"),
    ('vit_of_nobody', "timm has no model 'vit_of_nobody'")])
def test_a_timm_name_that_is_no_vit_with_a_class_token_is_refused(name, complaint):
    with pytest.raises(ValueError, match=f'{complaint}.* Expected a (vision transformer|ViT)'):
        MODELS.build(dict(type='semmae.PartEncoder', backbone=name, grid=4))


def timm_encoder(**kwargs):
    torch.manual_seed(1)
    return MODELS.build(dict(type='semmae.PartEncoder', grid=4, backbone=dict(
        type='semmae.TimmViT', model_name='vit_small_patch14_reg4_dinov2', embed_dim=24, depth=4,
        num_heads=2, img_size=56, out_type='raw'), **kwargs))


@pytest.mark.parametrize('layer', [0, 2, -2, 3, -1])
def test_tokens_of_a_layer_are_timms_with_its_norm_and_without_registers(layer):
    model, images = timm_encoder(layer=layer), image(56)
    cls_token, patches = model(images)
    wanted = model.network.forward_intermediates(
        images, indices=[layer % 4], norm=True, output_fmt='NLC', intermediates_only=True)[0]
    torch.testing.assert_close(patches, wanted, atol=1e-5, rtol=0)
    whole = model.network.forward_features(images)
    torch.testing.assert_close(cls_token, whole[:, 0], atol=1e-5, rtol=0)
    assert patches.shape == (1, 16, 24)
    same = timm_encoder(layer=layer, class_token='same')(images)[0]
    assert same.equal(cls_token) == (layer % 4 == 3)


def test_tokens_of_an_inner_layer_of_ours_are_those_of_its_out_indices(tmp_path):
    model, images = toy(tmp_path), image(64)
    model.layer = 0
    _, patches = model(images)
    model.backbone.out_indices = [0, 1]
    inner = model.backbone(images)[0]
    torch.testing.assert_close(patches, model.backbone.ln1(inner)[:, 1:])


@pytest.mark.parametrize('facet, at', [('query', 0), ('key', 1), ('value', 2)])
def test_facets_are_the_thirds_of_qkv(facet, at):
    model, images = timm_encoder(layer=1, facet=facet, class_token='same'), image(56)
    cls_token, patches = model(images)
    network = model.network
    tokens = network.forward_intermediates(
        images, indices=[0], output_fmt='NLC', return_prefix_tokens=True, intermediates_only=True
    )[0]
    tokens = network.blocks[1].norm1(torch.cat([tokens[1], tokens[0]], 1))
    wanted = network.blocks[1].attn.qkv(tokens).chunk(3, -1)[at]
    torch.testing.assert_close(patches, wanted[:, 5:], atol=1e-5, rtol=0)
    torch.testing.assert_close(cls_token, wanted[:, 0], atol=1e-5, rtol=0)


def test_one_pass_gives_tokens_of_several_layers_and_attention(tmp_path, monkeypatch):
    model, images = timm_encoder(layer=2), image(56)
    calls, original = [], model.features
    monkeypatch.setattr(model, 'features', lambda x: calls.append(1) or original(x))
    seen = model.look(images, token_layers=(0, -1), attention_layers=(1, -1))
    assert len(calls) == 1 and seen.patches.equal(model(images)[1])
    for layer in (0, -1):
        assert seen.tokens[layer].equal(timm_encoder(layer=layer)(images)[1])
    assert seen.attention[-1].equal(model(images, return_heads=True)[2])
    assert seen.attention[1].shape == (1, 2, 16) and not seen.attention[1].equal(
        seen.attention[-1])
    hooks = [block._forward_hooks for block in model.blocks]
    assert not any(hooks), 'a hook was left'


@pytest.mark.parametrize('wrong, said', [
    (dict(layer=4), 'layer 4 of a network with 4 layers'), (dict(layer='last'), "layer 'last'"),
    (dict(facet='keys'), "facet is 'keys'"), (dict(class_token='mean'), "class_token 'mean'")])
def test_a_layer_or_facet_that_is_not_there_is_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        timm_encoder(**wrong)


def test_facets_of_a_rotary_network_are_refused():
    with pytest.raises(ValueError, match='rotary positions or separate queries and keys'):
        MODELS.build(dict(type='semmae.PartEncoder', grid=4, facet='key', backbone=dict(
            type='semmae.TimmViT', model_name='vit_small_patch16_dinov3', embed_dim=24, depth=2,
            num_heads=2, img_size=64, out_type='raw')))


@pytest.mark.parametrize('facet, at', [('query', 0), ('key', 1), ('value', 2)])
def test_facets_of_our_vit_are_the_thirds_of_qkv(tmp_path, facet, at):
    model, images = toy(tmp_path), image(64)
    model.facet, model.layer = facet, 1
    kept = []
    model.attention_of(1).qkv.register_forward_hook(lambda _, __, out: kept.append(out))
    _, patches = model(images)
    torch.testing.assert_close(patches, kept[0].chunk(3, -1)[at][:, 1:])
