"""Weighted k-NN on frozen features of ViT-B/16, ImageNet-1k, all 196 patches. Trains nothing.

Run:    tools/dist_train.sh mm_configs/ablations/knn_vit-base-p16.py 8 --cfg-options \
            model.backbone.init_cfg.checkpoint=work_dirs/semmae_vit-base-p16/epoch_800.pth
Needs:  ImageNet-1k in data/imagenet; 3.9 GB on each device for the features, as semmae_knn.py; the
        pre-trained checkpoint of ViT-B/16.
Paper:  not reported.
DINO:   as semmae_knn.py (Caron et al. 2021, Sec. 3.2; eval_knn.py).
Status: not run at full length here.
"""
_base_ = ['../semmae_knn.py']

model = dict(backbone=dict(
    patch_size=16, init_cfg=dict(checkpoint='work_dirs/semmae_vit-base-p16/epoch_800.pth')))
