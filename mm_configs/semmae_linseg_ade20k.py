"""Linear segmentation on ADE20K: one linear layer on frozen patch features of SemMAE ViT-B/16.

Run:    tools/dist_train.sh mm_configs/semmae_linseg_ade20k.py 8 --cfg-options \
            model.backbone.init_cfg.checkpoint=work_dirs/semmae_vit-base-p16/epoch_800.pth
Needs:  data/ADEChallengeData2016 as it is published.
Paper:  not reported.
DINOv3: patch features of the last layer after its norm, dropout 0.1, batch norm, 1x1 convolution,
        logits upsampled bilinearly; 40k iterations, batch 16, AdamW 1e-3, weight decay 1e-3 on all
        of the head, warm-up 1500 times a cosine over all iterations, float32; 512x512 crops,
        sliding windows at test, stride 341 (config-ade20k-linear-training.yaml and LinearHead of
        https://github.com/facebookresearch/dinov3 at 6876159).
Ours:   position embedding resized as MAE does (DINO checkpoints: interpolate_offset=0.1); images
        as in semmae_upernet_ade20k.py, with mmseg's readers.
Status: not run at full length here.
"""
_base_ = ['semmae_upernet_ade20k.py']
_checkpoint = 'work_dirs/semmae_vit-base-p16/epoch_800.pth'

model = dict(
    backbone=dict(
        _delete_=True, type='semmae.ViT', arch='base', img_size=512, patch_size=16,
        out_type='featmap', is_frozen=True,
        init_cfg=dict(type='Pretrained', checkpoint=_checkpoint)),
    neck=None, auxiliary_head=None,
    decode_head=dict(
        _delete_=True, type='semmae.LinearSegHead', in_channels=768, num_classes=150,
        dropout_ratio=0.1, norm_cfg=dict(type='SyncBN'), align_corners=False,
        loss_decode=dict(type='mmseg.CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)))

optim_wrapper = dict(
    _delete_=True, type='OptimWrapper',
    optimizer=dict(type='AdamW', fused=True, lr=1e-3, betas=(0.9, 0.999), weight_decay=1e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='CosineAnnealingLR', T_max=40000, eta_min=0.0, by_epoch=False, begin=0, end=40000)]
train_cfg = dict(max_iters=40000, val_interval=5000)
default_hooks = dict(checkpoint=dict(interval=5000))

result = dict(task='linseg', tables=[], full=dict(iters=40000))
