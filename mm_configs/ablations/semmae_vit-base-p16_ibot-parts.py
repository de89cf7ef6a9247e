"""SemMAE, ViT-B/16, with the heads of iBOT as parts. Paper Table 4: 63.6 (learned parts 65.0).

Run:    tools/dist_train.sh mm_configs/ablations/semmae_vit-base-p16_ibot-parts.py 16
Needs:  the store of head parts: tools/extract_parts.py ... --grid 14 --source heads \
            --out data/parts/imagenet_train_14_heads
Status: not run at full length here.
"""
_base_ = ['../semmae_pretrain.py']
patch_size = 16
grid = _base_.img_size // patch_size

model = dict(
    backbone=dict(patch_size=patch_size), decoder=dict(grid=grid, patch_size=patch_size),
    num_candidates=None)
train_dataloader = _base_.train_dataloader
train_dataloader.dataset.dataset.update(
    part_store=f'data/parts/imagenet_train_{grid}_heads', grid=grid)
train_dataloader.dataset.dataset.pipeline[-1].num_noise = grid ** 2 + _base_.num_parts

recipe = dict(id='semmae_p16_ibot_parts', method='SemMAE, iBOT parts')
