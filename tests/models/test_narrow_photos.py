"""UPerNet with relative positions takes photos that are smaller than its crop."""
import pytest
import torch
from mmengine.config import Config
from mmseg.structures import SegDataSample

from semmae.models import ViT
from semmae.registry import MODELS

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
    (48, 300, SLIDE), (300, 48, SLIDE), (20, 20, SLIDE), (64, 64, SLIDE), (50, 90, SLIDE),
    (48, 60, dict(mode='whole')), (20, 33, dict(mode='whole')), (64, 64, dict(mode='whole'))])
def test_a_photo_smaller_than_the_crop_gets_logits_of_its_size(segmentor, height, width, test_cfg):
    logits = predict(segmentor, height, width, test_cfg)
    assert logits.shape == (8, height, width) and logits.isfinite().all()


def test_a_photo_larger_than_the_window_in_whole_mode_is_told_to_slide(segmentor):
    with pytest.raises(ValueError, match="larger than img_size .*mode='slide'"):
        predict(segmentor, 48, 300, dict(mode='whole'))


def test_a_small_image_has_the_features_of_the_same_image_filled_up_as_in_training(segmentor):
    vit = segmentor.backbone
    small, full = torch.randn(2, 3, 48, 64), torch.zeros(2, 3, 64, 64)
    full[:, :, :48] = small
    with torch.no_grad():
        for mine, theirs in zip(vit(small), vit(full)):
            assert mine.shape[-2:] == (6, 8)
            assert mine.equal(theirs[:, :, :6])


def test_an_image_of_the_trained_size_is_not_touched():
    vit = ViT(arch=dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=32),
              img_size=32, patch_size=8, out_type='featmap', rel_pos_bias=True)
    images = torch.randn(1, 3, 32, 32)
    same, grid = vit.filled_up(images)
    assert same is images and grid is None
