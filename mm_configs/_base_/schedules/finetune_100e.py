"""MAE's fine-tuning of ViT-B: 100 epochs, batch 1024, layer decay 0.65 (MAE, A.1)."""
optim_wrapper = dict(
    type='AmpOptimWrapper', dtype='bfloat16', loss_scale=1.0,
    optimizer=dict(type='AdamW', fused=True, lr=2e-3, betas=(0.9, 0.999), weight_decay=0.05),
    constructor='semmae.LayerDecayConstructor',
    paramwise_cfg=dict(
        layer_decay_rate=0.65, norm_decay_mult=0., bias_decay_mult=0., flat_decay_mult=0.,
        custom_keys={'cls_token': dict(decay_mult=0.), 'pos_embed': dict(decay_mult=0.)}))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, begin=0, end=5,
         convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=95, by_epoch=True, begin=5, end=100, eta_min=1e-6,
         convert_to_iter_based=True)]
train_cfg = dict(type='semmae.ResumableEpochLoop', max_epochs=100, val_interval=5)
