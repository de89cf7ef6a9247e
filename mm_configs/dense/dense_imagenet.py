"""Frozen probes on ImageNet-1k: k-NN, linear, 1 % and 10 % of the labels.

Run:    tools/dist_train.sh mm_configs/dense/dense_imagenet.py 8 --cfg-options \
            model.backbone.init_cfg.checkpoint=FILE
        Any backbone: python tools/run_suite.py dense --timm NAME --only imagenet
Needs:  data/imagenet/train and val; 8 GB on the disk of work_dirs/features for ViT-S.
Ours:   no attentive probe and no logistic regression, which need the patch tokens and hours of a
        CPU; see mm_configs/_base_/dense_classification.py. MAE's linear probing with augmentation,
        which encodes every image 90 times, is semmae_linprobe.py.
Status: not run at full length here.
"""
_base_ = ['../_base_/dense_classification.py', '../_base_/default_runtime.py']

model = dict(patch_layers=(), probes=dict(
    knn=dict(k=(10, 20, 100, 200)), attentive=None, logistic=None,
    linear_1pct=dict(type='semmae.LinearProbe', fraction=0.01)))
_data = dict(type='mmpretrain.CustomDataset', with_label=True)
train_dataloader = dict(dataset=dict(**_data, data_root='data/imagenet/train'))
val_dataloader = dict(dataset=dict(**_data, data_root='data/imagenet/val'))
result = dict(dataset='ImageNet-1k', split='val', full=dict(num_train=1281167))
