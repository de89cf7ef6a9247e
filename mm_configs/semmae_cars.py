"""Fine-tuning of SemMAE ViT-B/8 on Stanford Cars, 196 models. Paper Table 6: 94.4 (MAE 94.2).

Run:    tools/dist_train.sh mm_configs/semmae_cars.py 4 --cfg-options \
            model.backbone.init_cfg.checkpoint=work_dirs/semmae_pretrain/epoch_800.pth
Needs:  data/stanford_cars with cars_train/, cars_test/ and devkit/, cars_test_annos_withlabels.mat
        inside devkit/ (python tools/check_data.py cars says what is missing).
Paper:  no recipe.
Ours:   as semmae_cub.py. Declared, not searched.
Status: not run at full length here.
"""
_base_ = ['_base_/models/vit-base_classifier.py', '_base_/datasets/in1k_classification.py',
          '_base_/schedules/finetune_100e.py', '_base_/default_runtime.py']

model = dict(
    head=dict(num_classes=196), data_preprocessor=dict(num_classes=196),
    train_cfg=dict(_delete_=True))
_cars = dict(type='mmpretrain.StanfordCars', data_root='data/stanford_cars')
train_dataloader = dict(batch_size=32, dataset=dict(dataset=dict(
    _delete_=True, **_cars, split='train', pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='RandomResizedCrop', scale=224, crop_ratio_range=(0.3, 1.0), backend='pillow',
             interpolation='bicubic'),
        dict(type='RandomFlip', prob=0.5, direction='horizontal'),
        dict(type='PackInputs')])))
val_dataloader = dict(batch_size=32, dataset=dict(
    _delete_=True, **_cars, split='test', pipeline=_base_.val_dataloader.dataset.pipeline))
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=1e-3))

result = dict(task='cars', dataset='Stanford Cars', split='test', metric='accuracy/top1',
              tables=[6], full=dict(epochs=100, batch_size=128, num_train=8144,
                        pixels=224))
