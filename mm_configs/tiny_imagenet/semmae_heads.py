"""SemMAE on Tiny-ImageNet with the encoder's attention heads as parts (Table 4).

Run:    python tools/train.py mm_configs/tiny_imagenet/semmae_heads.py
Needs:  data/tiny_imagenet/train and its store of head parts:
        python tools/extract_parts.py mm_configs/tiny_imagenet/parts.py \
            work_dirs/parts/epoch_1.pth --images data/tiny_imagenet/train \
            --out data/parts/tiny_imagenet_8_heads --grid 8 --source heads
Paper:  not reported on Tiny-ImageNet.
Status: not run at full length here.
"""
_base_ = ['semmae.py']
num_parts = 6  # heads of a ViT-S

model = dict(masking=dict(num_parts=num_parts))
train_dataloader = dict(dataset=dict(dataset=dict(
    part_store='data/parts/tiny_imagenet_8_heads', num_parts=num_parts)))

recipe = dict(id='semmae_p16_heads', method='SemMAE, heads as parts', parts=dict(source='heads'))
