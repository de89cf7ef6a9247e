"""800 epochs at global batch 4096 (16 GPUs x 256), AdamW 2.4e-3, 40 epochs warm-up (Sec. 4.1)."""
optim_wrapper = dict(
    type='AmpOptimWrapper', dtype='bfloat16', loss_scale=1.0,
    optimizer=dict(type='AdamW', fused=True, lr=2.4e-3, betas=(0.9, 0.95), weight_decay=0.05),
    constructor='semmae.LayerDecayConstructor',
    paramwise_cfg=dict(
        norm_decay_mult=0., bias_decay_mult=0., flat_decay_mult=0.,
        custom_keys={'cls_token': dict(decay_mult=0.), 'mask_token': dict(decay_mult=0.)}))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-9, by_epoch=True, begin=0, end=40,
         convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=760, by_epoch=True, begin=40, end=800,
         convert_to_iter_based=True)]
train_cfg = dict(type='semmae.ResumableEpochLoop', max_epochs=800)
