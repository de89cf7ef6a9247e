"""SemMAE, ViT-B/16, with the heads of iBOT as parts. Paper Table 4: 63.6 (learned parts 65.0).

Run:    tools/dist_train.sh mm_configs/ablations/semmae_vit-base-p16_ibot-parts.py 16
Needs:  the store of head parts: tools/extract_parts.py ... --grid 14 --source heads \
            --out data/parts/imagenet_train_14_heads
Status: not run at full length here.
"""
_base_ = ['semmae_vit-base-p16.py']

train_dataloader = dict(dataset=dict(dataset=dict(
    part_store=f'data/parts/imagenet_train_{_base_.grid}_heads')))

recipe = dict(id='semmae_p16_ibot_parts', method='SemMAE, iBOT parts')
