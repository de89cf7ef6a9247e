"""SemMAE pre-training, ViT-B/8, 800 epochs on ImageNet-1k. Paper Table 1, linear probing: 68.7.

Run:    tools/dist_train.sh mm_configs/semmae_pretrain.py 16
Needs:  ImageNet-1k in data/imagenet, and its part store:
        python tools/extract_parts.py mm_configs/semmae_parts.py \
            work_dirs/semmae_parts/epoch_2.pth --images data/imagenet/train \
            --out data/parts/imagenet_train_28 --grid 28
Paper:  16 x 256 images, AdamW 2.4e-3, weight decay 0.05, warm-up 40, cosine, flip only, gamma 2,
        the 196 most foreground of 784 patches (Sec. 4.1-4.2); 3 days on 16 A100.
MAE:    betas 0.9, 0.95 and norm_pix_loss (official code, too).
Ours:   the foreground is ranked by tokens unlike those at the border, not by the part maps;
        bfloat16; no weight decay on class and mask token (mmpretrain; MAE's code decays them).
Status: not run at full length here.
"""
_base_ = ['_base_/models/mae_vit-base.py', '_base_/datasets/in1k_with_parts.py',
          '_base_/schedules/mae_800e.py', '_base_/default_runtime.py']
img_size = 224
patch_size = 8
grid = img_size // patch_size
num_parts = 6  # Sec. 4.1

model = dict(
    backbone=dict(img_size=img_size, patch_size=patch_size),
    decoder=dict(grid=grid, patch_size=patch_size),
    masking=dict(_delete_=True, type='semmae.PartGuidedMasking', num_parts=num_parts,
                 mask_ratio=0.75, gamma=2.0),
    num_candidates=grid ** 2 // 4)  # Sec. 4.2: three quarters are dropped as background

train_dataloader = dict(dataset=dict(dataset=dict(
    part_store=f'data/parts/imagenet_train_{grid}', grid=grid, num_parts=num_parts)))

custom_hooks = [*_base_.custom_hooks, dict(type='semmae.MaskMonitorHook'),
                dict(type='semmae.PretrainPicturesHook', interval=50, num=4)]
default_hooks = dict(checkpoint=dict(interval=10))
recipe = dict(id='semmae_p8', method='SemMAE',
              full=dict(epochs=800, batch_size=4096, num_train=1281167, pixels=224))
