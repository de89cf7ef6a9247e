"""Fine-tuning of ViT-B/16 on ImageNet-1k. Paper Table 2: MAE 83.26, SemMAE 83.34.

Run:    tools/dist_train.sh mm_configs/ablations/finetune_vit-base-p16.py 8 --cfg-options \
            model.backbone.init_cfg.checkpoint=work_dirs/semmae_vit-base-p16/epoch_800.pth
Needs:  ImageNet-1k in data/imagenet; the pre-trained checkpoint of ViT-B/16.
MAE:    as semmae_finetune.py (MAE, A.1).
Status: not run at full length here.
"""
_base_ = ['../semmae_finetune.py']

model = dict(backbone=dict(
    patch_size=16, init_cfg=dict(checkpoint='work_dirs/semmae_vit-base-p16/epoch_800.pth')))
