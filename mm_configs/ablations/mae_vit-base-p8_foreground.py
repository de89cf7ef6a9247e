"""MAE baseline, ViT-B/8, random masks among the 196 most foreground patches.

Run:    tools/dist_train.sh mm_configs/ablations/mae_vit-base-p8_foreground.py 16
Needs:  the part store at 28x28
Paper:  Table 1 (8x8): 66.8, if its baseline drops the background; see mae_vit-base-p8.py.
Status: not run at full length here.
"""
_base_ = ['../semmae_pretrain.py']

model = dict(masking=dict(_delete_=True, type='semmae.RandomMasking', mask_ratio=0.75))

recipe = dict(id='mae_p8_fg', method='MAE, background dropped')
