"""Relative positions belong to one grid of patches; other images are refused or padded."""
import pytest
import torch
from mmengine.config import Config
from mmseg.structures import SegDataSample

from semmae.models import ViT
from semmae.models.backbone import relative_positions
from semmae.registry import MODELS

ARCH = dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=48)


def vit(**kwargs):
    torch.manual_seed(0)
    model = ViT(**dict(dict(arch=ARCH, img_size=64, patch_size=8, out_type='raw',
                            rel_pos_bias=True), **kwargs))
    model.init_weights()
    for layer in model.layers:
        torch.nn.init.normal_(layer.attn.relative_position_bias_table)
    return model.eval()


@pytest.mark.parametrize('out_type', ['raw', 'cls_token', 'avg_featmap'])
@pytest.mark.parametrize('height, width', [(32, 128), (128, 32)])
def test_another_grid_with_as_many_patches_is_refused(out_type, height, width):
    told = (f'made for a grid of 8x8 patches, got {height // 8}x{width // 8}: the image is larger '
            'than img_size')
    with pytest.raises(ValueError, match=told):
        vit(out_type=out_type)(torch.randn(1, 3, height, width))


@pytest.mark.parametrize('out_type', ['raw', 'cls_token', 'avg_featmap'])
def test_a_smaller_image_without_a_feature_map_is_called_smaller(out_type):
    with pytest.raises(ValueError, match='got 4x5: the image is smaller than img_size'):
        vit(out_type=out_type)(torch.randn(1, 3, 32, 40))


@pytest.mark.parametrize('ids_keep', [torch.arange(5)[None], torch.arange(64).flip(0)[None]])
def test_kept_patches_are_refused_even_if_all_are_kept(ids_keep):
    with pytest.raises(ValueError, match='rel_pos_bias=True needs all patches in order'):
        vit()(torch.randn(1, 3, 64, 64), ids_keep)


def test_the_patches_of_a_smaller_window_have_the_biases_of_their_offsets():
    # A padded window is in the upper left corner of the full one.
    bias = vit().layers[0].attn.bias()[0, :, 1:, 1:].unflatten(1, (8, 8)).unflatten(3, (8, 8))
    corner = bias[:, :3, :5, :3, :5].flatten(3).flatten(1, 2)
    small, table = relative_positions(3, 5)[1:, 1:], {}
    for row, value in zip(small.flatten().tolist(), corner.flatten(1).T, strict=True):
        assert table.setdefault(row, value).equal(value)
    assert len(table) == 5 * 9


@pytest.mark.slow
@pytest.mark.parametrize('height, width', [(64, 64), (48, 60)])
def test_a_compiled_backbone_has_the_features_of_the_eager_one(height, width):
    model = vit(out_type='featmap', arch=dict(ARCH, num_layers=1))
    images = torch.randn(1, 3, height, width)
    compiled = torch.compile(model, backend='eager', fullgraph=True)
    with torch.no_grad():
        assert compiled(images)[0].equal(model(images)[0])


# UPerNet with photos smaller than its crop

SLIDE = dict(mode='slide', crop_size=(64, 64), stride=(42, 42))


@pytest.fixture(scope='module')
def segmentor():
    torch.manual_seed(0)
    cfg = Config.fromfile('mm_configs/mini/semmae_upernet_ade20k_mini.py').model
    cfg.backbone.init_cfg = None
    for node in (cfg.neck, cfg.decode_head, cfg.auxiliary_head):
        node.norm_cfg = dict(type='BN')
    model = MODELS.build(cfg)
    model.backbone.init_weights()
    for layer in model.backbone.layers:
        torch.nn.init.normal_(layer.attn.relative_position_bias_table)
    return model.eval()


def predict(model, height, width, test_cfg):
    model.test_cfg.clear()
    model.test_cfg.update(test_cfg)
    sample = SegDataSample()
    sample.set_metainfo(dict(ori_shape=(height, width), img_shape=(height, width),
                             pad_shape=(height, width)))
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    data = model.data_preprocessor(dict(inputs=[image], data_samples=[sample]), False)
    with torch.no_grad():
        (found,) = model.predict(data['inputs'], data['data_samples'])
    return found.seg_logits.data


@pytest.mark.parametrize('height, width, test_cfg', [
    (48, 130, SLIDE), (130, 48, SLIDE), (20, 20, SLIDE), (64, 64, SLIDE),
    (48, 60, dict(mode='whole')), (64, 64, dict(mode='whole'))])
def test_a_photo_smaller_than_the_crop_gets_logits_of_its_size(segmentor, height, width, test_cfg):
    logits = predict(segmentor, height, width, test_cfg)
    assert logits.shape == (8, height, width) and logits.isfinite().all()


def test_a_photo_larger_than_the_window_needs_slide_mode(segmentor):
    with pytest.raises(ValueError, match="larger than img_size .*mode='slide'"):
        predict(segmentor, 48, 300, dict(mode='whole'))


def test_a_small_image_has_the_features_of_the_padded_image(segmentor):
    vit = segmentor.backbone
    small, full = torch.randn(2, 3, 48, 64), torch.zeros(2, 3, 64, 64)
    full[:, :, :48] = small
    with torch.no_grad():
        for mine, theirs in zip(vit(small), vit(full)):
            assert mine.shape[-2:] == (6, 8)
            assert mine.equal(theirs[:, :, :6])


def test_an_image_of_the_trained_size_is_not_padded():
    images = torch.randn(1, 3, 64, 64)
    same, grid = vit().filled_up(images)
    assert same is images and grid is None
