"""SemMAE, ViT-B/8, masks: from parts to patches, gamma 1. Paper Table 3: 63.3.

Run:    tools/dist_train.sh mm_configs/ablations/semmae_vit-base-p8_1to0_gamma1.py 16
Needs:  the part store at 28x28
Status: not run at full length here.
"""
_base_ = ['../semmae_pretrain.py']

model = dict(masking=dict(gamma=1.0, alpha_start=1.0, alpha_end=0.0))

recipe = dict(id='semmae_p8_1to0_gamma1', method='SemMAE, alpha 1 to 0, gamma 1')
