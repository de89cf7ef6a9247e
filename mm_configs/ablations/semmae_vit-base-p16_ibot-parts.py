"""SemMAE, ViT-B/16, with the heads of iBOT as parts. Paper Table 4: 63.6 (learned parts 65.0).

Run:    tools/dist_train.sh mm_configs/ablations/semmae_vit-base-p16_ibot-parts.py 16
Needs:  the store of head parts:
        python tools/extract_parts.py mm_configs/semmae_parts.py \
            work_dirs/semmae_parts/epoch_2.pth --images data/imagenet/train \
            --out data/parts/imagenet_train_14_heads --grid 14 --source heads
Status: not run at full length here.
"""
_base_ = ['semmae_vit-base-p16.py']

train_dataloader = dict(dataset=dict(dataset=dict(
    part_store=f'data/parts/imagenet_train_{_base_.grid}_heads')))

recipe = dict(id='semmae_p16_ibot_parts', method='SemMAE, iBOT parts',
              parts=dict(source='heads'))
