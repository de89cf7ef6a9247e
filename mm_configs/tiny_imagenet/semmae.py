"""SemMAE on Tiny-ImageNet: 64x64 photographs in 8x8 patches, alpha 0 to 1, gamma 2.

Run:    python tools/train.py mm_configs/tiny_imagenet/semmae.py
        All runs of the comparison: python tools/run_suite.py tiny_imagenet --seeds 0 1 2
Needs:  data/tiny_imagenet/train, one folder per class, and its part store at 8x8:
        python tools/extract_parts.py mm_configs/tiny_imagenet/parts.py \
            work_dirs/parts/epoch_1.pth --images data/tiny_imagenet/train \
            --out data/parts/tiny_imagenet_8 --grid 8
Paper:  not reported on Tiny-ImageNet.
Ours:   a ViT 128 wide with 6 layers and 4 heads (1.2 million parameters), decoder 64 wide with 1
        layer; 6 epochs of 100,000 images at batch 128, AdamW 1.5e-3, 1 epoch of warm-up. Sized for
        hours on two CPU cores. 8x8 patches of 64 pixels stand for 16x16 of 224.
Status: not run at full length here.
"""
_base_ = ['../ablations/semmae_vit-base-p16.py']
img_size, patch_size, grid = 64, 8, 8
num_parts = 13  # 12 parts and the background

model = dict(
    backbone=dict(
        img_size=img_size, patch_size=patch_size,
        arch=dict(_delete_=True, embed_dims=128, num_layers=6, num_heads=4,
                  feedforward_channels=512)),
    decoder=dict(grid=grid, patch_size=patch_size, embed_dim=128, decoder_embed_dim=64,
                 decoder_depth=1, decoder_num_heads=2),
    masking=dict(num_parts=num_parts))
train_dataloader = _base_.train_dataloader
train_dataloader.update(batch_size=128, num_workers=0, persistent_workers=False, pin_memory=False)
train_dataloader.dataset.dataset.update(
    data_root='data/tiny_imagenet/train', part_store=f'data/parts/tiny_imagenet_{grid}', grid=grid,
    num_parts=num_parts)
train_dataloader.dataset.dataset.pipeline[0].size = img_size

optim_wrapper = dict(optimizer=dict(lr=1.5e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=True, begin=0, end=1,
         convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=5, by_epoch=True, begin=1, end=6,
         convert_to_iter_based=True)]
train_cfg = dict(max_epochs=6)
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=2))
recipe = dict(own_batch=True)  # and its own learning rate
