"""Linear probing of SemMAE ViT-B/8 on ImageNet-1k. Paper Table 1: 68.7 (MAE 8x8: 66.8).

Run:    tools/dist_train.sh mm_configs/semmae_linprobe.py 8 --cfg-options \
            model.backbone.init_cfg.checkpoint=work_dirs/semmae_pretrain/epoch_800.pth
Needs:  part stores at 28x28 of train and val:
        python tools/extract_parts.py mm_configs/semmae_parts.py \
            work_dirs/semmae_parts/epoch_2.pth --images data/imagenet/train \
            --out data/parts/imagenet_train_28 --grid 28 and
        python tools/extract_parts.py mm_configs/semmae_parts.py \
            work_dirs/semmae_parts/epoch_2.pth --images data/imagenet/val \
            --out data/parts/imagenet_val_28 --grid 28
Parts:  only the 196 most foreground patches are used, so the cost is that of 16x16 (Sec. 4.2;
        official code).
        Stores with another ranking of the foreground than that of semmae_pretrain.py are refused;
        for the paper's ranking: ablations/linprobe_vit-base-p8_maps-foreground.py.
MAE:    LARS 6.4 at batch 16384, 90 epochs, warm-up 10, no weight decay, batch norm without affine
        parameters before the classifier (MAE, A.1); 8 GPUs x 2048. semmae.LARS applies the rate
        after the momentum and has no trust ratio for biases, as in MAE; mmpretrain's differs.
Ours:   flip is the only augmentation, and val is not resized to 256 first, so images and part maps
        stay aligned (the official code trains on stored pixels and does the same).
Status: not run at full length here.
"""
_base_ = ['_base_/datasets/in1k_classification.py', '_base_/default_runtime.py']
img_size = 224
patch_size = 8
grid = img_size // patch_size

model = dict(
    type='semmae.KeptPatchClassifier', num_candidates=grid ** 2 // 4,
    backbone=dict(
        type='semmae.ViT', arch='base', img_size=img_size, patch_size=patch_size,
        out_type='cls_token', is_frozen=True,
        init_cfg=dict(type='Pretrained', checkpoint='work_dirs/semmae_pretrain/epoch_800.pth')),
    neck=dict(type='mmpretrain.ClsBatchNormNeck', input_features=768),
    head=dict(
        type='mmpretrain.LinearClsHead', num_classes=1000, in_channels=768,
        loss=dict(type='mmpretrain.CrossEntropyLoss'),
        init_cfg=[dict(type='TruncNormal', layer='Linear', std=0.01)]),
    data_preprocessor=dict(
        type='mmpretrain.ClsDataPreprocessor', num_classes=1000, to_rgb=True,
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]))

_view = [
    dict(type='semmae.LoadImage'),
    dict(type='ResizeEdge', scale=img_size, edge='short', backend='pillow',
         interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=img_size)]
_pack = [
    dict(type='semmae.FlattenParts'),
    dict(type='PackInputs', algorithm_keys=('foreground',))]
train_dataloader = dict(
    batch_size=2048,
    dataset=dict(dataset=dict(pipeline=[
        *_view,
        dict(type='semmae.LoadParts', store=f'data/parts/imagenet_train_{grid}',
             root='data/imagenet/train', grid=grid, foreground='border'),
        dict(type='semmae.FlipWithParts', prob=0.5), *_pack])))
val_dataloader = dict(dataset=dict(pipeline=[
    *_view,
    dict(type='semmae.LoadParts', store=f'data/parts/imagenet_val_{grid}',
         root='data/imagenet/val', grid=grid, foreground='border'), *_pack]))
test_dataloader = val_dataloader

optim_wrapper = dict(
    type='AmpOptimWrapper', dtype='bfloat16', loss_scale=1.0,
    optimizer=dict(type='semmae.LARS', lr=6.4, weight_decay=0.0, momentum=0.9))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, begin=0, end=10,
         convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=80, by_epoch=True, begin=10, end=90, eta_min=0.0,
         convert_to_iter_based=True)]
train_cfg = dict(type='semmae.ResumableEpochLoop', max_epochs=90, val_interval=10)
# All ranks evaluate and save the same running statistics of the probe's batch norm.
custom_hooks = [*_base_.custom_hooks, dict(type='SyncBuffersHook')]

result = dict(task='linprobe', dataset='ImageNet-1k', split='val', metric='accuracy/top1',
              tables=[1, 3, 4, 5], full=dict(epochs=90, batch_size=16384, num_train=1281167,
                        pixels=224))
