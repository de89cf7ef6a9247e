"""Images are normalised as the timm backbone of a config was trained, unless the user says how."""
import pytest
import torch
from mmengine.config import Config

from semmae.config.identity import training_fields
from semmae.config.options import read_config
from semmae.config.protocol import network_fields, without_network
from semmae.registry import MODELS

from ..tiny import REPO

DENSE = REPO / 'mm_configs/dense'
PARTS = REPO / 'mm_configs/semmae_parts.py'
MEAN, STD = 'model.data_preprocessor.mean', 'model.data_preprocessor.std'
NAME = 'model.backbone.model_name'
IMAGENET = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
HALF = [127.5] * 3, [127.5] * 3
MODELS_OF_TIMM = {'vit_small_patch14_dinov2': IMAGENET, 'vit_base_patch16_siglip_224': HALF,
                  'vit_base_patch16_224': HALF, 'vit_small_patch16_dinov3.lvd1689m': IMAGENET,
                  'eva02_base_patch14_224': ([122.771, 116.746, 104.094],
                                             [68.501, 66.632, 70.323])}


def of(cfg):
    preprocessor = cfg.model.data_preprocessor
    return list(preprocessor.mean), list(preprocessor.std)


@pytest.mark.parametrize('name', MODELS_OF_TIMM)
@pytest.mark.parametrize('config', ['dense_cub', 'dense_camvid', 'dense_upernet_camvid'])
def test_mmpretrain_and_mmseg_normalise_as_timm_trained_the_model(config, name):
    cfg = read_config(DENSE / f'{config}.py', {NAME: name})
    assert of(cfg) == MODELS_OF_TIMM[name]


@pytest.mark.parametrize('config, inputs', [
    ('dense_cub', 'torch.stack'), ('dense_camvid', 'list')])
def test_the_preprocessor_gives_the_backbone_red_first_and_from_minus_one_to_one(config, inputs):
    cfg = read_config(DENSE / f'{config}.py', {NAME: 'vit_base_patch16_siglip_224'})
    image = torch.tensor([0, 127, 255], dtype=torch.uint8)[:, None, None].expand(3, 4, 4)  # BGR
    images = image[None] if inputs == 'torch.stack' else [image]
    found = MODELS.build(cfg.model.data_preprocessor)(dict(inputs=images), False)['inputs']
    torch.testing.assert_close(found[0, :, 0, 0], torch.tensor([1., -.5 / 127.5, -1.]))


@pytest.mark.parametrize('encoder', ['vit_base_patch16_siglip_224', dict(
    type='semmae.TimmViT', model_name='vit_base_patch16_siglip_224')])
def test_a_part_learner_normalises_as_its_encoder(encoder):
    options = {'model.encoder.backbone': encoder}
    if isinstance(encoder, dict):
        options = {'model.encoder.backbone._delete_': True,
                   **{f'model.encoder.backbone.{k}': v for k, v in encoder.items()}}
    cfg = read_config(PARTS, {f'+{k}': v for k, v in options.items()})
    assert of(cfg) == HALF
    built = MODELS.build(cfg.model.data_preprocessor)
    image = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    assert built(dict(inputs=image), False)['inputs'].eq(1).all()


def test_the_backbones_own_mean_and_std_come_before_those_of_timm():
    cfg = read_config(DENSE / 'dense_cub.py', {
        NAME: 'vit_base_patch16_siglip_224', 'model.backbone.mean': [1, 2, 3]})
    assert of(cfg) == ([1., 2., 3.], HALF[1])
    backbone = MODELS.build(dict(cfg.model.backbone, init_cfg=None, depth=1, embed_dim=24,
                                 num_heads=2, out_indices=(-1,)))
    assert (backbone.mean, backbone.std) == ([1., 2., 3.], HALF[1])


def test_an_option_for_the_preprocessor_comes_first():
    options = {NAME: 'vit_base_patch16_siglip_224', 'model.backbone.mean': [1, 2, 3],
               'model.backbone.std': [4, 5, 6], MEAN: [7, 8, 9]}
    assert of(read_config(DENSE / 'dense_camvid.py', options)) == ([7, 8, 9], [4., 5., 6.])


@pytest.mark.parametrize('path', [
    'semmae_linprobe.py', 'semmae_parts.py', 'semmae_pretrain.py', 'semmae_upernet_ade20k.py',
    'ablations/knn_vit-base-p16.py'])
def test_configs_of_other_backbones_stay_as_they_are(path):
    path = REPO / 'mm_configs' / path
    assert read_config(path).model == Config.fromfile(path).model


# ------------------------------------------------------------------ what a result line says
def test_a_dense_line_has_it_in_the_identity_of_the_backbone():
    cfg = read_config(DENSE / 'dense_cub.py', {NAME: 'vit_base_patch16_siglip_224'})
    found = network_fields(cfg)
    assert (found[MEAN], found[STD], found[NAME]) == (*HALF, 'vit_base_patch16_siglip_224')
    kept = without_network(training_fields(cfg), True, 12)
    assert not {MEAN, STD, NAME} & kept.keys() and 'model.task.num_classes' in kept
    other = read_config(DENSE / 'dense_cub.py')
    assert without_network(training_fields(other), True, 12) == kept


def test_a_line_of_another_table_has_it_in_its_protocol():
    options = {NAME: 'vit_base_patch16_siglip_224', 'result.tables': []}
    fields = [training_fields(read_config(DENSE / 'dense_upernet_camvid.py', {**options, **more}))
              for more in ({}, {MEAN: [0, 0, 0]})]
    assert (fields[0][MEAN], fields[1][MEAN]) == (HALF[0], [0, 0, 0])
