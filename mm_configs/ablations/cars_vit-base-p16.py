"""Fine-tuning of ViT-B/16 on Stanford Cars.

Run:    tools/dist_train.sh mm_configs/ablations/cars_vit-base-p16.py 4 \
            --cfg-options model.backbone.init_cfg.checkpoint=FILE
Needs:  data/stanford_cars, as semmae_cars.py; FILE, a checkpoint of ViT-B/16.
Paper:  Table 6, other methods: BEiT 94.2, DINO 93.0, iBOT 94.3.
Ours:   as semmae_cars.py with 16x16 patches.
Status: not run at full length here.
"""
_base_ = ['../semmae_cars.py']

model = dict(backbone=dict(
    patch_size=16, init_cfg=dict(checkpoint='work_dirs/semmae_vit-base-p16/epoch_800.pth')))
