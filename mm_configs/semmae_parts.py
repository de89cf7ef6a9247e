"""Semantic part learning on ImageNet-1k with a frozen iBOT ViT-S/16 (Sec. 3.1 and 4.1).

Run:    python tools/train.py mm_configs/semmae_parts.py
Needs:  ImageNet-1k in data/imagenet; iBOT ViT-S/16 in weights/ibot_vits_16.pth, the full
        checkpoint or the backbone; other encoders: docs/part-learning.md
Paper:  6 parts, blur kernel 7, lambda 0.03; "2 hours on one A100"; optimiser, batch, length,
        learning rate and decoder width are not given.
Ours:   Adam 4e-3, batch 256, 2 epochs, decoder of 5 blocks of 64 channels, images at 448 so that
        16-pixel patches give a 28x28 grid. Chosen at toy scale, not yet tried on ImageNet.
        The class token is layer-normed and the logits have no 1/sqrt(D). Our other decoder
        finds better parts at toy scale: ablations/parts_vit-small_painted.py.
        Eq. 5 takes the mean over colours. The paper does not say how the difference of two colours
        becomes a number. With the sum over colours lambda has a third of its weight:
        ablations/parts_vit-small_sum_colours.py.
        Eq. 4 is compared at 112 pixels, the decoder's resolution, with the image averaged down to
        it. The paper does not give a resolution.
        AdaIN multiplies by 1 + scale, as StyleGAN does, where Eq. 3 has W_s F_c alone, and divides
        by the standard deviation, where the text says variance. Each AdaIN is followed by a
        LeakyReLU of slope 0.2; Eq. 4 has no activation.
        The foreground is ranked by tokens unlike those at the border. Sec. 4.2 ranks it by the
        attention maps and does not say how: ablations/semmae_vit-base-p8_maps-foreground.py.
Status: not run at full length here; its cost on a GPU is not measured.
"""
_base_ = ['_base_/datasets/in1k_with_parts.py', '_base_/default_runtime.py']
grid = 28
num_parts = 6

model = dict(
    type='semmae.PartLearner', num_parts=num_parts, blur_kernel=7, diversity_weight=0.03,
    softmax_over='parts', parts=dict(type='semmae.LearnedParts', foreground='border'),
    encoder=dict(
        type='semmae.PartEncoder', grid=grid, checkpoint='weights/ibot_vits_16.pth',
        checkpoint_key=None,  # None: the teacher, where a file has both
        backbone=dict(type='semmae.ViT', arch='deit-small', img_size=224, patch_size=16,
                      interpolate_offset=0.1)),  # the paper's ViT-S; the offset of iBOT's code
    decoder=dict(type='semmae.PartDecoder', channels=(64, 64, 64, 64, 64), num_upsamplings=2))

train_dataloader = _base_.train_dataloader
train_dataloader.dataset.dataset.pipeline[0].size = grid * 16  # pixels of the encoder's input

optim_wrapper = dict(
    type='AmpOptimWrapper', dtype='bfloat16', loss_scale=1.0,
    optimizer=dict(type='Adam', fused=True, lr=4e-3), clip_grad=dict(max_norm=1.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='LinearLR', start_factor=1.0, end_factor=0.01, by_epoch=True, begin=0, end=2,
         convert_to_iter_based=True)]
train_cfg = dict(type='semmae.ResumableEpochLoop', max_epochs=2)
custom_hooks = [*_base_.custom_hooks, dict(type='semmae.PartHealthHook')]

recipe = dict(id='parts', method='part learning',
              full=dict(epochs=2, batch_size=256, num_train=1281167))
