"""Weighted k-NN on frozen features of SemMAE ViT-B/8, ImageNet-1k. Trains nothing.

Run:    tools/dist_train.sh mm_configs/semmae_knn.py 8 --cfg-options \
            model.backbone.init_cfg.checkpoint=work_dirs/semmae_pretrain/epoch_800.pth
Needs:  data/imagenet/train and val; 3.9 GB on each device for the features of all training images.
Paper:  not reported.
DINO:   class token of the last layer after its norm, cosine similarity, the nearest k vote with
        exp(similarity / 0.07), k = 20 for the result and 10, 100, 200 in the log (which k is best
        is not chosen on val); images resized to 256 and cropped to 224 in training and val, no
        augmentation (Caron et al. 2021, Sec. 3.2; eval_knn.py of
        https://github.com/facebookresearch/dino at 7c446df).
Ours:   all 784 patches, not the 196 that linear probing at 8x8 keeps: no part store is needed.
Status: not run at full length here.
"""
_base_ = ['_base_/datasets/in1k_classification.py', '_base_/default_runtime.py']

model = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(
        type='semmae.ViT', arch='base', img_size=224, patch_size=8, out_type='cls_token',
        is_frozen=True,
        init_cfg=dict(type='Pretrained', checkpoint='work_dirs/semmae_pretrain/epoch_800.pth')),
    head=dict(
        type='semmae.KNNHead', num_classes=1000, k=20, also=(10, 100, 200), temperature=0.07),
    data_preprocessor=dict(
        type='mmpretrain.ClsDataPreprocessor', num_classes=1000, to_rgb=True,
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]))

train_dataloader = dict(
    drop_last=False, sampler=dict(shuffle=False),
    dataset=dict(dataset=dict(pipeline=_base_.val_dataloader.dataset.pipeline)))
val_evaluator = [dict(type='mmpretrain.Accuracy', topk=(1,)), dict(type='semmae.KNNAccuracy')]
test_dataloader = test_evaluator = test_cfg = None

train_cfg = dict(type='semmae.KNNLoop')
# mmengine needs an optimiser; it takes no step. DDP refuses a model without trainable parameters.
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.0))
param_scheduler = []
model_wrapper_cfg = dict(type='MMSeparateDistributedDataParallel')

result = dict(task='knn', dataset='ImageNet-1k', split='val', metric='accuracy/top1',
              full=dict(num_train=1281167, pixels=224))
