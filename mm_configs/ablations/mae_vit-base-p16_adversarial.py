"""MAE, ViT-B/16, masks that are trained against the autoencoder.

Run:    tools/dist_train.sh mm_configs/ablations/mae_vit-base-p16_adversarial.py 16
Needs:  ImageNet-1k in data/imagenet; no part store
Paper:  names ADIOS (Shi et al. 2022), which learns soft masks by gradients through the
        reconstruction.
Ours:   policy gradient, with masks of exact size (models.adversarial_masking).
Status: not run at full length here.
"""
_base_ = ['mae_vit-base-p16.py']

model = dict(masking=dict(
    _delete_=True, type='semmae.AdversarialMasking', mask_ratio=0.75,
    patch_size=_base_.patch_size))
recipe = dict(id='mae_p16_adversarial', method='adversarial masks')
