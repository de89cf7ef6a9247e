"""MAE on Tiny-ImageNet at 4x4 patches, random masks over the foreground, as semmae_foreground.py.

Run:    python tools/train.py mm_configs/tiny_imagenet/mae_foreground.py
Needs:  as semmae_foreground.py; the part store ranks the foreground
Paper:  not reported on Tiny-ImageNet.
Status: not run at full length here.
"""
_base_ = ['semmae_foreground.py']

model = dict(masking=dict(_delete_=True, type='semmae.RandomMasking', mask_ratio=0.75))

recipe = dict(id='mae_p8_fg', method='MAE, background dropped')
