"""Frozen linear depth on NYUv2: 256 bins on patch tokens, as DINOv2 and DINOv3 evaluate.

Run:    python tools/train.py mm_configs/dense/dense_nyu.py --cfg-options \
            model.backbone.init_cfg.checkpoint=FILE
        Any backbone: python tools/run_suite.py dense --timm NAME --only nyu
Needs:  data/nyu/{images,annotations}/{train,test} as mmseg reads them: depth in millimetres.
Metric: RMSE in metres on mmseg's nyu_crop (45:471, 41:601), depths of 1 mm to 10 m.
Ours:   the whole image at 560x448, encoded once, without augmentation; the settings of the head are
        chosen on 10 % of the training images. `LinearDepthProbe` says what differs from DINOv2 and
        DINOv3.
Status: not run here.
"""
_base_ = ['../_base_/dense_segmentation.py', '../_base_/default_runtime.py']
default_scope = 'mmseg'
view = (560, 448)  # multiples of 14 and 16

model = dict(
    layers=(-1,),
    task=dict(_delete_=True, kind='depth', depth_range=(1e-3, 10.)),
    probes=dict(_delete_=True, depth_linear=dict(type='semmae.LinearDepthProbe')))
_data = dict(type='mmseg.NYUDataset', data_root='data/nyu')
_meta = ('img_path', 'depth_map_path', 'ori_shape', 'img_shape', 'pad_shape', 'scale_factor',
         'flip', 'flip_direction', 'category_id')
pipeline = [
    dict(type='semmae.LoadImage'),
    dict(type='mmseg.Resize', scale=view, keep_ratio=False),
    dict(type='mmseg.LoadDepthAnnotation', depth_rescale_factor=1e-3),
    dict(type='PackSegInputs', meta_keys=_meta)]
train_dataloader = dict(dataset=dict(**_data, pipeline=pipeline, data_prefix=dict(
    img_path='images/train', depth_map_path='annotations/train')))
val_dataloader = dict(dataset=dict(**_data, pipeline=pipeline, test_mode=True, data_prefix=dict(
    img_path='images/test', depth_map_path='annotations/test')))
val_evaluator = dict(_delete_=True, type='mmseg.DepthMetric', min_depth_eval=1e-3,
                     max_depth_eval=10., crop_type='nyu_crop')
result = dict(dataset='NYUv2', split='test', metric=['rmse', 'abs_rel', 'd1'],
              full=dict(num_train=24231))
