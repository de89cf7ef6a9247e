"""SimMIM, ViT-B/4, masked in blocks of 4x4 pixels, 800 epochs. Paper Table 2: 82.0.

Run:    tools/dist_train.sh mm_configs/ablations/simmim_vit-base-p4_mask4.py 16 --keep-batch
Needs:  ImageNet-1k in data/imagenet; no part store
Paper:  "patch size" 4; for its meaning see simmim_vit-base-p16_mask32.py
Ours:   4 images on a GPU: the encoder sees all 3136 patches; gradients are accumulated.
Status: not run at full length here.
"""
_base_ = ['simmim_vit-base-p16_mask32.py']
patch_size = 4

model = dict(backbone=dict(patch_size=patch_size), neck=dict(encoder_stride=patch_size),
             head=dict(patch_size=patch_size))
train_dataloader = _base_.train_dataloader
train_dataloader.batch_size = 4
train_dataloader.dataset.dataset.pipeline[3].update(mask_patch_size=patch_size,
                                                    model_patch_size=patch_size)

recipe = dict(id='simmim_p4', method='SimMIM, blocks of 4')
