"""SemMAE, ViT-B/8, masks: 75% of the parts. Paper Table 3: 52.9.

Run:    tools/dist_train.sh mm_configs/ablations/semmae_vit-base-p8_alpha1.py 16
Needs:  the part store at 28x28
Status: not run at full length here.
"""
_base_ = ['../semmae_pretrain.py']

model = dict(masking=dict(alpha_start=1.0, alpha_end=1.0))

recipe = dict(id='semmae_p8_alpha1', method='SemMAE, alpha 1')
