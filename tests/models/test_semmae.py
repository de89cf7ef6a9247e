"""Pre-training: equal to mmpretrain's MAE with random masks; masks guided by parts."""
import pytest
import torch
from mmpretrain.registry import MODELS as MMPRETRAIN

from semmae.functional.masking import split_ids
from semmae.functional.patches import patchify, unpatchify
from semmae.registry import MODELS

ARCH = dict(embed_dims=48, num_layers=3, num_heads=3, feedforward_channels=96)


def build(masking, img_size=64, patch_size=8, **kwargs):
    torch.manual_seed(0)
    grid = img_size // patch_size
    model = MODELS.build(dict(
        type='semmae.SemMAE', masking=masking,
        backbone=dict(type='semmae.ViT', arch=ARCH, img_size=img_size, patch_size=patch_size,
                      is_pos_embed_fixed=True),
        decoder=dict(type='semmae.MAEDecoder', grid=grid, patch_size=patch_size, embed_dim=48,
                     decoder_embed_dim=32, decoder_depth=2, decoder_num_heads=2), **kwargs))
    model.init_weights()
    return model


@pytest.fixture(scope='module')
def mmpretrain_mae():
    """mmpretrain's own MAE in the sizes of `build`."""
    config = dict(
        type='mmpretrain.MAE',
        backbone=dict(type='mmpretrain.MAEViT', arch=ARCH, img_size=64, patch_size=8),
        neck=dict(type='mmpretrain.MAEPretrainDecoder', num_patches=64, patch_size=8, embed_dim=48,
                  decoder_embed_dim=32, decoder_depth=2, decoder_num_heads=2),
        head=dict(type='mmpretrain.MAEPretrainHead', norm_pix=True, patch_size=8,
                  loss=dict(type='mmpretrain.PixelReconstructionLoss', criterion='L2')))
    with MMPRETRAIN.switch_scope_and_registry('mmpretrain') as models:  # another test left its own
        theirs = models.build(config)
    theirs.init_weights()
    return theirs


def test_random_masks_give_loss_and_encoder_gradients_of_mmpretrains_mae(
        mmpretrain_mae, monkeypatch):
    ours = build(dict(type='semmae.RandomMasking'))
    # All weights away from their initial values, norms and biases included.
    for p in ours.parameters():
        if p.requires_grad:
            p.data += 0.05 * torch.randn_like(p)
    renamed = {('neck.' + k.removeprefix('decoder.') if k.startswith('decoder.') else k): v
               for k, v in ours.state_dict().items()}
    mmpretrain_mae.load_state_dict(renamed, strict=True)
    images, noise = torch.randn(6, 3, 64, 64), torch.rand(6, 64)
    monkeypatch.setattr(torch, 'rand', lambda *a, **k: noise)
    theirs = mmpretrain_mae.loss(images, None)['loss']
    theirs.backward()
    monkeypatch.undo()
    loss = ours(images, noise=noise, mode='loss')['loss']
    loss.backward()
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-5)
    reference = dict(mmpretrain_mae.backbone.named_parameters())
    compared = 0
    for name, p in ours.backbone.named_parameters():
        if p.requires_grad:
            error = (p.grad - reference[name].grad).norm() / reference[name].grad.norm()
            assert error < 1e-5, name
            compared += 1
    assert compared == len(reference) - 1  # all but the fixed position embedding


def test_part_guided_masks_at_alpha_one_hide_whole_parts():
    model = build(dict(type='semmae.PartGuidedMasking', num_parts=4))
    ids = torch.arange(64).div(16, rounding_mode='floor').expand(5, -1)
    model.progress = 1.0
    candidates = model.candidates(torch.zeros(5, 3, 64, 64), part_ids=ids)
    keep, mask = model.split(candidates, model.masking(candidates))
    assert keep.shape == (5, 16) and mask.shape == (5, 48)
    # Four parts of 16 patches, 48 to mask: exactly one part stays.
    assert (ids.gather(1, keep) == ids.gather(1, keep)[:, :1]).all()


def test_only_the_most_foreground_patches_are_used():
    model = build(dict(type='semmae.PartGuidedMasking', num_parts=2), num_candidates=16)
    foreground = torch.rand(3, 64)
    candidates = model.candidates(torch.zeros(3, 3, 64, 64), torch.randint(2, (3, 64)), foreground)
    keep, mask = model.split(candidates, model.masking(candidates))
    used = torch.cat([keep, mask], 1).sort(1).values
    assert used.equal(foreground.topk(16).indices.sort(1).values)
    assert keep.shape == (3, 4)


def test_dropped_background_does_not_change_the_loss():
    model = build(dict(type='semmae.RandomMasking'), num_candidates=16).eval()
    images, foreground, noise = torch.randn(2, 3, 64, 64), torch.rand(2, 64), torch.rand(2, 64)
    loss = model(images, foreground=foreground, noise=noise, mode='loss')['loss']
    dropped = foreground.argsort(1)[:, :48]
    patches = patchify(images, 8).scatter(1, dropped[..., None].expand(-1, -1, 192), 7.)
    other = model(unpatchify(patches, 8), foreground=foreground, noise=noise, mode='loss')['loss']
    assert loss.equal(other)


def test_embedding_only_the_kept_patches_equals_embedding_all_and_choosing():
    vit = build(dict(type='semmae.RandomMasking')).backbone
    images = torch.randn(2, 3, 64, 64)
    keep, _ = split_ids(torch.rand(2, 64).argsort(1) < 48, 16)
    everything, _ = vit.tokens(images)
    some, _ = vit.tokens(images, keep)
    picked = everything[:, 1:].gather(1, keep[..., None].expand(-1, -1, 48))
    torch.testing.assert_close(some[:, 1:], picked, rtol=1e-5, atol=1e-6)


def test_a_decoder_of_another_grid_is_refused():
    with pytest.raises(ValueError, match=r'decoder.grid is \(8, 8\)'):
        MODELS.build(dict(
            type='semmae.SemMAE', masking=dict(type='semmae.RandomMasking'),
            backbone=dict(type='semmae.ViT', arch=ARCH, img_size=64, patch_size=16),
            decoder=dict(type='semmae.MAEDecoder', grid=8, patch_size=8, embed_dim=48)))


def test_frozen_positions_stay_and_everything_else_learns():
    model = build(dict(type='semmae.RandomMasking'))
    model(torch.randn(2, 3, 64, 64), mode='loss')['loss'].backward()
    without = {n for n, p in model.named_parameters() if p.grad is None}
    assert without == {'backbone.pos_embed', 'decoder.decoder_pos_embed'}
