"""Part learning on Tiny-ImageNet with the ViT of mae.py as the encoder.

Run:    python tools/train.py mm_configs/tiny_imagenet/parts_mae.py --cfg-options \
            model.encoder.checkpoint=work_dirs/mae/epoch_6.pth
Needs:  data/tiny_imagenet/train; the checkpoint of mae.py
Paper:  not reported on Tiny-ImageNet.
Ours:   as parts.py, with the tokens of the last layer.
Status: not run at full length here.
"""
_base_ = ['parts.py']

model = dict(
    encoder=dict(
        backbone=dict(
            _delete_=True, type='semmae.ViT', img_size=64, patch_size=8,
            arch=dict(embed_dims=128, num_layers=6, num_heads=4, feedforward_channels=512)),
        layer=-1, checkpoint='work_dirs/mae/epoch_6.pth'),
    object=dict(layer=-1))

recipe = dict(id='parts_mae', method='part learning on MAE')
