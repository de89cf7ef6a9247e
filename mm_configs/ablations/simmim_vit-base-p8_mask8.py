"""SimMIM, ViT-B/8, masked in blocks of 8x8 pixels, 800 epochs. Paper Table 2: 82.1.

Run:    tools/dist_train.sh mm_configs/ablations/simmim_vit-base-p8_mask8.py 16 --keep-batch
Needs:  ImageNet-1k in data/imagenet; no part store
Paper:  "patch size" 8; for its meaning see simmim_vit-base-p16_mask32.py
Ours:   32 images on a GPU: SimMIM's encoder sees all 784 patches; gradients are accumulated.
Status: not run at full length here.
"""
_base_ = ['simmim_vit-base-p16_mask32.py']
patch_size = 8

model = dict(backbone=dict(patch_size=patch_size), neck=dict(encoder_stride=patch_size),
             head=dict(patch_size=patch_size))
train_dataloader = _base_.train_dataloader
train_dataloader.batch_size = 32
train_dataloader.dataset.dataset.pipeline[3].update(mask_patch_size=patch_size,
                                                    model_patch_size=patch_size)

recipe = dict(id='simmim_p8', method='SimMIM, blocks of 8')
