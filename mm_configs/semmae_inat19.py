"""Fine-tuning of SemMAE ViT-B/8 on iNaturalist 2019, 1,010 species. Paper Table 6: 82.1.

Run:    tools/dist_train.sh mm_configs/semmae_inat19.py 8 --cfg-options \
            model.backbone.init_cfg.checkpoint=work_dirs/semmae_pretrain/epoch_800.pth
Needs:  data/inat2019 with train2019.json, val2019.json and train_val2019/.
Paper:  no recipe at all.
Ours:   MAE's fine-tuning on ImageNet, with learning rate 1e-3 (batch 1024, 8 x 128), not tuned; the
        official validation split of 3,030 images.
Status: not run at full length here.
"""
_base_ = ['_base_/models/vit-base_classifier.py', '_base_/datasets/in1k_classification.py',
          '_base_/schedules/finetune_100e.py', '_base_/default_runtime.py']

model = dict(head=dict(num_classes=1010), data_preprocessor=dict(num_classes=1010))
_inat = dict(type='semmae.INaturalist2019', data_root='data/inat2019')
train_dataloader = dict(dataset=dict(dataset=dict(
    _delete_=True, **_inat, ann_file='train2019.json',
    pipeline=_base_.train_dataloader.dataset.dataset.pipeline)))
val_dataloader = dict(dataset=dict(
    _delete_=True, **_inat, ann_file='val2019.json',
    pipeline=_base_.val_dataloader.dataset.pipeline))
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=1e-3))

result = dict(task='inat19', dataset='iNaturalist 2019', split='val', metric='accuracy/top1',
              tables=[6], full=dict(epochs=100, batch_size=1024, num_train=265213,
                        pixels=224))
