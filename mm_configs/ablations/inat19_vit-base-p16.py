"""Fine-tuning of ViT-B/16 on iNaturalist 2019.

Run:    tools/dist_train.sh mm_configs/ablations/inat19_vit-base-p16.py 8 \
            --cfg-options model.backbone.init_cfg.checkpoint=FILE
Needs:  data/inat2019 with train2019.json, val2019.json and train_val2019/; FILE, a checkpoint of
        ViT-B/16.
Paper:  Table 6, other methods: BEiT 79.2, DINO 78.6, iBOT 79.6.
Ours:   as semmae_inat19.py with 16x16 patches.
Status: not run at full length here.
"""
_base_ = ['../semmae_inat19.py']

model = dict(backbone=dict(
    patch_size=16, init_cfg=dict(checkpoint='work_dirs/semmae_vit-base-p16/epoch_800.pth')))
