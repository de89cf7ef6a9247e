"""SemMAE, ViT-B/16, random resized crops in which the part map follows the image.

Run:    tools/dist_train.sh mm_configs/ablations/semmae_vit-base-p16_crops.py 16
Needs:  the part store at 28x28, as semmae_pretrain.py:
        python tools/extract_parts.py mm_configs/semmae_parts.py \
            work_dirs/semmae_parts/epoch_2.pth --images data/imagenet/train \
            --out data/parts/imagenet_train_28 --grid 28
Paper:  flip only (Sec. 4.1): semmae_vit-base-p16.py, 65.0 in Table 1.
Ours:   random resized crops (area 0.2 to 1, aspect 3/4 to 4/3: MAE's) and flip. Crops are of the
        view that the store covers, not of the full photo, and that view has 448 pixels, so that
        crops of 224 are sharp. Parts of 28x28 patches become those of the crop's 14x14: that with
        most area, and the mean foreground. Compare with mae_vit-base-p16_crops.py.
Status: not run at full length here.
"""
_base_ = ['semmae_vit-base-p16.py']
_view, _store_grid = 448, 28

train_dataloader = _base_.train_dataloader
_data = train_dataloader.dataset.dataset
_data.update(part_store=f'data/parts/imagenet_train_{_store_grid}', grid=_store_grid)
_data.pipeline[0].size = _view
_data.pipeline.insert(1, dict(
    type='semmae.RandomResizedCropWithParts', scale=_base_.img_size, crop_ratio_range=(0.2, 1.0),
    aspect_ratio_range=(3 / 4, 4 / 3), grid=_base_.grid, backend='pillow',
    interpolation='bicubic'))

recipe = dict(id='semmae_p16_crops', method='SemMAE, random crops')
