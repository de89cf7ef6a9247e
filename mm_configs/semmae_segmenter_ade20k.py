"""Segmenter on ADE20K with SemMAE ViT-B/16: a mask transformer of two layers, 80k iterations.

Run:    tools/dist_train.sh mm_configs/semmae_segmenter_ade20k.py 8 --cfg-options \
            model.backbone.init_cfg.checkpoint=work_dirs/semmae_vit-base-p16/epoch_800.pth
Needs:  data/ADEChallengeData2016 as it is published.
Paper:  not reported.
Source: Segmenter (Strudel et al. 2021, Sec. 3.2 and 4; config.yml of
        https://github.com/rstrudel/segmenter at 20d1bfa): the encoder is fine-tuned, class tokens
        and patches through two layers, as wide as ViT-B, dropout 0.1 and no drop path there,
        drop path 0.1 in the encoder, 512x512 crops, loss over labelled pixels; 64 epochs at
        batch 8, which is 80k iterations at 16.
MAE:    AdamW 1e-4, layer decay 0.65, warm-up 1500, polynomial decay, as semmae_upernet_ade20k.py,
        in place of Segmenter's SGD at batch 8, which is for supervised weights.
Ours:   sliding windows with stride 341 at test, as in the other configs on ADE20K (Segmenter: 512);
        no weight decay on the class tokens.
Status: not run at full length here.
"""
_base_ = ['semmae_upernet_ade20k.py']
_checkpoint = 'work_dirs/semmae_vit-base-p16/epoch_800.pth'

model = dict(
    backbone=dict(
        _delete_=True, type='semmae.ViT', arch='base', img_size=512, patch_size=16,
        drop_path_rate=0.1, out_type='featmap',
        init_cfg=dict(type='Pretrained', checkpoint=_checkpoint)),
    neck=None, auxiliary_head=None,
    decode_head=dict(
        _delete_=True, type='mmseg.SegmenterMaskTransformerHead', in_channels=768, channels=768,
        embed_dims=768, num_layers=2, num_heads=12, drop_rate=0.1, drop_path_rate=0.0,
        dropout_ratio=0.0, num_classes=150, align_corners=False,
        loss_decode=dict(type='mmseg.CrossEntropyLoss', use_sigmoid=False, avg_non_ignore=True)))

optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(cls_emb=dict(decay_mult=0.))))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', eta_min=0.0, power=1.0, begin=1500, end=80000, by_epoch=False)]
train_cfg = dict(max_iters=80000, val_interval=8000)
default_hooks = dict(checkpoint=dict(interval=8000))

result = dict(task='segmenter', tables=[], full=dict(iters=80000))
