"""Frozen probes on CUB-200-2011: k-NN, linear, attentive, logistic regression, 10 % of the labels.

Run:    python tools/train.py mm_configs/dense/dense_cub.py --cfg-options \
            model.backbone.init_cfg.checkpoint=FILE
        Any backbone: python tools/run_suite.py dense --timm NAME --only cub
Needs:  data/CUB_200_2011 as it is published.
Ours:   no published protocol has all of these; see mm_configs/_base_/dense_classification.py.
Status: not run on all 200 classes here.
"""
_base_ = ['../_base_/dense_classification.py', '../_base_/default_runtime.py']

model = dict(task=dict(num_classes=200))
_cub = dict(type='semmae.CUBParts', data_root='data/CUB_200_2011')
train_dataloader = dict(dataset=dict(**_cub, split='train'))
val_dataloader = dict(dataset=dict(**_cub, split='test'))
result = dict(dataset='CUB-200-2011', split='test', full=dict(num_train=5994))
