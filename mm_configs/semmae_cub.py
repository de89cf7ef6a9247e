"""Fine-tuning of SemMAE ViT-B/8 on CUB-200-2011, 200 birds. Paper Table 6: 87.1 (MAE 86.5).

Run:    tools/dist_train.sh mm_configs/semmae_cub.py 4 --cfg-options \
            model.backbone.init_cfg.checkpoint=work_dirs/semmae_pretrain/epoch_800.pth
Needs:  data/CUB_200_2011 as it is published.
Paper:  no recipe; the author says that the encoder has 8x8 patches.
Ours:   AdamW 1e-3 at batch 128 (4 x 32), 100 epochs, layer decay 0.65, crops of at least 30% of the
        image, no mixup, cutmix or erasing (5,994 images, details matter); drop path 0.1 and label
        smoothing 0.1 as in MAE's fine-tuning. Not tuned.
Status: not run at full length here.
"""
_base_ = ['_base_/models/vit-base_classifier.py', '_base_/datasets/in1k_classification.py',
          '_base_/schedules/finetune_100e.py', '_base_/default_runtime.py']

model = dict(
    head=dict(num_classes=200), data_preprocessor=dict(num_classes=200),
    train_cfg=dict(_delete_=True))
_cub = dict(type='semmae.CUBParts', data_root='data/CUB_200_2011')
train_dataloader = dict(batch_size=32, dataset=dict(dataset=dict(
    _delete_=True, **_cub, split='train', pipeline=[
        dict(type='semmae.LoadImage'),
        dict(type='RandomResizedCrop', scale=224, crop_ratio_range=(0.3, 1.0), backend='pillow',
             interpolation='bicubic'),
        dict(type='RandomFlip', prob=0.5, direction='horizontal'),
        dict(type='PackInputs')])))
val_dataloader = dict(batch_size=32, dataset=dict(
    _delete_=True, **_cub, split='test', pipeline=_base_.val_dataloader.dataset.pipeline))
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=1e-3))

result = dict(task='cub', dataset='CUB-200-2011', split='test', metric='accuracy/top1',
              tables=[6], full=dict(epochs=100, batch_size=128, num_train=5994,
                        pixels=224))
