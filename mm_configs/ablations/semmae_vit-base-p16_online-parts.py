"""SemMAE, ViT-B/16, with parts computed in the training loop instead of read from a store.

Run:    tools/dist_train.sh mm_configs/ablations/semmae_vit-base-p16_online-parts.py 16
Needs:  a trained part learner: python tools/train.py mm_configs/semmae_parts.py
Paper:  Table 1 uses parts that are computed once and stored: 65.0 (semmae_vit-base-p16.py).
Ours:   the learner gets the training image, flipped and at 224 pixels, so parts differ slightly
        from those of a store. Its encoder runs in every step. Linear probing at 8x8 still needs
        stores.
Status: not run at full length here.
"""
_base_ = ['semmae_vit-base-p16.py']

model = dict(online_parts=dict(
    type='semmae.OnlineParts', learner='mm_configs/semmae_parts.py', grid=_base_.grid,
    checkpoint='work_dirs/semmae_parts/epoch_2.pth'))
train_dataloader = dict(dataset=dict(dataset=dict(part_store=None)))

recipe = dict(id='semmae_p16_online', method='SemMAE, online parts')
