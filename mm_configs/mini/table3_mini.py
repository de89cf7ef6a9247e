"""Table 3 at mini size, the SemMAE row: 64x64 toy images, the 32 most foreground of 64 patches.

Run:    python tools/train.py mm_configs/mini/table3_mini.py
        All rows: python tools/run_suite.py table3_true --seeds 0 1 2 3 4
Needs:  python -m semmae.datasets.toy --out data/toy_table3 --num-imagenet 8000 5000; a part store,
        here of the true parts:
        python tools/extract_parts.py mm_configs/mini/semmae_parts_mini.py \
            --labels data/toy_table3/imagenet/part_labels/train \
            --images data/toy_table3/imagenet/train --out data/toy_table3/parts/train --grid 8
Only sizes, batch, length and rates differ from the full config. Tables mark it as reduced.
Half of the patches are dropped and not three quarters, since toy objects cover half of the image.
Alpha follows the iteration, since 12 epochs are coarse steps.
The other rows: semmae/suites/small.py.
"""
_base_ = ['semmae_pretrain_mini.py']
patch_size, grid = 8, 8

model = dict(
    backbone=dict(patch_size=patch_size), decoder=dict(grid=grid, patch_size=patch_size),
    masking=dict(gamma=2.0, alpha_start=0.0, alpha_end=1.0), num_candidates=grid ** 2 // 2)
train_dataloader = dict(dataset=dict(dataset=dict(
    data_root='data/toy_table3/imagenet/train', part_store='data/toy_table3/parts/train',
    grid=grid)))

custom_hooks = [dict(hook, by_epoch=False) if hook['type'] == 'semmae.ProgressHook' else hook
                for hook in _base_.custom_hooks]
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=True, begin=0, end=1,
         convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=11, by_epoch=True, begin=1, end=12,
         convert_to_iter_based=True)]
train_cfg = dict(max_epochs=12)
default_hooks = dict(checkpoint=dict(interval=12, max_keep_ckpts=1))
