"""UPerNet on CamVid with any timm ViT as the backbone, fine-tuned, for small machines.

Run:    python tools/train.py mm_configs/dense/dense_upernet_camvid.py --cfg-options \
            model.backbone.init_cfg.checkpoint=FILE
        Any backbone: python tools/run_suite.py dense --timm NAME --checkpoint FILE \
            --only upernet_camvid
Needs:  data/CamVid/{images,annotations}/{train,val}, label maps 0 to 10, 11 is void
Ours:   the recipe of MAE's segmentation (AdamW, layer decay 0.65, polynomial decay) shortened to
        100 iterations of 4 crops of 112x112 pixels; photos are scaled to 448x336 and tested whole;
        heads of 64 channels.
Status: one seed was run here, see benchmarks/results/dense.
"""
_base_ = ['../semmae_upernet_ade20k.py']
crop, void = 112, 11
iters, warmup = 100, 10
channels = 64
classes = ('sky', 'building', 'pole', 'road', 'pavement', 'tree', 'sign', 'fence', 'car',
           'pedestrian', 'bicyclist')
palette = [[128, 128, 128], [128, 0, 0], [192, 192, 128], [128, 64, 128], [60, 40, 222],
           [128, 128, 0], [192, 128, 128], [64, 64, 128], [64, 0, 128], [64, 64, 0],
           [0, 128, 192]]
_norm = dict(type='BN')  # one process
_width = 384

model = dict(
    data_preprocessor=dict(size=(crop, crop), seg_pad_val=void),
    backbone=dict(
        _delete_=True, type='semmae.TimmViT', model_name='vit_small_patch14_dinov2', img_size=crop,
        out_type='featmap', out_indices=(2, 5, 8, 11), drop_path_rate=0.1, final_norm=False,
        init_cfg=dict(type='Pretrained', checkpoint='weights/dinov2_vits14.safetensors')),
    neck=dict(embed_dim=_width, norm_cfg=_norm),
    decode_head=dict(in_channels=[_width] * 4, channels=channels, num_classes=len(classes),
                     norm_cfg=_norm, ignore_index=void),
    auxiliary_head=dict(in_channels=_width, channels=channels, num_classes=len(classes),
                        norm_cfg=_norm, ignore_index=void),
    test_cfg=dict(_delete_=True, mode='whole'))
train_dataloader = _base_.train_dataloader
val_dataloader = _base_.val_dataloader
train_dataloader.update(batch_size=4, num_workers=1, pin_memory=False)
val_dataloader.update(num_workers=1)
for _data, _split in ((train_dataloader.dataset.dataset, 'train'), (val_dataloader.dataset, 'val')):
    _data.update(type='mmseg.BaseSegDataset', data_root='data/CamVid',
                 metainfo=dict(classes=classes, palette=palette), ignore_index=void,
                 img_suffix='.jpg', seg_map_suffix='.png', data_prefix=dict(
                     img_path=f'images/{_split}', seg_map_path=f'annotations/{_split}'))
train_dataloader.dataset.dataset.pipeline[1].reduce_zero_label = False
train_dataloader.dataset.dataset.pipeline[2].scale = (448, 336)
train_dataloader.dataset.dataset.pipeline[3].update(crop_size=(crop, crop), ignore_index=void)
val_dataloader.dataset.pipeline[1].scale = (448, 336)
val_dataloader.dataset.pipeline[2].reduce_zero_label = False
test_dataloader = val_dataloader
val_evaluator = dict(ignore_index=void)
test_evaluator = val_evaluator
optim_wrapper = dict(
    _delete_=True, type='OptimWrapper',
    optimizer=dict(type='AdamW', fused=True, lr=5e-4, betas=(0.9, 0.999), weight_decay=0.05),
    constructor='semmae.LayerDecayConstructor',
    paramwise_cfg=dict(
        layer_decay_rate=0.65, norm_decay_mult=0., bias_decay_mult=0., flat_decay_mult=0.,
        custom_keys={'cls_token': dict(decay_mult=0.), 'pos_embed': dict(decay_mult=0.),
                     'reg_token': dict(decay_mult=0.)}))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=warmup),
    dict(type='PolyLR', eta_min=0.0, power=1.0, begin=warmup, end=iters, by_epoch=False)]
train_cfg = dict(max_iters=iters, val_interval=iters)
default_hooks = dict(checkpoint=dict(interval=iters))
result = dict(task='seg_upernet', dataset='CamVid', split='val', tables=['dense'],
              full=dict(_delete_=True, iters=iters, batch_size=4, num_train=367))
