"""SemMAE, ViT-B/8, masks: adaptive, gamma 1. Paper Table 3: 67.9.

Run:    tools/dist_train.sh mm_configs/ablations/semmae_vit-base-p8_gamma1.py 16
Needs:  the part store at 28x28
Status: not run at full length here.
"""
_base_ = ['../semmae_pretrain.py']

model = dict(masking=dict(gamma=1.0))

recipe = dict(id='semmae_p8_gamma1', method='SemMAE, gamma 1')
