"""Part learning on Tiny-ImageNet with a DINOv2 ViT-S/14: parts within the object.

Run:    python tools/train.py mm_configs/tiny_imagenet/parts.py --cfg-options \
            model.encoder.checkpoint=FILE
Needs:  data/tiny_imagenet/train; the file of a DINOv2 ViT-S/14 (timm's or DINOv2's names)
Paper:  not reported on Tiny-ImageNet.
Ours:   64x64 photographs are enlarged to 112 pixels, so that patches of 14 pixels give the 8x8 grid
        of the masks. All else is that of ablations/parts_dinov2.py; 1 epoch of 100,000 images.
Status: not run at full length here.
"""
_base_ = ['../ablations/parts_dinov2.py']
img_size, grid = 64, 8

model = dict(blur_kernel=3, encoder=dict(grid=grid))
train_dataloader = _base_.train_dataloader
train_dataloader.update(batch_size=64, num_workers=0, persistent_workers=False, pin_memory=False)
train_dataloader.dataset.dataset.data_root = 'data/tiny_imagenet/train'
train_dataloader.dataset.dataset.pipeline[0].size = img_size

param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='LinearLR', start_factor=1.0, end_factor=0.01, by_epoch=True, begin=0, end=1,
         convert_to_iter_based=True)]
train_cfg = dict(max_epochs=1)
