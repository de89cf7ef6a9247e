"""SemMAE on Tiny-ImageNet at 4x4 patches: 64 of 256 are kept as foreground, as 196 of 784.

Run:    python tools/train.py mm_configs/tiny_imagenet/semmae_foreground.py
Needs:  data/tiny_imagenet/train and its part store at 16x16:
        python tools/extract_parts.py mm_configs/tiny_imagenet/parts.py \
            work_dirs/parts/epoch_1.pth --images data/tiny_imagenet/train \
            --out data/parts/tiny_imagenet_16 --grid 16
Paper:  not reported on Tiny-ImageNet.
Ours:   4x4 patches of 64 pixels stand for 8x8 of 224 (Sec. 4.2).
Status: not run at full length here.
"""
_base_ = ['semmae.py']
patch_size, grid = 4, 16

model = dict(
    backbone=dict(patch_size=patch_size), decoder=dict(grid=grid, patch_size=patch_size),
    num_candidates=grid ** 2 // 4)
train_dataloader = dict(dataset=dict(dataset=dict(
    part_store='data/parts/tiny_imagenet_16', grid=grid)))

recipe = dict(id='semmae_p8')
