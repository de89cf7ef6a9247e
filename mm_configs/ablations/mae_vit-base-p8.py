"""MAE baseline, ViT-B/8 over all 784 patches. Paper Table 1 (8x8): 66.8.

Run:    tools/dist_train.sh mm_configs/ablations/mae_vit-base-p8.py 16
Needs:  ImageNet-1k in data/imagenet; no part store
Ours:   the paper does not say whether its 8x8 baseline drops the background. This one does not;
        mae_vit-base-p8_foreground.py does.
Status: not run at full length here.
"""
_base_ = ['../semmae_pretrain.py']

model = dict(
    masking=dict(_delete_=True, type='semmae.RandomMasking', mask_ratio=0.75),
    num_candidates=None)
train_dataloader = dict(dataset=dict(dataset=dict(part_store=None)))

recipe = dict(id='mae_p8', method='MAE')
