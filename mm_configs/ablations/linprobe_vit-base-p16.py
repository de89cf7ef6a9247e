"""Linear probing of ViT-B/16, all 196 patches. Paper Table 1: MAE 63.7, SemMAE 65.0.

Run:    tools/dist_train.sh mm_configs/ablations/linprobe_vit-base-p16.py 8 --cfg-options \
            model.backbone.init_cfg.checkpoint=work_dirs/semmae_vit-base-p16/epoch_800.pth
Needs:  ImageNet-1k in data/imagenet; the pre-trained checkpoint of ViT-B/16; no part store.
MAE:    as semmae_linprobe.py, with MAE's random resized crops and 256 -> 224 at test.
Status: not run at full length here.
"""
_base_ = ['../semmae_linprobe.py']

model = dict(
    _delete_=True, **{k: v for k, v in _base_.model.items() if k != 'num_candidates'})
model['type'] = 'mmpretrain.ImageClassifier'
model['backbone'].update(patch_size=16)
model['backbone']['init_cfg']['checkpoint'] = 'work_dirs/semmae_vit-base-p16/epoch_800.pth'

train_dataloader = dict(dataset=dict(dataset=dict(pipeline=[
    dict(type='semmae.LoadImage'),
    dict(type='RandomResizedCrop', scale=224, backend='pillow', interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs')])))
val_dataloader = dict(dataset=dict(pipeline=[
    dict(type='semmae.LoadImage'),
    dict(type='ResizeEdge', scale=256, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs')]))
test_dataloader = val_dataloader
