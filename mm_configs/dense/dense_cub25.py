"""Frozen probes on the first 25 classes of CUB-200-2011, for small machines.

Run:    python tools/train.py mm_configs/dense/dense_cub25.py --cfg-options \
            model.backbone.init_cfg.checkpoint=FILE
        Any backbone: python tools/run_suite.py dense --timm NAME --only cub25
Needs:  data/CUB_200_2011 with the lists cut to its first 25 classes (750 training, 652 test images)
Ours:   see mm_configs/_base_/dense_classification.py.
Status: run here, see benchmarks/results/dense.
"""
_base_ = ['dense_cub.py']

model = dict(task=dict(num_classes=25))
result = dict(dataset='CUB-200-2011, 25 classes', full=dict(_delete_=True, num_train=750))
