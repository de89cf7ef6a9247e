"""Mini part learning: 12x12 grid over 64x64 toy images, encoder = the mini MAE baseline.

Run:    python tools/train.py mm_configs/mini/semmae_parts_mini.py
Needs:  python -m semmae.datasets.toy --out data/toy; work_dirs/mae_p16_mini/epoch_16.pth
Only sizes, batch, length and rates differ from the full config. Tables mark it as reduced.
The blur covers a quarter of the grid, as 7 of 28 does.
"""
_base_ = ['../semmae_parts.py']
img_size, grid = 64, 12
_arch = dict(embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=384)

model = dict(
    blur_kernel=3,
    encoder=dict(backbone=dict(_delete_=True, type='semmae.ViT', arch=_arch, img_size=img_size,
                               patch_size=8),
                 grid=grid, checkpoint='work_dirs/mae_p16_mini/epoch_16.pth'),
    decoder=dict(channels=(32, 32, 32), num_upsamplings=1))
train_dataloader = _base_.train_dataloader
train_dataloader.dataset.min_length = 3000  # smaller folders are repeated
train_dataloader.update(batch_size=32, num_workers=0, persistent_workers=False, pin_memory=False)
train_dataloader.dataset.dataset.data_root = 'data/toy/imagenet/train'
train_dataloader.dataset.dataset.pipeline[0].size = img_size

param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=20),
    dict(type='LinearLR', start_factor=1.0, end_factor=0.01, by_epoch=True, begin=0, end=3,
         convert_to_iter_based=True)]
train_cfg = dict(max_epochs=3)
recipe = dict(own_batch=True)  # and its own learning rate
