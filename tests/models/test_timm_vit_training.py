"""`TimmViT` trains in mmpretrain and mmseg, with layer decay, or stays frozen."""
import re

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.structures import PixelData
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample

from semmae.registry import MODELS

from .small_timm import DINOV2, FAMILIES, SMALL, build, images_of


@pytest.mark.parametrize('name', FAMILIES)
def test_layer_depth_counts_from_the_embedding_to_the_norm(name):
    model = build(name)
    for key, _ in model.named_parameters():
        block = re.match(r'vit\.blocks\.(\d+)\.', key)
        depth = int(block[1]) + 1 if block else (
            5 if re.match(r'vit\.(norm|fc_norm|attn_pool)\.', key) else 0)
        assert model.get_layer_depth(f'backbone.{key}', 'backbone.') == (depth, 6), key


def classifier(name=DINOV2, **kwargs):
    torch.manual_seed(0)
    return MODELS.build(dict(
        type='mmpretrain.ImageClassifier',
        backbone=dict(type='semmae.TimmViT', model_name=name, **SMALL, **kwargs),
        head=dict(type='mmpretrain.LinearClsHead', num_classes=3, in_channels=24),
        data_preprocessor=dict(type='mmpretrain.ClsDataPreprocessor')))  # in any default scope


def test_layer_decay_lowers_the_rate_of_each_layer():
    model = classifier()
    optim = build_optim_wrapper(model, dict(
        type='OptimWrapper', optimizer=dict(type='SGD', lr=1., weight_decay=0.),
        constructor='semmae.LayerDecayConstructor', paramwise_cfg=dict(layer_decay_rate=.5)))
    rates = {id(p): group['lr'] for group in optim.optimizer.param_groups
             for p in group['params']}
    vit = model.backbone.vit
    assert [rates[id(p)] for p in (
        vit.patch_embed.proj.weight, vit.pos_embed, vit.cls_token, vit.blocks[0].mlp.fc1.weight,
        vit.blocks[3].mlp.fc1.weight, vit.norm.weight, model.head.fc.weight)] == [
            2 ** -5, 2 ** -5, 2 ** -5, 2 ** -4, .5, 1, 1]


def require_gradients(model, losses):
    loss = sum(value for key, value in losses.items() if 'loss' in key)
    assert loss.isfinite()
    loss.backward()
    without = [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without, 'DDP waits for these'
    return [key for key, p in model.named_parameters() if p.grad is not None]


@pytest.mark.parametrize('name, out_type', [
    *((name, 'avg_featmap') for name in FAMILIES),
    *((name, 'cls_token') for name, (_, has_class_token) in FAMILIES.items() if has_class_token)])
def test_a_classifier_trains_every_parameter(name, out_type):
    model = classifier(name, out_type=out_type, img_size=56 if '14' in name else 64).train()
    side = model.backbone.img_size[0]
    losses = model(images_of(side, side), [DataSample().set_gt_label(i) for i in (0, 2)], 'loss')
    trained = require_gradients(model, losses)
    assert 'backbone.vit.patch_embed.proj.weight' in trained
    assert any(key.startswith('backbone.vit.blocks.3.mlp') for key in trained)


def segmentor(**kwargs):
    torch.manual_seed(0)
    norm = dict(type='BN')
    return MODELS.build(dict(
        type='mmseg.EncoderDecoder', train_cfg=dict(), test_cfg=dict(mode='whole'),
        backbone=dict(type='semmae.TimmViT', model_name='vit_small_patch16_dinov3', **SMALL,
                      out_type='featmap', out_indices=(0, 1, 2, 3), **kwargs),
        neck=dict(type='mmseg.Feature2Pyramid', embed_dim=24, rescales=[4, 2, 1, .5],
                  norm_cfg=norm),
        decode_head=dict(type='mmseg.UPerHead', in_channels=[24] * 4, in_index=[0, 1, 2, 3],
                         channels=8, num_classes=3, norm_cfg=norm, align_corners=False,
                         loss_decode=dict(type='mmseg.CrossEntropyLoss'))))


def segmentation_losses(model):
    samples = [SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, 3, (1, 64, 64))),
                             metainfo=dict(img_shape=(64, 64))) for _ in range(2)]
    return model(images_of(64, 64), samples, 'loss')


@pytest.mark.parametrize('final_norm', [True, False])
def test_upernet_trains_every_parameter(final_norm):
    model = segmentor(final_norm=final_norm).train()
    trained = require_gradients(model, segmentation_losses(model))
    assert any(key.startswith('backbone.vit.patch_embed') for key in trained)
    assert any(key.startswith('backbone.vit.norm') for key in trained) == final_norm


def test_a_frozen_backbone_gets_no_gradient_and_stays_in_evaluation_mode():
    model = segmentor(is_frozen=True, drop_path_rate=.5).train()
    assert model.training and not any(m.training for m in model.backbone.modules())
    trained = require_gradients(model, segmentation_losses(model))
    assert trained and not any(key.startswith('backbone.') for key in trained)


def test_a_state_dict_restores_the_model():
    model, other = classifier(), classifier()
    for parameter in model.parameters():
        parameter.data.normal_(std=.2)
    images = images_of(28, 28)
    assert not model.eval()(images)[0].equal(other.eval()(images)[0])
    other.load_state_dict(model.state_dict())
    assert model(images)[0].equal(other(images)[0])


@pytest.mark.parametrize('name', [DINOV2, 'vit_small_patch16_dinov3'])
def test_drop_path_reaches_the_blocks_of_timm(name):
    blocks = build(name, drop_path_rate=.3).vit.blocks
    assert blocks[-1].drop_path1.drop_prob == pytest.approx(.3)
