"""ImageNet-1k images for part learning and pre-training, horizontal flip only (Sec. 4.1).

The part store is made on the same view: short side 224, centre crop. A sample gets random numbers
for its mask where the data set has a grid.
"""
train_dataloader = dict(
    batch_size=256, num_workers=8, persistent_workers=True, pin_memory=True, drop_last=True,
    sampler=dict(type='semmae.SeededSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='semmae.SeededOrNext',
        dataset=dict(
            type='semmae.PartDataset', data_root='data/imagenet/train',
            pipeline=[
                dict(type='semmae.LoadCenterCrop', size=224, flip_prob=0.5),
                dict(type='semmae.PackImage')])))
