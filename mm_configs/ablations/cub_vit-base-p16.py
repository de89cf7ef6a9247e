"""Fine-tuning of ViT-B/16 on CUB-200-2011.

Run:    tools/dist_train.sh mm_configs/ablations/cub_vit-base-p16.py 4 \
            --cfg-options model.backbone.init_cfg.checkpoint=FILE
Needs:  data/CUB_200_2011 as it is published; FILE, a checkpoint of ViT-B/16.
Paper:  Table 6, other methods: none at 16x16.
Ours:   as semmae_cub.py with 16x16 patches.
Status: not run at full length here.
"""
_base_ = ['../semmae_cub.py']

model = dict(backbone=dict(
    patch_size=16, init_cfg=dict(checkpoint='work_dirs/semmae_vit-base-p16/epoch_800.pth')))
