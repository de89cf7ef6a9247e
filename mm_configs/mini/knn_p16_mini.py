"""Mini k-NN: 8 classes of toy objects (chance 12.5), 64x64 images in 8x8 patches. Trains nothing.

Run:    python tools/train.py mm_configs/mini/knn_p16_mini.py --cfg-options \
            model.backbone.init_cfg.checkpoint=work_dirs/semmae_p16_mini/epoch_16.pth
Needs:  python -m semmae.datasets.toy --out data/toy
Only sizes and batch differ from the full config. Tables mark its numbers as reduced.
"""
_base_ = ['../ablations/knn_vit-base-p16.py']
img_size = 64
_arch = dict(_delete_=True, embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=384)

model = dict(
    backbone=dict(arch=_arch, img_size=img_size, patch_size=8, init_cfg=dict(
        checkpoint='work_dirs/semmae_p16_mini/epoch_16.pth')),
    head=dict(num_classes=8), data_preprocessor=dict(num_classes=8))
train_dataloader = _base_.train_dataloader
val_dataloader = _base_.val_dataloader
for _loader in (train_dataloader, val_dataloader):
    _loader.update(batch_size=128, num_workers=0, persistent_workers=False, pin_memory=False)
for _data, _split in ((train_dataloader.dataset.dataset, 'train'), (val_dataloader.dataset, 'val')):
    _data.data_root = f'data/toy/imagenet/{_split}'
    _data.pipeline[1].scale = img_size
    _data.pipeline[2].crop_size = img_size
result = dict(dataset='toy set')
