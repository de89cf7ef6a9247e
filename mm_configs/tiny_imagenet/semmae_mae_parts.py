"""SemMAE on Tiny-ImageNet with parts from our own MAE, as the paper's pipeline without iBOT.

Run:    python tools/train.py mm_configs/tiny_imagenet/semmae_mae_parts.py
Needs:  data/tiny_imagenet/train and its part store at 8x8:
        python tools/extract_parts.py mm_configs/tiny_imagenet/parts_mae.py \
            work_dirs/parts_mae/epoch_1.pth --images data/tiny_imagenet/train \
            --out data/parts/tiny_imagenet_8_mae --grid 8
Paper:  not reported on Tiny-ImageNet.
Status: not run at full length here.
"""
_base_ = ['semmae.py']

train_dataloader = dict(dataset=dict(dataset=dict(part_store='data/parts/tiny_imagenet_8_mae')))

recipe = dict(id='semmae_p16_mae_parts', method='SemMAE, parts of MAE')
