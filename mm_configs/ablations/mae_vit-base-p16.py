"""MAE baseline, ViT-B/16, 800 epochs, same images and augmentation. Paper Table 1: 63.7.

Run:    tools/dist_train.sh mm_configs/ablations/mae_vit-base-p16.py 16
Needs:  ImageNet-1k in data/imagenet; no part store
Paper:  random masks in place of part-guided ones (flip only; well-run MAE with random resized crops
        reaches 65.1 to 67.8 elsewhere).
Status: not run at full length here.
"""
_base_ = ['../semmae_pretrain.py']
patch_size = 16
grid = _base_.img_size // patch_size

model = dict(
    backbone=dict(patch_size=patch_size), decoder=dict(grid=grid, patch_size=patch_size),
    masking=dict(_delete_=True, type='semmae.RandomMasking', mask_ratio=0.75),
    num_candidates=None)
train_dataloader = dict(dataset=dict(dataset=dict(part_store=None, grid=grid)))

recipe = dict(id='mae_p16', method='MAE')
