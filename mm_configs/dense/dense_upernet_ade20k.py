"""UPerNet on ADE20K with any timm ViT as the backbone, fine-tuned, 160k iterations.

Run:    tools/dist_train.sh mm_configs/dense/dense_upernet_ade20k.py 8 --cfg-options \
            model.backbone.init_cfg.checkpoint=FILE
        Any backbone: python tools/run_suite.py dense --timm NAME --checkpoint FILE \
            --only upernet_ade20k
Needs:  data/ADEChallengeData2016 as it is published.
Ours:   MAE's recipe (semmae_upernet_ade20k.py) on a plain ViT without relative position bias, in
        crops of 448 pixels, a multiple of 14 and 16, instead of 512. Four evenly spaced layers.
Status: not run at full length here.
"""
_base_ = ['../semmae_upernet_ade20k.py']
crop = 448

model = dict(
    data_preprocessor=dict(size=(crop, crop)),
    backbone=dict(
        _delete_=True, type='semmae.TimmViT', model_name='vit_base_patch14_dinov2', img_size=crop,
        out_type='featmap', out_indices=(2, 5, 8, 11), drop_path_rate=0.1, final_norm=False,
        init_cfg=dict(type='Pretrained', checkpoint='weights/dinov2_vitb14.safetensors')),
    test_cfg=dict(crop_size=(crop, crop), stride=(298, 298)))
train_dataloader = _base_.train_dataloader
train_dataloader.dataset.dataset.pipeline[3].crop_size = (crop, crop)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'reg_token': dict(decay_mult=0.)}))
result = dict(task='seg_upernet', tables=['dense'], full=dict(
    _delete_=True, iters=160000, batch_size=16, num_train=20210))
