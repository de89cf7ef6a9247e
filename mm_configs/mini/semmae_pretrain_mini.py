"""Mini SemMAE at 4x4 patches: 64 of 256 patches are kept as foreground, as 196 of 784 in the paper.

Run:    python tools/train.py mm_configs/mini/semmae_pretrain_mini.py
Needs:  python -m semmae.datasets.toy --out data/toy; the part store at 16x16:
        python tools/extract_parts.py mm_configs/mini/semmae_parts_mini.py \
            work_dirs/semmae_parts_mini/epoch_3.pth --images data/toy/imagenet/train \
            --out data/toy/parts/imagenet_train_16 --grid 16
Only sizes, batch, length and rates differ from the full config. Tables mark it as reduced.
"""
_base_ = ['../semmae_pretrain.py']
img_size, patch_size, grid = 64, 4, 16
_arch = dict(_delete_=True, embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=384)

model = dict(
    backbone=dict(arch=_arch, img_size=img_size, patch_size=patch_size),
    decoder=dict(grid=grid, patch_size=patch_size, embed_dim=96, decoder_embed_dim=64,
                 decoder_depth=1, decoder_num_heads=2),
    num_candidates=grid ** 2 // 4)
train_dataloader = _base_.train_dataloader
train_dataloader.dataset.min_length = 3000  # smaller folders are repeated
train_dataloader.update(batch_size=64, num_workers=0, persistent_workers=False, pin_memory=False)
train_dataloader.dataset.dataset.update(
    data_root='data/toy/imagenet/train', part_store='data/toy/parts/imagenet_train_16', grid=grid)
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
