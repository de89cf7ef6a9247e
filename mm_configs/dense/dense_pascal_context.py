"""Frozen probes on Pascal Context, 59 classes: linear, logistic regression and k-NN.

Run:    python tools/train.py mm_configs/dense/dense_pascal_context.py --cfg-options \
            model.backbone.init_cfg.checkpoint=FILE
        Any backbone: python tools/run_suite.py dense --timm NAME --only pascal_context
Needs:  data/VOCdevkit/VOC2010 with mmseg's SegmentationClassContext.
Ours:   see mm_configs/_base_/dense_segmentation.py.
Status: not run at full length here.
"""
_base_ = ['../_base_/dense_segmentation.py', '../_base_/default_runtime.py']
default_scope = 'mmseg'

model = dict(task=dict(num_classes=59))
_data = dict(type='mmseg.PascalContextDataset59', data_root='data/VOCdevkit/VOC2010',
             data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClassContext'))
train_dataloader = dict(dataset=dict(
    **_data, ann_file='ImageSets/SegmentationContext/train.txt'))
val_dataloader = dict(dataset=dict(**_data, ann_file='ImageSets/SegmentationContext/val.txt'))
result = dict(dataset='Pascal Context', split='val', full=dict(num_train=4996))
