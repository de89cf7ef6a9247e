"""UPerNet on ADE20K with the plain ViT-B/16: no relative position bias, 160k iterations.

Run:    tools/dist_train.sh mm_configs/ablations/upernet_vit-base-p16_plain.py 8 --cfg-options \
            model.backbone.init_cfg.checkpoint=work_dirs/semmae_vit-base-p16/epoch_800.pth
Needs:  data/ADEChallengeData2016 as it is published.
Paper:  "standard setting"; it does not say which. The main config follows MAE's protocol.
MAE:    as semmae_upernet_ade20k.py without the bias, which the published protocol has and no
        pre-trained network; only the pre-trained position embedding, as in iBOT.
Status: not run at full length here.
"""
_base_ = ['../semmae_upernet_ade20k.py']

model = dict(backbone=dict(rel_pos_bias=False))

result = dict(task='upernet_plain')
