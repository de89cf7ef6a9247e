"""MAE on Tiny-ImageNet: random masks, all else as in semmae.py.

Run:    python tools/train.py mm_configs/tiny_imagenet/mae.py
Needs:  data/tiny_imagenet/train, one folder per class; no part store
Paper:  not reported on Tiny-ImageNet.
Status: not run at full length here.
"""
_base_ = ['semmae.py']

model = dict(masking=dict(_delete_=True, type='semmae.RandomMasking', mask_ratio=0.75))
train_dataloader = dict(dataset=dict(dataset=dict(part_store=None)))

recipe = dict(id='mae_p16', method='MAE')
