"""UPerNet on ADE20K with SemMAE ViT-B/16, 160k iterations. Paper Table 7: 46.3 mIoU (MAE 46.1).

Run:    tools/dist_train.sh mm_configs/semmae_upernet_ade20k.py 8 --cfg-options \
            model.backbone.init_cfg.checkpoint=work_dirs/semmae_vit-base-p16/epoch_800.pth
Needs:  data/ADEChallengeData2016 as it is published.
Paper:  ViT-B/16, batch 16, 160k iterations, "standard setting".
MAE:    relative position bias from zero, AdamW 1e-4, layer decay 0.65, drop path 0.1, warm-up
        1500, polynomial decay, 512x512 crops, sliding windows at test (8 x 2 images).
Ours:   no layer scale (it starts at 1); no weight decay on positions, class token and bias tables,
        as in MAE's classification (BEiT's code decays them).
Status: not run at full length here.
"""
_base_ = ['_base_/default_runtime.py']
default_scope = 'mmseg'
crop = 512
_norm = dict(type='SyncBN', requires_grad=True)
_loss = dict(type='CrossEntropyLoss', use_sigmoid=False)

model = dict(
    type='mmseg.EncoderDecoder',
    data_preprocessor=dict(
        type='mmseg.SegDataPreProcessor', mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375], bgr_to_rgb=True, pad_val=0, seg_pad_val=255,
        size=(crop, crop)),
    backbone=dict(
        type='semmae.ViT', arch='base', img_size=crop, patch_size=16, drop_path_rate=0.1,
        out_type='featmap', final_norm=False, out_indices=[3, 5, 7, 11], rel_pos_bias=True,
        init_cfg=dict(type='Pretrained',
                      checkpoint='work_dirs/semmae_vit-base-p16/epoch_800.pth')),
    neck=dict(type='mmseg.Feature2Pyramid', embed_dim=768, rescales=[4, 2, 1, 0.5],
              norm_cfg=_norm),
    decode_head=dict(
        type='mmseg.UPerHead', in_channels=[768] * 4, in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6), channels=768, dropout_ratio=0.1, num_classes=150,
        norm_cfg=_norm, align_corners=False, loss_decode=dict(**_loss, loss_weight=1.0)),
    auxiliary_head=dict(
        type='mmseg.FCNHead', in_channels=768, in_index=2, channels=256, num_convs=1,
        concat_input=False, dropout_ratio=0.1, num_classes=150, norm_cfg=_norm,
        align_corners=False, loss_decode=dict(**_loss, loss_weight=0.4)),
    train_cfg=dict(),
    test_cfg=dict(mode='slide', crop_size=(crop, crop), stride=(341, 341)))

train_dataloader = dict(
    batch_size=2, num_workers=4, persistent_workers=True, pin_memory=True,
    sampler=dict(type='semmae.SeededSampler', shuffle=True, is_infinite=True),
    dataset=dict(
        type='semmae.SeededOrNext',
        dataset=dict(
            type='mmseg.ADE20KDataset', data_root='data/ADEChallengeData2016',
            data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
            pipeline=[
                dict(type='semmae.LoadImage'),
                dict(type='semmae.LoadAnnotations', reduce_zero_label=True),
                dict(type='RandomResize', scale=(2048, 512), ratio_range=(0.5, 2.0),
                     keep_ratio=True),
                dict(type='RandomCrop', crop_size=(crop, crop), cat_max_ratio=0.75),
                dict(type='RandomFlip', prob=0.5),
                dict(type='PhotoMetricDistortion'),
                dict(type='PackSegInputs')])))
val_dataloader = dict(
    batch_size=1, num_workers=4, persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmseg.ADE20KDataset', data_root='data/ADEChallengeData2016',
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        pipeline=[
            dict(type='semmae.LoadImage'),
            dict(type='Resize', scale=(2048, 512), keep_ratio=True),
            dict(type='semmae.LoadAnnotations', reduce_zero_label=True),
            dict(type='PackSegInputs')]))
test_dataloader = val_dataloader
val_evaluator = dict(type='semmae.IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator

optim_wrapper = dict(
    type='AmpOptimWrapper', dtype='bfloat16', loss_scale=1.0,
    optimizer=dict(type='AdamW', fused=True, lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    constructor='semmae.LayerDecayConstructor',
    paramwise_cfg=dict(
        layer_decay_rate=0.65, norm_decay_mult=0., bias_decay_mult=0., flat_decay_mult=0.,
        custom_keys={'cls_token': dict(decay_mult=0.), 'pos_embed': dict(decay_mult=0.),
                     'relative_position_bias_table': dict(decay_mult=0.)}))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', eta_min=0.0, power=1.0, begin=1500, end=160000, by_epoch=False)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=160000, val_interval=16000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=16000),
                     logger=dict(log_metric_by_epoch=False))
log_processor = dict(by_epoch=False)

result = dict(task='ade20k', dataset='ADE20K', split='validation', metric='mIoU', tables=[7],
              full=dict(iters=160000, batch_size=16, norm_batch=16, num_train=20210,
                        pixels=512))
