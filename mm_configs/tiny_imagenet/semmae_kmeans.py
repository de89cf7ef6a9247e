"""SemMAE on Tiny-ImageNet with k-means on the encoder's tokens as parts.

Run:    python tools/train.py mm_configs/tiny_imagenet/semmae_kmeans.py
Needs:  data/tiny_imagenet/train and its store of k-means parts:
        python tools/extract_parts.py mm_configs/tiny_imagenet/parts.py \
            work_dirs/parts/epoch_1.pth --images data/tiny_imagenet/train \
            --out data/parts/tiny_imagenet_8_kmeans --grid 8 --source kmeans
Paper:  not reported on Tiny-ImageNet.
Status: not run at full length here.
"""
_base_ = ['semmae.py']

train_dataloader = dict(dataset=dict(dataset=dict(
    part_store='data/parts/tiny_imagenet_8_kmeans')))

recipe = dict(id='semmae_p16_kmeans', method='SemMAE, k-means as parts',
              parts=dict(source='kmeans'))
