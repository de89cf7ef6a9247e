"""Fine-tuning of SemMAE ViT-B/8 on ImageNet-1k, all 784 patches. Paper Tables 2 and 5: 84.5.

Run:    tools/dist_train.sh mm_configs/semmae_finetune.py 8 --cfg-options \
            model.backbone.init_cfg.checkpoint=work_dirs/semmae_pretrain/epoch_800.pth
Needs:  ImageNet-1k in data/imagenet; the pre-trained checkpoint of ViT-B/8.
MAE:    100 epochs, batch 1024 (8 x 128), AdamW 2e-3, layer decay 0.65, drop path 0.1, warm-up 5,
        RandAugment 9/0.5, label smoothing 0.1, mixup 0.8, cutmix 1.0, erasing 0.25, average
        pooling (MAE, A.1). The paper gives no recipe of its own.
Status: not run at full length here.
"""
_base_ = ['_base_/models/vit-base_classifier.py', '_base_/datasets/in1k_classification.py',
          '_base_/schedules/finetune_100e.py', '_base_/default_runtime.py']

result = dict(task='finetune', dataset='ImageNet-1k', split='val', metric='accuracy/top1',
              tables=[2, 5], full=dict(epochs=100, batch_size=1024, num_train=1281167,
                        pixels=224))
