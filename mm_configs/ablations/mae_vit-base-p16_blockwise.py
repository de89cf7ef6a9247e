"""MAE, ViT-B/16, block-wise masks (Fig. 1).

Run:    tools/dist_train.sh mm_configs/ablations/mae_vit-base-p16_blockwise.py 16
Needs:  ImageNet-1k in data/imagenet; no part store
Paper:  Fig. 1: rectangles of BEiT and SiT, at MAE's mask ratio.
Status: not run at full length here.
"""
_base_ = ['mae_vit-base-p16.py']

model = dict(masking=dict(type='semmae.BlockwiseMasking'))
recipe = dict(id='mae_p16_blockwise', method='block-wise masks')
