"""Linear probing of ViT-B/8 on the 196 patches that the part maps rank highest (Sec. 4.2).

Run:    tools/dist_train.sh mm_configs/ablations/linprobe_vit-base-p8_maps-foreground.py 8 \
            --cfg-options model.backbone.init_cfg.checkpoint=FILE
        for the FILE of semmae_vit-base-p8_maps-foreground.py
Needs:  part stores of train and val at 28x28 that rank the patches by the maps:
        python tools/extract_parts.py mm_configs/semmae_parts.py \
            work_dirs/semmae_parts/epoch_2.pth --images data/imagenet/val \
            --out data/parts/imagenet_val_28_maps --grid 28 \
            --cfg-options model.parts.foreground=parts and
        python tools/extract_parts.py mm_configs/semmae_parts.py \
            work_dirs/semmae_parts/epoch_2.pth --images data/imagenet/train \
            --out data/parts/imagenet_train_28_maps --grid 28 \
            --cfg-options model.parts.foreground=parts
Paper:  as semmae_linprobe.py, with the paper's own ranking of the foreground.
MAE:    as semmae_linprobe.py.
Status: not run at full length here.
"""
_base_ = ['../semmae_linprobe.py']

model = dict(backbone=dict(init_cfg=dict(
    checkpoint='work_dirs/semmae_vit-base-p8_maps-foreground/epoch_800.pth')))
train_dataloader = _base_.train_dataloader
val_dataloader = _base_.val_dataloader
for _data, _split in ((train_dataloader.dataset.dataset, 'train'), (val_dataloader.dataset, 'val')):
    _data.pipeline[3].update(
        store=f'data/parts/imagenet_{_split}_{_base_.grid}_maps', foreground='parts')
test_dataloader = val_dataloader
