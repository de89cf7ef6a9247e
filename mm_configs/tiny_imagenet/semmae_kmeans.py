"""SemMAE on Tiny-ImageNet with k-means on the encoder's tokens as parts.

Run:    python tools/train.py mm_configs/tiny_imagenet/semmae_kmeans.py
Needs:  the store of these parts: the command in semmae.py with
            --out data/parts/tiny_imagenet_8_kmeans --source kmeans
Paper:  not reported on Tiny-ImageNet.
Status: not run at full length here.
"""
_base_ = ['semmae.py']

train_dataloader = dict(dataset=dict(dataset=dict(
    part_store='data/parts/tiny_imagenet_8_kmeans')))

recipe = dict(id='semmae_p16_kmeans', method='SemMAE, k-means as parts',
              parts=dict(source='kmeans'))
