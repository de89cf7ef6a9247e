"""Mini linear probing on the kept half of the patches: 8 classes of toy objects (chance 12.5).

Run:    python tools/train.py mm_configs/mini/linprobe_p8_mini.py --cfg-options \
            model.backbone.init_cfg.checkpoint=work_dirs/table3_mini/epoch_12.pth
        All rows: python tools/run_suite.py table3_true --seeds 0 1 2 3 4
Needs:  as table3_mini.py, and part stores of both splits, here of the true parts:
        python tools/extract_parts.py mm_configs/mini/semmae_parts_mini.py \
            --labels data/toy_table3/imagenet/part_labels/train \
            --images data/toy_table3/imagenet/train --out data/toy_table3/parts/train --grid 8 and
        python tools/extract_parts.py mm_configs/mini/semmae_parts_mini.py \
            --labels data/toy_table3/imagenet/part_labels/val \
            --images data/toy_table3/imagenet/val --out data/toy_table3/parts/val --grid 8
Only sizes, batch, length and rates differ from the full config. Tables mark it as reduced.
"""
_base_ = ['../semmae_linprobe.py']
img_size, grid = 64, 8
_arch = dict(_delete_=True, embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=384)
_toy = 'data/toy_table3'

model = dict(
    num_candidates=grid ** 2 // 2,
    backbone=dict(arch=_arch, img_size=img_size, patch_size=8, init_cfg=dict(
        checkpoint='work_dirs/table3_mini/epoch_12.pth')),
    neck=dict(input_features=96), head=dict(num_classes=8, in_channels=96),
    data_preprocessor=dict(num_classes=8))
train_dataloader = _base_.train_dataloader
val_dataloader = _base_.val_dataloader
for _loader in (train_dataloader, val_dataloader):
    _loader.update(batch_size=64, num_workers=0, persistent_workers=False, pin_memory=False)
val_dataloader.batch_size = 250
for _data, _split in ((train_dataloader.dataset.dataset, 'train'), (val_dataloader.dataset, 'val')):
    _data.data_root = f'{_toy}/imagenet/{_split}'
    _data.pipeline[1].scale = img_size
    _data.pipeline[2].crop_size = img_size
    _data.pipeline[3].update(
        store=f'{_toy}/parts/{_split}', root=f'{_toy}/imagenet/{_split}', grid=grid,
        foreground=None)  # accepts stores of true and of learned parts
test_dataloader = val_dataloader

# A short training needs a high rate, and then biases need a trust ratio.
optim_wrapper = dict(optimizer=dict(lr=20.0, adapts_vectors=True))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=True, begin=0, end=1,
         convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=2, by_epoch=True, begin=1, end=3, eta_min=0.0,
         convert_to_iter_based=True)]
train_cfg = dict(max_epochs=3, val_interval=3)
default_hooks = dict(checkpoint=dict(interval=3, max_keep_ckpts=1))
result = dict(dataset='toy set')
