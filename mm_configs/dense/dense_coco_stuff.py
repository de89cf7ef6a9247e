"""Frozen probes on COCO-Stuff 164k, 171 classes: linear, logistic regression and k-NN.

Run:    python tools/train.py mm_configs/dense/dense_coco_stuff.py --cfg-options \
            model.backbone.init_cfg.checkpoint=FILE
        Any backbone: python tools/run_suite.py dense --timm NAME --only coco_stuff
Needs:  data/coco_stuff164k with mmseg's labelTrainIds.png; 25 GB of features for ViT-S.
Ours:   images at 224x224, so that the features of ViT-S fit a disk; see
        mm_configs/_base_/dense_segmentation.py.
Status: not run at full length here.
"""
_base_ = ['../_base_/dense_segmentation.py', '../_base_/default_runtime.py']
default_scope = 'mmseg'

model = dict(task=dict(num_classes=171))
_data = dict(type='mmseg.COCOStuffDataset', data_root='data/coco_stuff164k')
train_dataloader = dict(dataset=dict(**_data, data_prefix=dict(
    img_path='images/train2017', seg_map_path='annotations/train2017')))
val_dataloader = dict(dataset=dict(**_data, data_prefix=dict(
    img_path='images/val2017', seg_map_path='annotations/val2017')))
for _loader in (train_dataloader, val_dataloader):
    _loader['dataset']['pipeline'] = _base_.pipeline
    _loader['dataset']['pipeline'][1].scale = (224, 224)
result = dict(dataset='COCO-Stuff', split='val2017', full=dict(num_train=118287))
