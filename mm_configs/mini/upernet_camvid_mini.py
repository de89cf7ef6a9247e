"""Mini UPerNet on CamVid: 367 and 101 real street scenes, 11 classes, in 96x96 crops.

Run:    python tools/train.py mm_configs/mini/upernet_camvid_mini.py --cfg-options \
            model.backbone.init_cfg.checkpoint=work_dirs/mae_p16_mini/epoch_16.pth
        All rows: python tools/run_suite.py transfer --seeds 0 1 2
Needs:  data/CamVid/{images,annotations}/{train,val}, label maps 0 to 10, 11 is void
Ours:   no published recipe at this size. Images are scaled to 192x144, windows of 96 pixels slide
        over them at test; mIoU is counted on the full label maps, void pixels left out.
"""
_base_ = ['semmae_upernet_ade20k_mini.py']
crop, void = 96, 11
classes = ('sky', 'building', 'pole', 'road', 'pavement', 'tree', 'sign', 'fence', 'car',
           'pedestrian', 'bicyclist')
palette = [[128, 128, 128], [128, 0, 0], [192, 192, 128], [128, 64, 128], [60, 40, 222],
           [128, 128, 0], [192, 128, 128], [64, 64, 128], [64, 0, 128], [64, 64, 0],
           [0, 128, 192]]

model = dict(
    data_preprocessor=dict(size=(crop, crop), seg_pad_val=void),
    backbone=dict(img_size=crop, init_cfg=dict(
        checkpoint='work_dirs/mae_p16_mini/epoch_16.pth')),
    decode_head=dict(num_classes=len(classes), ignore_index=void),
    auxiliary_head=dict(num_classes=len(classes), ignore_index=void),
    test_cfg=dict(_delete_=True, mode='slide', crop_size=(crop, crop), stride=(48, 48)))
train_dataloader = _base_.train_dataloader
val_dataloader = _base_.val_dataloader
for _data, _split in ((train_dataloader.dataset.dataset, 'train'), (val_dataloader.dataset, 'val')):
    _data.update(data_root='data/CamVid', metainfo=dict(classes=classes, palette=palette),
                 reduce_zero_label=False, ignore_index=void, img_suffix='.jpg',
                 data_prefix=dict(
                     img_path=f'images/{_split}', seg_map_path=f'annotations/{_split}'))
train_dataloader.dataset.dataset.pipeline[1].reduce_zero_label = False
train_dataloader.dataset.dataset.pipeline[2].scale = (192, 144)
train_dataloader.dataset.dataset.pipeline[3].update(crop_size=(crop, crop), ignore_index=void)
val_dataloader.dataset.pipeline[1].scale = (192, 144)
val_dataloader.dataset.pipeline[2].reduce_zero_label = False
test_dataloader = val_dataloader
val_evaluator = dict(ignore_index=void)
test_evaluator = val_evaluator

result = dict(task='camvid', dataset='CamVid', tables=[],
              full=dict(_delete_=True, num_train=367, pixels=360))
