"""Mini fine-grained fine-tuning on real birds: 25 classes of CUB-200-2011 in its own layout.

Run:    python tools/train.py mm_configs/mini/cub25_mini.py --cfg-options \
            model.backbone.init_cfg.checkpoint=work_dirs/mae_p16_mini/epoch_16.pth
        All rows: python tools/run_suite.py transfer --seeds 0 1 2
Needs:  data/CUB_200_2011 with the lists cut to its first 25 classes (750 training, 652 test images)
Ours:   as semmae_cub_mini.py: 64x64 pixels, 16 epochs, no published recipe at this size.
"""
_base_ = ['semmae_cub_mini.py']
num_classes = 25

model = dict(head=dict(num_classes=num_classes), data_preprocessor=dict(num_classes=num_classes),
             backbone=dict(init_cfg=dict(checkpoint='work_dirs/mae_p16_mini/epoch_16.pth')))
train_dataloader = dict(dataset=dict(dataset=dict(data_root='data/CUB_200_2011')))
val_dataloader = dict(dataset=dict(data_root='data/CUB_200_2011'))
test_dataloader = val_dataloader
result = dict(dataset='CUB-200-2011, 25 classes')
