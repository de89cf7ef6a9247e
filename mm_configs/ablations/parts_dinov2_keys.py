"""Part learning with a DINOv2 ViT-S/14 on the keys of its attention.

Run:    python tools/train.py mm_configs/ablations/parts_dinov2_keys.py
Needs:  as parts_dinov2.py
Paper:  not reported; keys of layer 9 (from 0) are the best descriptors of Amir et al. 2021.
Status: not run at full length here.
"""
_base_ = ['parts_dinov2.py']

model = dict(encoder=dict(layer=9, facet='key'))

recipe = dict(id='parts_dinov2_keys', method='part learning, object first, keys')
