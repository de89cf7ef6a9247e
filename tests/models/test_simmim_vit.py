"""SimMIM's encoder: the interface of mmpretrain's SimMIM, with tensors that semmae.ViT loads."""
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from semmae.registry import MODELS
from semmae.suites.catalogue import PAPER
from semmae.training.run import train

REPO = Path(__file__).resolve().parents[2]
ARCH = dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=48)
CONFIGS = sorted((REPO / 'mm_configs/ablations').glob('simmim_*.py'))


def build(kind, **kwargs):
    model = MODELS.build(dict(type=kind, arch=ARCH, img_size=32, patch_size=8, **kwargs))
    model.init_weights()
    return model.eval()


def test_without_a_mask_it_is_the_vit():
    model, vit = build('semmae.SimMIMViT'), build('semmae.ViT', out_type='featmap')
    vit.load_state_dict({k: v for k, v in model.state_dict().items() if k != 'mask_token'})
    images = torch.randn(2, 3, 32, 32)
    nothing = torch.zeros(2, 4, 4, dtype=torch.long)
    for found in (model(images), model(images, nothing)):
        torch.testing.assert_close(found[0], vit(images)[0])
    assert found[0].shape == (2, 24, 4, 4)


def test_the_features_depend_on_all_pixels_that_are_not_masked():
    model = build('semmae.SimMIMViT')
    mask = torch.zeros(1, 4, 4, dtype=torch.long)
    mask[0, 1, 2] = 1
    images = torch.randn(1, 3, 32, 32)
    hidden, shown = images.clone(), images.clone()
    hidden[..., 8:16, 16:24] += 1
    shown[..., 16:24, 16:24] += 1
    features = model(images, mask)[0]
    assert features.equal(model(hidden, mask)[0])
    assert not features.allclose(model(shown, mask)[0])


def test_a_mask_of_another_grid_is_refused():
    with pytest.raises(ValueError, match=r'got masks of \(2, 2\) patches, expected \(4, 4\)'):
        build('semmae.SimMIMViT')(torch.zeros(1, 3, 32, 32), torch.zeros(1, 2, 2))


def test_a_pretraining_loads_into_the_vit_without_its_mask_token(toy, tmp_path):
    pipeline = 'train_dataloader.dataset.dataset.pipeline'
    train(REPO / 'mm_configs/ablations/simmim_vit-base-p16_mask32.py', work_dir=tmp_path, seed=0,
          accept_batch=True, options={
        'model.backbone.arch': dict(_delete_=True, **ARCH), 'model.backbone.img_size': 64,
        'model.neck.in_channels': 24, f'{pipeline}.1.scale': 64,
        f'{pipeline}.3.input_size': 64,
        'train_dataloader.dataset.dataset.data_root': str(toy / 'imagenet/train'),
        'train_dataloader.batch_size': 16, 'train_dataloader.num_workers': 0,
        'train_dataloader.persistent_workers': False, 'train_cfg.max_epochs': 1})
    vit = MODELS.build(dict(
        type='semmae.ViT', arch=ARCH, img_size=64, patch_size=16, out_type='avg_featmap',
        final_norm=False, init_cfg=dict(type='Pretrained',
                                        checkpoint=str(tmp_path / 'epoch_1.pth'))))
    vit.init_weights()
    saved = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)['state_dict']
    report = vit.load_report
    assert report['recipe']['id'] == 'simmim_p32' and report['recipe']['reduced_why']
    assert set(report['new']) == {'ln2.weight', 'ln2.bias'} and not report['resized']
    left = {k for k in saved if k.startswith('backbone.')} - {
        f'backbone.{k}' for k in vit.state_dict()}
    assert left == {'backbone.mask_token', 'backbone.ln1.weight', 'backbone.ln1.bias'}
    assert vit.layers[1].attn.qkv.weight.equal(saved['backbone.layers.1.attn.qkv.weight'])


@pytest.mark.parametrize('config', CONFIGS, ids=lambda c: c.stem)
def test_sizes_of_a_config_agree_and_its_batch_divides(config):
    cfg = Config.fromfile(config)
    patch, masks = cfg.model.backbone.patch_size, cfg.train_dataloader.dataset.dataset.pipeline[3]
    assert patch == cfg.model.neck.encoder_stride == cfg.model.head.patch_size
    assert patch == masks.model_patch_size == min(16, masks.mask_patch_size)
    assert cfg.recipe.id == f'simmim_p{masks.mask_patch_size}'
    assert masks.input_size == cfg.model.backbone.img_size == cfg.recipe.full.pixels
    assert cfg.recipe.full.batch_size % (16 * cfg.train_dataloader.batch_size) == 0
    (row,) = [r for r in PAPER.rows if r.id == f'finetune/{cfg.recipe.id}']
    assert int(row.options['model.backbone.patch_size']) == patch
