"""Mini MAE pre-training: 64x64 images in 8x8 patches, for 16x16 patches at 224 pixels.

Run:    python tools/train.py mm_configs/mini/mae_p16_mini.py
Needs:  python -m semmae.datasets.toy --out data/toy
Only sizes, batch, length and rates differ from the full config. Tables mark it as reduced.
"""
_base_ = ['../ablations/mae_vit-base-p16.py']
img_size, patch_size, grid = 64, 8, 8
_arch = dict(_delete_=True, embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=384)

model = dict(
    backbone=dict(arch=_arch, img_size=img_size, patch_size=patch_size),
    decoder=dict(grid=grid, patch_size=patch_size, embed_dim=96, decoder_embed_dim=64,
                 decoder_depth=1, decoder_num_heads=2))
train_dataloader = _base_.train_dataloader
train_dataloader.dataset.min_length = 3000  # smaller folders are repeated
train_dataloader.update(batch_size=64, num_workers=0, persistent_workers=False, pin_memory=False)
train_dataloader.dataset.dataset.update(data_root='data/toy/imagenet/train', grid=grid)
train_dataloader.dataset.dataset.pipeline[0].size = img_size

optim_wrapper = dict(optimizer=dict(lr=1.5e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=True, begin=0, end=2,
         convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=14, by_epoch=True, begin=2, end=16,
         convert_to_iter_based=True)]
train_cfg = dict(max_epochs=16)
default_hooks = dict(checkpoint=dict(interval=4, max_keep_ckpts=2))
recipe = dict(own_batch=True)  # and its own learning rate
