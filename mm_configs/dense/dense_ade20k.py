"""Frozen probes on ADE20K, 150 classes: linear, logistic regression and k-NN segmentation.

Run:    python tools/train.py mm_configs/dense/dense_ade20k.py --cfg-options \
            model.backbone.init_cfg.checkpoint=FILE
        Any backbone: python tools/run_suite.py dense --timm NAME --only ade20k
Needs:  data/ADEChallengeData2016 as it is published; 18 GB in work_dirs/features for ViT-S/14.
Ours:   see mm_configs/_base_/dense_segmentation.py. DINOv3's linear protocol with crops and sliding
        windows, trained through the network, is semmae_linseg_ade20k.py.
Status: not run at full length here.
"""
_base_ = ['../_base_/dense_segmentation.py', '../_base_/default_runtime.py']
default_scope = 'mmseg'

_data = dict(type='mmseg.ADE20KDataset', data_root='data/ADEChallengeData2016')
train_dataloader = dict(dataset=dict(**_data, data_prefix=dict(
    img_path='images/training', seg_map_path='annotations/training')))
val_dataloader = dict(dataset=dict(**_data, data_prefix=dict(
    img_path='images/validation', seg_map_path='annotations/validation')))
result = dict(dataset='ADE20K', split='validation', full=dict(num_train=20210))
