"""ViT-B/8 classifier with average pooling, fine-tuned as in MAE (Appendix A.1)."""
model = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(
        type='semmae.ViT', arch='base', img_size=224, patch_size=8, drop_path_rate=0.1,
        out_type='avg_featmap', final_norm=False,
        init_cfg=dict(type='Pretrained', checkpoint='work_dirs/semmae_pretrain/epoch_800.pth')),
    neck=None,
    head=dict(
        type='mmpretrain.LinearClsHead', num_classes=1000, in_channels=768,
        loss=dict(type='mmpretrain.LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        init_cfg=[dict(type='TruncNormal', layer='Linear', std=2e-5)]),
    data_preprocessor=dict(
        type='mmpretrain.ClsDataPreprocessor', num_classes=1000, to_rgb=True,
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    train_cfg=dict(augments=[
        dict(type='Mixup', alpha=0.8),
        dict(type='CutMix', alpha=1.0)]))
