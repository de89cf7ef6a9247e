"""Part learning with a DINOv2 ViT-S/14: the object first, then 12 parts within it.

Run:    python tools/train.py mm_configs/ablations/parts_dinov2.py
Needs:  ImageNet-1k in data/imagenet; the file of a DINOv2 ViT-S/14 (timm's or DINOv2's names) in
        weights/dinov2_vits14.safetensors
Paper:  not reported; it has six parts of the last layer, and no background.
Ours:   tokens of layer 9 (from 0); the object is what is unlike the border in tokens of layer 7,
        by Otsu's threshold; parts are painted in colours and tokens; the first of 13 maps is the
        background. Layers and weights were chosen on birds: benchmarks/results/parts/birds.
Status: not run at full length here.
"""
_base_ = ['parts_vit-small_painted.py']
grid = 16
num_parts = 13

model = dict(
    num_parts=num_parts, blur_kernel=3, token_weight=10., diversity_weight=0.3,
    object=dict(by='border', layer=7, threshold='otsu'),
    parts=dict(foreground='border', layer=7),
    encoder=dict(
        grid=grid, layer=9, checkpoint='weights/dinov2_vits14.safetensors',
        backbone=dict(_delete_=True, type='semmae.TimmViT',
                      model_name='vit_small_patch14_dinov2', out_type='raw')),
    decoder=dict(paints_tokens=True))
train_dataloader = _base_.train_dataloader
train_dataloader.dataset.dataset.pipeline[0].size = grid * 14  # pixels of the encoder's input

recipe = dict(id='parts_dinov2', method='part learning, object first')
