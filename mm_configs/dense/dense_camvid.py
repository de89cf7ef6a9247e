"""Frozen probes on CamVid, 11 classes: 367 and 101 street scenes, for small machines.

Run:    python tools/train.py mm_configs/dense/dense_camvid.py --cfg-options \
            model.backbone.init_cfg.checkpoint=FILE
        Any backbone: python tools/run_suite.py dense --timm NAME --only camvid
Needs:  data/CamVid/{images,annotations}/{train,val}, label maps 0 to 10, 11 is void
Ours:   photos of 480x360 are seen at 448x336, so the aspect ratio is kept; void pixels (11) are
        ignored.
Status: linear was run here, see benchmarks/results/dense.
"""
_base_ = ['../_base_/dense_segmentation.py', '../_base_/default_runtime.py']
default_scope = 'mmseg'

view, void = (448, 336), 11
classes = ('sky', 'building', 'pole', 'road', 'pavement', 'tree', 'sign', 'fence', 'car',
           'pedestrian', 'bicyclist')
palette = [[128, 128, 128], [128, 0, 0], [192, 192, 128], [128, 64, 128], [60, 40, 222],
           [128, 128, 0], [192, 128, 128], [64, 64, 128], [64, 0, 128], [64, 64, 0],
           [0, 128, 192]]

model = dict(task=dict(num_classes=len(classes), ignore_index=void))
_data = dict(type='mmseg.BaseSegDataset', data_root='data/CamVid', ignore_index=void,
             metainfo=dict(classes=classes, palette=palette), img_suffix='.jpg',
             seg_map_suffix='.png')
train_dataloader = dict(dataset=dict(**_data, data_prefix=dict(
    img_path='images/train', seg_map_path='annotations/train')))
val_dataloader = dict(dataset=dict(**_data, data_prefix=dict(
    img_path='images/val', seg_map_path='annotations/val')))
for _loader in (train_dataloader, val_dataloader):
    _loader['dataset']['pipeline'] = _base_.pipeline
    _loader['dataset']['pipeline'][1].scale = view
val_evaluator = dict(ignore_index=void)
result = dict(dataset='CamVid', split='val', full=dict(num_train=367))
