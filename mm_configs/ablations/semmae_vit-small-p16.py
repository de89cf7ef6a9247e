"""SemMAE pre-training, ViT-S/16, 800 epochs. The paper has ViT-B only.

Run:    tools/dist_train.sh mm_configs/ablations/semmae_vit-small-p16.py 16
        then python tools/run_suite.py paper \
            --checkpoint work_dirs/semmae_vit-small-p16/epoch_800.pth
Needs:  the part store at 14x14, as in semmae_vit-base-p16.py
Paper:  as ViT-B except the size of the encoder.
Ours:   384 wide, 6 heads ('deit-small' in mmpretrain); rates and decoder not tuned.
        run_suite.py sets the sizes of downstream configs from the checkpoint; by hand:
        model.backbone.arch=deit-small and the widths of neck and head.
Status: not run at full length here.
"""
_base_ = ['semmae_vit-base-p16.py']

model = dict(backbone=dict(arch='deit-small'), decoder=dict(embed_dim=384))

recipe = dict(id='semmae_small_p16', method='SemMAE, ViT-S')
