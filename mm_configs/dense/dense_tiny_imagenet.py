"""Frozen probes on Tiny-ImageNet: k-NN, linear, and linear with 10 % of the labels, 200 classes.

Run:    python tools/train.py mm_configs/dense/dense_tiny_imagenet.py --cfg-options \
            model.backbone.init_cfg.checkpoint=work_dirs/semmae/epoch_6.pth
        Any checkpoint: python tools/run_suite.py dense --checkpoint FILE --only tiny_imagenet
Needs:  data/tiny_imagenet/train and val, one folder per class
Ours:   the setting is chosen on 10 % of the training images, the validation images are looked at
        once. Images are seen whole, at 64 pixels. The class token and the mean patch token of the
        last four layers; see mm_configs/_base_/dense_classification.py.
Status: not run at full length here.
"""
_base_ = ['dense_imagenet.py']
img_size = 64

model = dict(
    backbone=dict(
        _delete_=True, type='semmae.ViT', img_size=img_size, patch_size=8, out_type='raw',
        arch=dict(embed_dims=128, num_layers=6, num_heads=4, feedforward_channels=512),
        out_indices=(-4, -3, -2, -1), is_frozen=True,
        init_cfg=dict(type='Pretrained', checkpoint='work_dirs/semmae/epoch_6.pth')),
    task=dict(num_classes=200), probes=dict(linear_1pct=None))
pipeline = [
    dict(type='semmae.LoadImage'),
    dict(type='ResizeEdge', scale=img_size, edge='short', backend='pillow',
         interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=img_size),
    dict(type='PackInputs')]
train_dataloader = dict(batch_size=256, num_workers=0, dataset=dict(
    data_root='data/tiny_imagenet/train', pipeline=pipeline))
val_dataloader = dict(batch_size=256, num_workers=0, dataset=dict(
    data_root='data/tiny_imagenet/val', pipeline=pipeline))
result = dict(dataset='Tiny-ImageNet', full=dict(num_train=100000))
