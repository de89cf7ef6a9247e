"""Fine-tuning on Tiny-ImageNet: 64x64 photographs in 8x8 patches, 200 classes.

Run:    python tools/train.py mm_configs/tiny_imagenet/finetune.py --cfg-options \
            model.backbone.init_cfg.checkpoint=work_dirs/semmae/epoch_6.pth
Needs:  data/tiny_imagenet/train and val, one folder per class
Paper:  not reported on Tiny-ImageNet.
Ours:   1 epoch at batch 128, AdamW 1e-3, 50 steps of warm-up, without mixup, CutMix, drop path and
        erasing, which need long trainings. All else is MAE's fine-tuning (semmae_finetune.py).
Status: not run at full length here.
"""
_base_ = ['../ablations/finetune_vit-base-p16.py']
img_size = 64

model = dict(
    backbone=dict(
        img_size=img_size, patch_size=8, drop_path_rate=0.,
        arch=dict(_delete_=True, embed_dims=128, num_layers=6, num_heads=4,
                  feedforward_channels=512),
        init_cfg=dict(checkpoint='work_dirs/semmae/epoch_6.pth')),
    head=dict(num_classes=200, in_channels=128), data_preprocessor=dict(num_classes=200),
    train_cfg=None)
train_dataloader = _base_.train_dataloader
val_dataloader = _base_.val_dataloader
train_dataloader.update(batch_size=128, num_workers=0, persistent_workers=False, pin_memory=False)
val_dataloader.update(batch_size=256, num_workers=0, persistent_workers=False, pin_memory=False)
train_dataloader.dataset.dataset.update(
    data_root='data/tiny_imagenet/train', pipeline=[
        dict(type='semmae.LoadImage'),
        dict(type='RandomResizedCrop', scale=img_size, crop_ratio_range=(0.35, 1.0),
             backend='pillow', interpolation='bicubic'),
        dict(type='RandomFlip', prob=0.5, direction='horizontal'),
        dict(type='PackInputs')])
val_dataloader.dataset.data_root = 'data/tiny_imagenet/val'
val_dataloader.dataset.pipeline[1].scale = img_size
val_dataloader.dataset.pipeline[2].crop_size = img_size
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', T_max=1, by_epoch=True, begin=0, end=1, eta_min=1e-6,
         convert_to_iter_based=True)]
train_cfg = dict(max_epochs=1, val_interval=1)
result = dict(dataset='Tiny-ImageNet', tables=['dense'], full=dict(
    _delete_=True, epochs=1, batch_size=128, num_train=100000, pixels=64))
