"""SimMIM, ViT-B/16, masked in blocks of 16x16 pixels, 800 epochs. Paper Table 2: 82.7.

Run:    tools/dist_train.sh mm_configs/ablations/simmim_vit-base-p16_mask16.py 16
Needs:  ImageNet-1k in data/imagenet; no part store
Paper:  "patch size" 16; for its meaning see simmim_vit-base-p16_mask32.py
Status: not run at full length here.
"""
_base_ = ['simmim_vit-base-p16_mask32.py']

train_dataloader = _base_.train_dataloader
train_dataloader.dataset.dataset.pipeline[3].mask_patch_size = 16

recipe = dict(id='simmim_p16', method='SimMIM, blocks of 16')
