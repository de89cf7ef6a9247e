"""Mini linear segmentation: parts and background of toy objects in the layout of ADE20K, 64x64.

Run:    python tools/train.py mm_configs/mini/semmae_linseg_ade20k_mini.py --cfg-options \
            model.backbone.init_cfg.checkpoint=work_dirs/semmae_p16_mini/epoch_16.pth
Needs:  python -m semmae.datasets.toy --out data/toy
Only sizes, batch, length and rates differ from the full config. Tables mark it as reduced.
Whole images at test, since one window covers them. On one process SyncBN becomes BN.
"""
_base_ = ['../semmae_linseg_ade20k.py']
img_size = 64
classes = ('background', 'body', 'head', 'wheel', 'leg', 'tail', 'wing', 'saddle')
_arch = dict(_delete_=True, embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=384)

model = dict(
    data_preprocessor=dict(size=(img_size, img_size)),
    backbone=dict(arch=_arch, img_size=img_size, patch_size=8, init_cfg=dict(
        checkpoint='work_dirs/semmae_p16_mini/epoch_16.pth')),
    decode_head=dict(in_channels=96, num_classes=len(classes)),
    test_cfg=dict(_delete_=True, mode='whole'))
train_dataloader = _base_.train_dataloader
val_dataloader = _base_.val_dataloader
train_dataloader.update(batch_size=16, num_workers=0, persistent_workers=False, pin_memory=False)
val_dataloader.update(batch_size=16, num_workers=0, persistent_workers=False)
for _data in (train_dataloader.dataset.dataset, val_dataloader.dataset):
    _data.update(type='mmseg.BaseSegDataset', data_root='data/toy/ADEChallengeData2016',
                 metainfo=dict(classes=classes), reduce_zero_label=True,
                 img_suffix='.jpg', seg_map_suffix='.png')
train_dataloader.dataset.dataset.pipeline[2].scale = (img_size, img_size)
train_dataloader.dataset.dataset.pipeline[3].crop_size = (img_size, img_size)
val_dataloader.dataset.pipeline[1].scale = (img_size, img_size)
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(lr=1e-2))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=20),
    dict(type='CosineAnnealingLR', T_max=240, eta_min=0.0, by_epoch=False, begin=0, end=240)]
train_cfg = dict(max_iters=240, val_interval=240)
default_hooks = dict(checkpoint=dict(interval=80), logger=dict(interval=20))
result = dict(dataset='toy set, ADE layout')
