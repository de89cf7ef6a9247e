"""`TimmViT` gives timm's own features in every form, and loads weights strictly."""
import re

import pytest
import timm
import torch
from mmengine.logging import MMLogger
from safetensors.torch import save_file
from torch.nn import functional as F

from semmae.models.outputs import OUT_TYPES
from semmae.registry import MODELS

from .small_timm import DINOV2, FAMILIES, SMALL, build, images_of

ANY_SIZE = [name for name in FAMILIES if 'beit' not in name]


def theirs(model, **kwargs):
    """timm's own network with the weights of ``model``."""
    found = timm.create_model(model.model_name, num_classes=0, **SMALL, **kwargs).eval()
    found.load_state_dict(model.vit.state_dict())
    return found


def wanted(network, images, num_prefix, out_type):
    """The features of the first and the last layer, from timm's own functions."""
    maps, prefix = network.forward_intermediates(
        images, indices=[0], intermediates_only=True, return_prefix_tokens=True)[0] if (
        num_prefix) else (network.forward_intermediates(
            images, indices=[0], intermediates_only=True)[0], images.new_zeros(len(images), 0, 24))
    first = torch.cat([prefix, maps.flatten(2).transpose(1, 2)], 1)
    found = []
    for tokens in (first, network.forward_features(images)):
        patches = tokens[:, num_prefix:]
        found.append({'raw': tokens, 'cls_token': tokens[:, 0], 'avg_featmap': patches.mean(1),
                      'featmap': patches.transpose(1, 2).reshape(maps.shape)}[out_type])
    return found


@pytest.mark.parametrize('name, is_native', [
    *((name, True) for name in FAMILIES), *((name, False) for name in ANY_SIZE)])
@torch.no_grad()
def test_features_are_those_of_timm(name, is_native):
    num_prefix, has_class_token = FAMILIES[name]
    model = build(name, out_indices=(0, -1))
    assert model.num_prefix == num_prefix and model.has_class_token == has_class_token
    assert model.out_type == ('cls_token' if has_class_token else 'avg_featmap')
    patch = model.patch_size
    images = images_of(*(model.img_size if is_native else (5 * patch, 3 * patch)), batch=1)
    network = theirs(model, **({} if is_native else dict(dynamic_img_size=True)))
    for out_type in OUT_TYPES[not has_class_token:]:
        model.out_type = out_type
        for ours, reference in zip(model(images), wanted(network, images, num_prefix, out_type),
                                   strict=True):
            torch.testing.assert_close(ours, reference, rtol=0, atol=1e-5)


@torch.no_grad()
def test_without_final_norm_the_last_layer_is_timms_last_block():
    model, images = build(final_norm=False, out_type='featmap'), images_of(56, 56)
    network = theirs(model, dynamic_img_size=True)
    reference, = network.forward_intermediates(images, indices=[3], intermediates_only=True)
    torch.testing.assert_close(model(images)[0], reference, rtol=0, atol=1e-5)


@torch.no_grad()
def test_sides_that_are_no_multiple_of_the_patch_size_are_padded_and_it_is_said_once(caplog):
    model, images = build(out_type='featmap'), images_of(53, 71)
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    try:
        found = [model(images)[0] for _ in range(2)]
    finally:
        logger.removeHandler(caplog.handler)
    reference = model(F.pad(images, (0, 13, 0, 3)))[0]
    assert reference.shape == (2, 24, 4, 6)
    assert all(maps.equal(reference) for maps in found)
    assert [record.getMessage() for record in caplog.records] == [
        'images of 53x71 pixels are padded with zeros to 56x84, a multiple of the patch size 14 of '
        'vit_small_patch14_dinov2']


def test_a_network_of_fixed_size_refuses_another_size_and_takes_the_size_that_is_set():
    with pytest.raises(ValueError, match='beit_base_patch16_224 takes images of 224x224 pixels '
                                         'only, got 64x64. Set img_size=64 of the backbone'):
        build('beit_base_patch16_224')(images_of(64, 64))
    model = build('beit_base_patch16_224', img_size=64, out_type='featmap')
    assert model(images_of(64, 64))[0].shape == (2, 24, 4, 4)
    assert model.patch_resolution == (4, 4)


def test_layers_count_from_the_end_with_negative_numbers():
    images = images_of(28, 28)
    for ours, same in zip(build(out_indices=(-3, -1))(images), build(out_indices=(1, 3))(images),
                          strict=True):
        assert ours.equal(same)
    assert build(out_indices=-2).out_indices == [2]


@pytest.mark.parametrize('out_indices, message', [
    ((4,), 'has 4 layers: got out_indices=(4,), expected numbers from -4 to 3'),
    ((-5,), 'has 4 layers: got out_indices=(-5,)'), ((), 'has 4 layers: got out_indices=()'),
    ((2, 1), 'got out_indices=(2, 1), expected different layers in ascending order'),
    ((3, -1), 'got out_indices=(3, -1), expected different layers in ascending order')])
def test_layers_that_are_not_there_or_not_in_order_are_refused(out_indices, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build(out_indices=out_indices)


@pytest.mark.parametrize('name, message', [
    ('vit_of_nobody', "timm has no model 'vit_of_nobody'"), ('resnet18', "'resnet18'"),
    ('swin_tiny_patch4_window7_224', "'swin_tiny_patch4_window7_224'"),
    ('mixer_s16_224', "'mixer_s16_224'"), (None, 'timm has no model None')])
def test_a_name_that_is_no_vision_transformer_is_refused(name, message):
    with pytest.raises(ValueError, match=f'{message}.*Expected a vision transformer, as vit_small'):
        MODELS.build(dict(type='semmae.TimmViT', model_name=name))


@pytest.mark.parametrize('out_type, message', [
    ('cls_token', "siglip_224 has no class token, got out_type='cls_token'. Expected"),
    ('pooled', "got out_type='pooled', expected one of")])
def test_a_form_that_the_network_does_not_have_is_refused(out_type, message):
    with pytest.raises(ValueError, match=message):
        build('vit_base_patch16_siglip_224', out_type=out_type)


# -- weights


def from_file(state, path):
    save_file(state, path)
    model = build(init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    model.init_weights()
    return model


def test_a_file_fills_every_tensor_and_one_that_lacks_a_tensor_is_refused(tmp_path):
    torch.manual_seed(1)
    state = {k: torch.randn_like(v) for k, v in build().vit.state_dict().items()}
    model = from_file(state, tmp_path / 'x.safetensors')
    assert all(v.equal(state[k]) for k, v in model.vit.state_dict().items())
    assert model.load_report['matched'] == len(state)
    del state['blocks.2.attn.proj.bias']
    with pytest.raises(ValueError, match=r'blocks.2.attn.proj.bias: missing in the file'):
        from_file(state, tmp_path / 'y.safetensors')


@pytest.mark.parametrize('init_cfg', [dict(type='TruncNormal'), dict(type='Pretrained')])
def test_another_initialisation_is_refused(init_cfg):
    with pytest.raises(ValueError, match="expected dict\\(type='Pretrained', checkpoint=FILE\\)"):
        build(init_cfg=init_cfg).init_weights()


def test_a_download_that_fails_is_one_clear_error(monkeypatch):
    create = timm.create_model

    def offline(*args, pretrained=False, **kwargs):
        if pretrained:
            raise OSError('no route to host')
        return create(*args, **kwargs)
    monkeypatch.setattr(timm, 'create_model', offline)
    model = build(pretrained=True)
    with pytest.raises(ValueError, match=f"cannot download the weights of '{DINOV2}': OSError: no "
                                         'route to host. Get the file elsewhere and give it'):
        model.init_weights()


def test_a_download_fills_the_model_and_names_its_source(monkeypatch):
    create, source = timm.create_model, build(img_size=28).vit

    def online(*args, pretrained=False, **kwargs):
        return source if pretrained else create(*args, **kwargs)
    monkeypatch.setattr(timm, 'create_model', online)
    model = build(pretrained=True, img_size=28)
    for parameter in source.parameters():
        parameter.data.normal_()
    model.init_weights()
    assert all(v.equal(source.state_dict()[k]) for k, v in model.vit.state_dict().items())
    assert model.load_report['path'] == f'timm:timm/{DINOV2}.lvd142m'
    assert model.load_report['matched'] == len(source.state_dict())


# -- part learning


@torch.no_grad()
def test_the_heads_of_a_network_with_biases_beside_its_qkv_are_refused():
    encoder = MODELS.build(dict(type='semmae.PartEncoder', grid=4, backbone=dict(
        type='semmae.TimmViT', model_name='beit_base_patch16_224', embed_dim=24, depth=2,
        num_heads=2, img_size=64, out_type='raw')))
    encoder(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match='heads of Beit are not available.*of its qkv layer'):
        encoder(torch.zeros(1, 3, 64, 64), return_heads=True)


@pytest.mark.parametrize('name', [
    DINOV2, 'vit_small_patch14_reg4_dinov2', 'vit_small_patch16_dinov3'])
@torch.no_grad()
def test_a_part_encoder_gives_the_class_token_and_the_patches_without_registers(name):
    torch.manual_seed(0)
    encoder = MODELS.build(dict(
        type='semmae.PartEncoder', grid=3,
        backbone=dict(type='semmae.TimmViT', model_name=name, **SMALL)))
    side = 3 * encoder.patch_size
    images = images_of(side, side)
    tokens = theirs(encoder.backbone, dynamic_img_size=True).forward_features(images)
    cls_token, patches = encoder(images)
    torch.testing.assert_close(cls_token, tokens[:, 0], rtol=0, atol=1e-5)
    torch.testing.assert_close(patches, tokens[:, -9:], rtol=0, atol=1e-5)
    if 'dinov3' in name:
        with pytest.raises(ValueError, match='heads of Eva are not available.*rotary positions'):
            encoder(images, return_heads=True)
    else:
        heads = encoder(images, return_heads=True)[2]
        assert heads.shape == (2, 3, 9) and (heads.sum(-1) < 1).all()


@torch.no_grad()
def test_a_part_encoder_takes_the_name_of_a_dinov2_model():
    encoder = MODELS.build(dict(type='semmae.PartEncoder', grid=2, backbone=DINOV2))
    cls_token, patches = encoder(images_of(28, 28, batch=1))
    assert cls_token.shape == (1, 384) and patches.shape == (1, 4, 384)
