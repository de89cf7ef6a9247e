"""Frozen probes on a segmentation data set: linear, logistic regression, k-NN on patch tokens.

The data set, its classes and ``result`` are set by the configs in mm_configs/dense/.
Published: the protocols are those of DINOv3 (linear), CAPI (logistic regression, k-NN) and
         Hummingbird (k-NN); the docstring of each probe says what differs.
Ours:    the whole image at one size (448x448 if nothing else is said, aspect ratio not kept), no
         augmentation, so every image is encoded once. The setting of each probe is chosen on 10 %
         of the training images. mIoU is counted on the full label maps; ignored pixels count
         neither in training nor in the metric.
"""
_backbone = dict(
    type='semmae.TimmViT', model_name='vit_small_patch14_dinov2', out_type='raw',
    out_indices=(-1,), is_frozen=True,
    init_cfg=dict(type='Pretrained', checkpoint='weights/dinov2_vits14.safetensors'))
model = dict(
    type='semmae.FrozenProbe', backbone=_backbone, layers=(), patch_layers=(-1,),
    task=dict(kind='segmentation', num_classes=150, ignore_index=255),
    probes=dict(
        seg_linear=dict(type='semmae.LinearSegProbe'),
        seg_logistic=dict(type='semmae.LogisticSegProbe'),
        seg_knn=dict(type='semmae.KNNSegProbe', protocol='capi'),
        seg_hummingbird=dict(type='semmae.KNNSegProbe', protocol='hummingbird')),
    data_preprocessor=dict(
        type='mmseg.SegDataPreProcessor', mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375], bgr_to_rgb=True))

view = (448, 448)  # width, height: multiples of 14 and 16
pipeline = [
    dict(type='semmae.LoadImage'),
    dict(type='mmseg.Resize', scale=view, keep_ratio=False),
    dict(type='semmae.LoadAnnotations'),
    dict(type='PackSegInputs')]
_loader = dict(
    batch_size=8, num_workers=4, persistent_workers=False, pin_memory=False,
    sampler=dict(type='DefaultSampler', shuffle=False))
train_dataloader = dict(_loader, dataset=dict(pipeline=pipeline))
val_dataloader = dict(_loader, dataset=dict(pipeline=pipeline))
test_dataloader = test_evaluator = test_cfg = None
val_evaluator = dict(type='semmae.IoUMetric', iou_metrics=['mIoU'])
val_cfg = dict(type='ValLoop')

train_cfg = dict(type='semmae.ProbeLoop', store='work_dirs/features')
# mmengine needs an optimiser; it takes no step. DDP refuses a model without trainable parameters.
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.0))
param_scheduler = []
model_wrapper_cfg = dict(type='MMSeparateDistributedDataParallel')
log_processor = dict(by_epoch=False)
result = dict(task='probes', metric='mIoU', tables=['dense'])
