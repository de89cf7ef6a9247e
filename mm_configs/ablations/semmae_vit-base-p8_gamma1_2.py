"""SemMAE, ViT-B/8, masks: adaptive, gamma 1/2. Paper Table 3: 67.3.

Run:    tools/dist_train.sh mm_configs/ablations/semmae_vit-base-p8_gamma1_2.py 16
Needs:  the part store at 28x28
Status: not run at full length here.
"""
_base_ = ['../semmae_pretrain.py']

model = dict(masking=dict(gamma=1 / 2))

recipe = dict(id='semmae_p8_gamma1_2', method='SemMAE, gamma 1/2')
