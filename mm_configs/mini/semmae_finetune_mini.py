"""Mini fine-tuning: 8 classes of toy objects (chance 12.5), 64x64 images in 8x8 patches.

Run:    python tools/train.py mm_configs/mini/semmae_finetune_mini.py --cfg-options \
            model.backbone.init_cfg.checkpoint=work_dirs/semmae_p16_mini/epoch_16.pth
Needs:  python -m semmae.datasets.toy --out data/toy
Only sizes, batch, length and rates differ from the full config. Tables mark it as reduced.
"""
_base_ = ['../semmae_finetune.py']
img_size = 64
_arch = dict(_delete_=True, embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=384)

model = dict(
    backbone=dict(arch=_arch, img_size=img_size, patch_size=8, init_cfg=dict(
        checkpoint='work_dirs/semmae_p16_mini/epoch_16.pth')),
    head=dict(num_classes=8, in_channels=96), data_preprocessor=dict(num_classes=8))
train_dataloader = _base_.train_dataloader
val_dataloader = _base_.val_dataloader
for _loader in (train_dataloader, val_dataloader):
    _loader.update(batch_size=64, num_workers=0, persistent_workers=False, pin_memory=False)
train_dataloader.dataset.dataset.data_root = 'data/toy/imagenet/train'
train_dataloader.dataset.dataset.pipeline[1].update(scale=img_size, crop_ratio_range=(0.5, 1.0))
val_dataloader.batch_size = 128
val_dataloader.dataset.data_root = 'data/toy/imagenet/val'
val_dataloader.dataset.pipeline[1].scale = img_size
val_dataloader.dataset.pipeline[2].crop_size = img_size
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=True, begin=0, end=1,
         convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=9, by_epoch=True, begin=1, end=10, eta_min=1e-6,
         convert_to_iter_based=True)]
train_cfg = dict(max_epochs=10, val_interval=10)
default_hooks = dict(checkpoint=dict(interval=5, max_keep_ckpts=2))
result = dict(dataset='toy set')
