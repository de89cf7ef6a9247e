"""SemMAE pre-training, ViT-B/16, 800 epochs. Paper Table 1: 65.0; Table 7 (ADE20K): 46.3.

Run:    tools/dist_train.sh mm_configs/ablations/semmae_vit-base-p16.py 16
Needs:  ImageNet-1k in data/imagenet, and the part store at 14x14:
        python tools/extract_parts.py mm_configs/semmae_parts.py \
            work_dirs/semmae_parts/epoch_2.pth --images data/imagenet/train \
            --out data/parts/imagenet_train_14 --grid 14
Paper:  as semmae_pretrain.py, with 16x16 patches and all 196 of them as candidates.
Status: not run at full length here.
"""
_base_ = ['../semmae_pretrain.py']
patch_size = 16
grid = _base_.img_size // patch_size

model = dict(
    backbone=dict(patch_size=patch_size), decoder=dict(grid=grid, patch_size=patch_size),
    num_candidates=None)
train_dataloader = dict(dataset=dict(dataset=dict(
    part_store=f'data/parts/imagenet_train_{grid}', grid=grid)))

recipe = dict(id='semmae_p16')
