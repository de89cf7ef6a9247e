"""MAE baseline, ViT-B/8 over all 784 patches. Paper Table 1 (8x8): 66.8.

Run:    tools/dist_train.sh mm_configs/ablations/mae_vit-base-p8.py 16
Needs:  ImageNet-1k in data/imagenet; no part store
Ours:   the paper does not say whether its 8x8 baseline drops the background; this one does not,
        mae_vit-base-p8_foreground.py does.
Status: not run at full length here.
"""
_base_ = ['../semmae_pretrain.py']

model = dict(
    masking=dict(_delete_=True, type='semmae.RandomMasking', mask_ratio=0.75),
    num_candidates=None)
train_dataloader = _base_.train_dataloader
train_dataloader.dataset.dataset.part_store = None
train_dataloader.dataset.dataset.pipeline[-1].num_noise = _base_.grid ** 2

recipe = dict(id='mae_p8', method='MAE')
