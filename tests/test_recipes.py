"""The recipes hold the numbers of their sources, value by value (references: MAE's and the
SemMAE paper's settings, SimMIM's code, mmsegmentation's UPerNet, the probes of DINO and DINOv3,
Segmenter)."""
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmpretrain.structures import DataSample

from semmae.registry import MODELS

REPO = Path(__file__).resolve().parents[1]


def value(cfg, key):
    for part in key.split('.'):
        cfg = cfg[int(part)] if isinstance(cfg, (list, tuple)) else cfg[part]
    return list(cfg) if isinstance(cfg, tuple) else cfg


ADAMW = {'optim_wrapper.type': 'AmpOptimWrapper', 'optim_wrapper.optimizer.type': 'AdamW',
         'optim_wrapper.optimizer.weight_decay': 0.05}
FINETUNE = {**ADAMW, 'optim_wrapper.paramwise_cfg.layer_decay_rate': 0.65,
            'optim_wrapper.optimizer.betas': [0.9, 0.999], 'train_cfg.max_epochs': 100,
            'param_scheduler.0.end': 5, 'param_scheduler.1.eta_min': 1e-6,
            'model.backbone.drop_path_rate': 0.1, 'model.backbone.patch_size': 8,
            'model.head.loss.label_smooth_val': 0.1, 'model.backbone.out_type': 'avg_featmap'}
KNN = {  # facebookresearch/dino at 7c446df, eval_knn.py
    'model.head.k': 20, 'model.head.also': [10, 100, 200], 'model.head.temperature': 0.07,
    'model.backbone.out_type': 'cls_token', 'model.backbone.is_frozen': True,
    'train_dataloader.drop_last': False,
    'train_dataloader.dataset.dataset.pipeline.1.scale': 256,
    'train_dataloader.dataset.dataset.pipeline.1.interpolation': 'bicubic',
    'train_dataloader.dataset.dataset.pipeline.2.crop_size': 224,
    'val_dataloader.dataset.pipeline.1.scale': 256,
    'val_dataloader.dataset.pipeline.2.crop_size': 224}
RECIPES = {
    'semmae_pretrain': {  # SemMAE, Sec. 4.1
        **ADAMW, 'optim_wrapper.optimizer.lr': 2.4e-3, 'optim_wrapper.optimizer.betas': [0.9, 0.95],
        'train_cfg.max_epochs': 800, 'param_scheduler.0.end': 40, 'param_scheduler.1.T_max': 760,
        'train_dataloader.batch_size': 256, 'recipe.full.batch_size': 4096,
        'model.masking.mask_ratio': 0.75, 'model.masking.gamma': 2.0, 'model.masking.num_parts': 6,
        'model.backbone.patch_size': 8, 'model.num_candidates': 196, 'model.decoder.grid': 28,
        'model.decoder.decoder_embed_dim': 512, 'model.decoder.decoder_depth': 8,
        'model.decoder.decoder_num_heads': 16, 'model.norm_pix_loss': True,
        'train_dataloader.dataset.dataset.pipeline.0.type': 'semmae.LoadCenterCrop',
        'train_dataloader.dataset.dataset.pipeline.0.flip_prob': 0.5},
    'ablations/simmim_vit-base-p16_mask32': {  # microsoft/SimMIM, configs/vit_base__800ep
        **ADAMW, 'optim_wrapper.optimizer.lr': 4e-4, 'optim_wrapper.optimizer.betas': [0.9, 0.999],
        'optim_wrapper.clip_grad.max_norm': 5.0, 'recipe.full.batch_size': 2048,
        'train_dataloader.batch_size': 128, 'train_cfg.max_epochs': 800,
        'param_scheduler.0.end': 10, 'param_scheduler.1.milestones': [690],
        'param_scheduler.1.gamma': 0.1, 'model.backbone.drop_path_rate': 0.1,
        'model.backbone.patch_size': 16, 'model.head.loss.criterion': 'L1',
        'train_dataloader.dataset.dataset.pipeline.1.crop_ratio_range': [0.67, 1.0],
        'train_dataloader.dataset.dataset.pipeline.3.mask_patch_size': 32,
        'train_dataloader.dataset.dataset.pipeline.3.mask_ratio': 0.6},
    'semmae_parts': {  # SemMAE, Sec. 4.1
        'model.num_parts': 6, 'model.blur_kernel': 7, 'model.diversity_weight': 0.03,
        'model.encoder.backbone.arch': 'deit-small', 'model.encoder.grid': 28,
        'model.encoder.backbone.patch_size': 16, 'model.decoder.type': 'semmae.PartDecoder',
        'train_dataloader.dataset.dataset.pipeline.0.size': 448},
    'semmae_linprobe': {  # MAE, A.1
        'optim_wrapper.optimizer.type': 'semmae.LARS', 'optim_wrapper.optimizer.lr': 6.4,
        'optim_wrapper.optimizer.weight_decay': 0.0, 'optim_wrapper.optimizer.momentum': 0.9,
        'train_cfg.max_epochs': 90, 'param_scheduler.0.end': 10, 'result.full.batch_size': 16384,
        'model.neck.type': 'mmpretrain.ClsBatchNormNeck', 'model.backbone.out_type': 'cls_token',
        'model.backbone.is_frozen': True, 'model.num_candidates': 196},
    'semmae_finetune': {  # MAE, A.1
        **FINETUNE, 'optim_wrapper.optimizer.lr': 2e-3, 'result.full.batch_size': 1024,
        'train_dataloader.batch_size': 128, 'model.train_cfg.augments.0.alpha': 0.8,
        'model.train_cfg.augments.1.alpha': 1.0,
        'train_dataloader.dataset.dataset.pipeline.3.magnitude_level': 9,
        'train_dataloader.dataset.dataset.pipeline.4.erase_prob': 0.25},
    'ablations/scratch_vit-base-p16': {  # MAE, A.2
        'optim_wrapper.optimizer.type': 'AdamW', 'optim_wrapper.optimizer.lr': 1.6e-3,
        'optim_wrapper.optimizer.betas': [0.9, 0.95],
        'optim_wrapper.optimizer.weight_decay': 0.3, 'result.full.batch_size': 4096,
        'train_dataloader.batch_size': 256, 'param_scheduler.0.end': 20,
        'param_scheduler.1.type': 'CosineAnnealingLR', 'param_scheduler.1.T_max': 280,
        'optim_wrapper.paramwise_cfg.layer_decay_rate': 1.0, 'train_cfg.max_epochs': 300,
        'train_dataloader.dataset.dataset.pipeline.3.type': 'RandAugment',
        'train_dataloader.dataset.dataset.pipeline.3.magnitude_level': 9,
        'train_dataloader.dataset.dataset.pipeline.3.magnitude_std': 0.5,
        'train_dataloader.dataset.dataset.pipeline.4.type': 'PackInputs',
        'model.head.loss.label_smooth_val': 0.1, 'model.train_cfg.augments.0.alpha': 0.8,
        'model.train_cfg.augments.1.alpha': 1.0, 'model.backbone.drop_path_rate': 0.1,
        'model.backbone.patch_size': 16, 'model.backbone.init_cfg': None,
        'custom_hooks.7': dict(type='semmae.EMAHook', momentum=1e-4)},
    'semmae_inat19': {**FINETUNE, 'model.head.num_classes': 1010},
    'semmae_cub': {**FINETUNE, 'model.head.num_classes': 200},
    'semmae_cars': {**FINETUNE, 'model.head.num_classes': 196},
    'semmae_upernet_ade20k': {  # MAE, A.4, and mmsegmentation's mae-base_upernet
        **ADAMW, 'optim_wrapper.optimizer.lr': 1e-4, 'train_cfg.max_iters': 160000,
        'optim_wrapper.paramwise_cfg.layer_decay_rate': 0.65, 'model.backbone.patch_size': 16,
        'model.backbone.drop_path_rate': 0.1, 'model.backbone.rel_pos_bias': True,
        'model.backbone.out_indices': [3, 5, 7, 11], 'model.decode_head.channels': 768,
        'model.decode_head.pool_scales': [1, 2, 3, 6], 'model.auxiliary_head.in_index': 2,
        'model.auxiliary_head.loss_decode.loss_weight': 0.4, 'param_scheduler.0.end': 1500,
        'model.test_cfg.stride': [341, 341], 'model.test_cfg.crop_size': [512, 512],
        'train_dataloader.batch_size': 2, 'result.full.batch_size': 16,
        'param_scheduler.1.power': 1.0, 'model.decode_head.num_classes': 150},
    'ablations/upernet_vit-base-p16_plain': {
        **ADAMW, 'model.backbone.rel_pos_bias': False, 'optim_wrapper.optimizer.lr': 1e-4,
        'optim_wrapper.paramwise_cfg.layer_decay_rate': 0.65, 'train_cfg.max_iters': 160000,
        'model.backbone.out_indices': [3, 5, 7, 11], 'model.backbone.patch_size': 16},
    'semmae_knn': {**KNN, 'model.backbone.patch_size': 8},  # all 784 patches: ours
    'ablations/knn_vit-base-p16': {**KNN, 'model.backbone.patch_size': 16},
    'semmae_linseg_ade20k': {
        # facebookresearch/dinov3 at 6876159, config-ade20k-linear-training.yaml and linear_head.py
        'optim_wrapper.type': 'OptimWrapper', 'optim_wrapper.optimizer.type': 'AdamW',
        'optim_wrapper.optimizer.lr': 1e-3, 'optim_wrapper.optimizer.weight_decay': 1e-3,
        'optim_wrapper.optimizer.betas': [0.9, 0.999], 'train_cfg.max_iters': 40000,
        'param_scheduler.0.end': 1500, 'param_scheduler.0.start_factor': 1e-6,
        'param_scheduler.1.type': 'CosineAnnealingLR', 'param_scheduler.1.begin': 0,
        'param_scheduler.1.T_max': 40000, 'param_scheduler.1.eta_min': 0.0,
        'train_dataloader.batch_size': 2, 'result.full.batch_size': 16, 'model.neck': None,
        'model.backbone.is_frozen': True, 'model.backbone.out_type': 'featmap',
        'model.decode_head.type': 'semmae.LinearSegHead', 'model.decode_head.dropout_ratio': 0.1,
        'model.decode_head.norm_cfg.type': 'SyncBN', 'model.decode_head.num_classes': 150,
        'model.auxiliary_head': None, 'model.test_cfg.mode': 'slide',
        'model.test_cfg.crop_size': [512, 512], 'model.test_cfg.stride': [341, 341],
        'train_dataloader.dataset.dataset.pipeline.2.ratio_range': [0.5, 2.0],
        'train_dataloader.dataset.dataset.pipeline.3.crop_size': [512, 512]},
    'semmae_segmenter_ade20k': {
        # rstrudel/segmenter at 20d1bfa, segm/config.yml; the optimiser is MAE's
        **ADAMW, 'model.decode_head.num_layers': 2, 'model.decode_head.drop_rate': 0.1,
        'model.decode_head.drop_path_rate': 0.0, 'model.decode_head.embed_dims': 768,
        'model.decode_head.num_heads': 12, 'model.backbone.drop_path_rate': 0.1,
        'model.test_cfg.crop_size': [512, 512], 'model.decode_head.num_classes': 150,
        'optim_wrapper.optimizer.lr': 1e-4, 'optim_wrapper.paramwise_cfg.layer_decay_rate': 0.65,
        'train_cfg.max_iters': 80000, 'result.full.batch_size': 16}}


@pytest.mark.parametrize('name', RECIPES)
def test_recipe_holds_its_sources_numbers(name):
    cfg = Config.fromfile(REPO / 'mm_configs' / f'{name}.py')
    assert {key: value(cfg, key) for key in RECIPES[name]} == RECIPES[name]


@pytest.mark.parametrize('name', ['semmae_pretrain', 'ablations/semmae_vit-base-p16',
                                  'ablations/mae_vit-base-p16', 'ablations/mae_vit-base-p8',
                                  'ablations/mae_vit-base-p8_foreground',
                                  'mini/semmae_pretrain_mini', 'mini/semmae_p16_mini'])
def test_sizes_of_a_pretraining_agree_with_each_other(name):
    cfg = Config.fromfile(REPO / 'mm_configs' / f'{name}.py')
    vit, data = cfg.model.backbone, cfg.train_dataloader.dataset.dataset
    grid = vit.img_size // vit.patch_size
    assert cfg.model.decoder.grid == data.grid == grid
    assert cfg.model.decoder.patch_size == vit.patch_size
    assert data.pipeline[0].size == vit.img_size
    parts = cfg.model.masking.get('num_parts', 0)
    assert parts in (0, data.num_parts)


@pytest.mark.slow
@pytest.mark.parametrize('config, patches', [('semmae_linprobe', 196), ('semmae_finetune', 784)])
def test_probing_at_8x8_looks_at_196_patches_and_fine_tuning_at_784(config, patches):
    cfg, seen = Config.fromfile(REPO / 'mm_configs' / f'{config}.py').model, []
    model = MODELS.build(dict(cfg, train_cfg=None, backbone=dict(
        cfg.backbone, init_cfg=None))).to('meta')
    model.backbone.layers[0].register_forward_hook(
        lambda layer, inputs, output: seen.append(inputs[0].shape[1] - 1))
    images, sample = torch.zeros(2, 3, 224, 224, device='meta'), DataSample()
    sample.set_field(torch.zeros(784), 'foreground')
    look = getattr(model, 'kept_features', lambda x, samples: model.extract_feat(x))
    look(images, [sample, sample])
    assert seen == [patches]
