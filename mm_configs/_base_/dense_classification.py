"""Frozen probes on a classification data set: encode once, then k-NN, linear, attentive, logistic.

The data set, its number of classes and ``result`` are set by the configs in mm_configs/dense/.
DINOv2:  grid of learning rates, layers and poolings for linear probing, trained together; k-NN with
         the class token, temperature 0.07 (Oquab et al. 2023, App. B).
Ours:    the setting of each probe is chosen on 10 % of the training images and refitted on all of
         them; the test images are looked at once. No augmentation: the view is the same in training
         and test (resize to 256, centre crop of 224), so every image is encoded once.
"""
_backbone = dict(
    type='semmae.TimmViT', model_name='vit_small_patch14_dinov2', out_type='raw',
    out_indices=(-4, -3, -2, -1), is_frozen=True,
    init_cfg=dict(type='Pretrained', checkpoint='weights/dinov2_vits14.safetensors'))
model = dict(
    type='semmae.FrozenProbe', backbone=_backbone, layers=(-4, -3, -2, -1), patch_layers=(-1,),
    task=dict(kind='classification', num_classes=1000),
    probes=dict(
        knn=dict(type='semmae.KNNProbe', k=(10, 20, 100), temperature=(0.07,)),
        linear=dict(type='semmae.LinearProbe'),
        attentive=dict(type='semmae.AttentiveProbe', lr=(3e-4, 1e-3, 3e-3, 1e-2), batch_size=32),
        logistic=dict(type='semmae.LogisticProbe'),
        linear_10pct=dict(type='semmae.LinearProbe', fraction=0.1)),
    data_preprocessor=dict(
        type='mmpretrain.ClsDataPreprocessor', to_rgb=True,
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]))

pipeline = [
    dict(type='semmae.LoadImage'),
    dict(type='ResizeEdge', scale=256, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs')]
_loader = dict(
    batch_size=32, num_workers=4, persistent_workers=False, pin_memory=False,
    sampler=dict(type='DefaultSampler', shuffle=False), collate_fn=dict(type='default_collate'))
train_dataloader = dict(_loader, dataset=dict(pipeline=pipeline))
val_dataloader = dict(_loader, dataset=dict(pipeline=pipeline))
test_dataloader = test_evaluator = test_cfg = None
val_evaluator = dict(type='mmpretrain.Accuracy', topk=(1,))
val_cfg = dict()

train_cfg = dict(type='semmae.ProbeLoop', store='work_dirs/features')
# mmengine needs an optimiser; it takes no step. DDP refuses a model without trainable parameters.
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.0))
param_scheduler = []
model_wrapper_cfg = dict(type='MMSeparateDistributedDataParallel')
result = dict(task='probes', metric='accuracy/top1', tables=['dense'])
