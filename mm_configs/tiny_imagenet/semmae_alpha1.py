"""SemMAE on Tiny-ImageNet, alpha 1 throughout: whole parts are masked (Table 3).

Run:    python tools/train.py mm_configs/tiny_imagenet/semmae_alpha1.py
Needs:  as semmae.py
Paper:  not reported on Tiny-ImageNet.
Status: not run at full length here.
"""
_base_ = ['semmae.py']

model = dict(masking=dict(alpha_start=1.0, alpha_end=1.0))

recipe = dict(id='semmae_p16_alpha1', method='SemMAE, alpha 1')
