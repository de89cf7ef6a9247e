"""SemMAE, ViT-B/8, masks: adaptive, gamma 3. Paper Table 3: 68.6.

Run:    tools/dist_train.sh mm_configs/ablations/semmae_vit-base-p8_gamma3.py 16
Needs:  the part store at 28x28
Status: not run at full length here.
"""
_base_ = ['../semmae_pretrain.py']

model = dict(masking=dict(gamma=3.0))

recipe = dict(id='semmae_p8_gamma3', method='SemMAE, gamma 3')
