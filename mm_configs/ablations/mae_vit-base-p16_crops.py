"""MAE, ViT-B/16, with MAE's own augmentation: random resized crops of the full photo, and flip.

Run:    tools/dist_train.sh mm_configs/ablations/mae_vit-base-p16_crops.py 16
Needs:  ImageNet-1k in data/imagenet; no part store
Paper:  flip only: mae_vit-base-p16.py, 63.7 in Table 1.
Ours:   crops as in MAE, A.1 (area 0.2 to 1, bicubic), of the whole photo. Those of
        semmae_vit-base-p16_crops.py are of its centre crop, which is what a part store covers.
Status: not run at full length here.
"""
_base_ = ['mae_vit-base-p16.py']

train_dataloader = _base_.train_dataloader
train_dataloader.dataset.dataset.pipeline[0] = dict(
    type='semmae.LoadRandomResizedCrop', scale=_base_.img_size, crop_ratio_range=(0.2, 1.0),
    flip_prob=0.5)

recipe = dict(id='mae_p16_crops', method='MAE, random crops')
