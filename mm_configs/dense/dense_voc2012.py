"""Frozen probes on Pascal VOC 2012, 21 classes: linear, logistic regression and k-NN.

Run:    python tools/train.py mm_configs/dense/dense_voc2012.py --cfg-options \
            model.backbone.init_cfg.checkpoint=FILE
        Any backbone: python tools/run_suite.py dense --timm NAME --only voc2012
Needs:  data/VOCdevkit/VOC2012 as it is published.
Ours:   the 1,464 training images with published label maps; Hummingbird uses the 10,582 of
        SBD (SegmentationClassAug). See mm_configs/_base_/dense_segmentation.py.
Status: not run at full length here.
"""
_base_ = ['../_base_/dense_segmentation.py', '../_base_/default_runtime.py']
default_scope = 'mmseg'

model = dict(task=dict(num_classes=21))
_data = dict(type='mmseg.PascalVOCDataset', data_root='data/VOCdevkit/VOC2012', data_prefix=dict(
    img_path='JPEGImages', seg_map_path='SegmentationClass'))
train_dataloader = dict(dataset=dict(**_data, ann_file='ImageSets/Segmentation/train.txt'))
val_dataloader = dict(dataset=dict(**_data, ann_file='ImageSets/Segmentation/val.txt'))
result = dict(dataset='VOC 2012', split='val', full=dict(num_train=1464))
