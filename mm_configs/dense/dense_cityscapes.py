"""Frozen probes on Cityscapes, 19 classes: linear, logistic regression and k-NN.

Run:    python tools/train.py mm_configs/dense/dense_cityscapes.py --cfg-options \
            model.backbone.init_cfg.checkpoint=FILE
        Any backbone: python tools/run_suite.py dense --timm NAME --only cityscapes
Needs:  data/cityscapes with labelTrainIds.png, as cityscapesscripts writes them.
Ours:   photos of 2048x1024 are seen at 896x448; see mm_configs/_base_/dense_segmentation.py.
Status: not run at full length here.
"""
_base_ = ['../_base_/dense_segmentation.py', '../_base_/default_runtime.py']
default_scope = 'mmseg'

view = (896, 448)
model = dict(task=dict(num_classes=19))
_data = dict(type='mmseg.CityscapesDataset', data_root='data/cityscapes')
train_dataloader = dict(dataset=dict(**_data, data_prefix=dict(
    img_path='leftImg8bit/train', seg_map_path='gtFine/train')))
val_dataloader = dict(dataset=dict(**_data, data_prefix=dict(
    img_path='leftImg8bit/val', seg_map_path='gtFine/val')))
for _loader in (train_dataloader, val_dataloader):
    _loader['dataset']['pipeline'] = _base_.pipeline
    _loader['dataset']['pipeline'][1].scale = view
result = dict(dataset='Cityscapes', split='val', full=dict(num_train=2975))
