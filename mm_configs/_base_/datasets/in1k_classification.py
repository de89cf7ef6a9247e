"""ImageNet-1k with labels: one folder per class. Augmentation of MAE's fine-tuning (A.1)."""
_train = dict(
    type='mmpretrain.CustomDataset', data_root='data/imagenet/train', with_label=True,
    pipeline=[
        dict(type='semmae.LoadImage'),
        dict(type='RandomResizedCrop', scale=224, backend='pillow', interpolation='bicubic'),
        dict(type='RandomFlip', prob=0.5, direction='horizontal'),
        dict(type='RandAugment', policies='timm_increasing', num_policies=2, total_level=10,
             magnitude_level=9, magnitude_std=0.5,
             hparams=dict(pad_val=[104, 116, 124], interpolation='bicubic')),
        dict(type='RandomErasing', erase_prob=0.25, mode='rand', min_area_ratio=0.02,
             max_area_ratio=1 / 3, fill_color=[103.53, 116.28, 123.675],
             fill_std=[57.375, 57.12, 58.395]),
        dict(type='PackInputs')])
train_dataloader = dict(
    batch_size=128, num_workers=8, persistent_workers=True, pin_memory=True, drop_last=True,
    sampler=dict(type='semmae.SeededSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='semmae.SeededOrNext', dataset=_train))
val_dataloader = dict(
    batch_size=128, num_workers=8, persistent_workers=True, pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='mmpretrain.CustomDataset', data_root='data/imagenet/val', with_label=True,
        pipeline=[
            dict(type='semmae.LoadImage'),
            dict(type='ResizeEdge', scale=256, edge='short', backend='pillow',
                 interpolation='bicubic'),
            dict(type='CenterCrop', crop_size=224),
            dict(type='PackInputs')]))
test_dataloader = val_dataloader
val_evaluator = dict(type='mmpretrain.Accuracy', topk=(1,))
test_evaluator = val_evaluator
val_cfg = dict()
test_cfg = dict()
