"""`FrozenProbe` finds the class token, the patch tokens and their grid in any backbone's output."""
import numpy as np
import pytest
import torch
from torch import nn

from semmae.registry import MODELS


@MODELS.register_module(force=True)
class TokensOrMaps(nn.Module):
    """Maps of 16x16 patches, or their tokens after ``num_tokens`` others; it says no patch size."""

    def __init__(self, num_tokens=None):
        super().__init__()
        self.num_tokens, self.stem = num_tokens, nn.Conv2d(3, 6, 16, 16)

    def forward(self, x):
        maps = self.stem(x)
        if self.num_tokens is None:
            return maps, 2 * maps
        tokens = maps.flatten(2).mT
        return torch.cat([tokens[:, :1].repeat(1, self.num_tokens, 1) + 1, tokens], 1)


TIMM = dict(type='semmae.TimmViT', model_name='vit_small_patch16_dinov3', depth=2, embed_dim=24,
            num_heads=3, out_type='raw')
SIZE = dict(img_size=64, patch_size=16, arch=dict(embed_dims=12, num_layers=2, num_heads=2,
                                                  feedforward_channels=24))


def wrapped(num_tokens, **kwargs):
    return dict(type='semmae.WrappedBackbone', out_type='raw',
                module=dict(type='TokensOrMaps', num_tokens=num_tokens), **kwargs)


def probe(backbone, **kwargs):
    torch.manual_seed(0)
    return MODELS.build(dict(type='semmae.FrozenProbe', backbone=backbone, probes={},
                             task=dict(kind='classification', num_classes=2),
                             patch_layers=(-1,), **kwargs)).eval()


@pytest.mark.parametrize('backbone, num_prefix', [
    (TIMM, 5), (dict(TIMM, model_name='vit_base_patch16_siglip_224'), 0),
    (dict(type='semmae.ViT', out_type='raw', **SIZE), 1),
    (wrapped(3, num_prefix=3), 3), (wrapped(0), 0), (wrapped(None), 0)])
@torch.no_grad()
def test_tokens_are_split_into_class_token_and_patches(backbone, num_prefix):
    model, images = probe(backbone), torch.randn(2, 3, 64, 64)
    found, grid = model.encode(images)
    tokens = model.backbone(images)[-1].numpy()
    layer = max(found)[0]
    assert grid == (4, 4) and tokens.shape[1] == num_prefix + 16
    assert ((layer, 'class') in found) == (num_prefix > 0)
    if num_prefix:
        np.testing.assert_array_equal(found[layer, 'class'], tokens[:, 0])
    np.testing.assert_array_equal(found[layer, 'patches'], tokens[:, num_prefix:])
    np.testing.assert_allclose(found[layer, 'mean'], tokens[:, num_prefix:].mean(1), atol=1e-6)


@torch.no_grad()
def test_maps_have_patches_and_no_class_token():
    images = torch.randn(2, 3, 64, 32)
    model = probe(dict(type='semmae.TokensOrMaps'), layers=(0, 1))
    found, grid = model.encode(images)
    maps = model.backbone.stem(images)
    assert grid == (4, 2) and set(found) == {(0, 'mean'), (1, 'mean'), (1, 'patches')}
    np.testing.assert_allclose(found[0, 'mean'], maps.mean((2, 3)).numpy(), atol=1e-6)
    np.testing.assert_array_equal(found[1, 'patches'], 2 * maps.flatten(2).mT.numpy())


@torch.no_grad()
def test_the_grid_is_that_of_padded_images_and_of_the_config():
    assert probe(TIMM).encode(torch.randn(1, 3, 50, 70))[1] == (4, 5)
    assert probe(wrapped(0, grid=(2, 8))).encode(torch.randn(1, 3, 64, 64))[1] == (2, 8)


@pytest.mark.parametrize('backbone, message', [
    (wrapped(3), '19 patch tokens are no grid of square patches in images of 64x64 pixels. '
                 'Expected num_prefix'),
    (wrapped(0, grid=(3, 5)), 'got 16 patch tokens, expected 3x5; num_prefix is 0'),
    (dict(TIMM, out_type='cls_token'), 'TimmViT: got features of shape .*expected out_type=')])
@torch.no_grad()
def test_tokens_that_are_no_grid_are_refused(backbone, message):
    with pytest.raises(ValueError, match=message):
        probe(backbone).encode(torch.randn(1, 3, 64, 64))


@torch.no_grad()
def test_a_layer_that_the_backbone_does_not_return_is_refused():
    with pytest.raises(ValueError, match='got -3, the backbone returns 2 layers. Set model.layers'):
        probe(dict(type='semmae.TokensOrMaps'), layers=(-3,)).encode(torch.randn(1, 3, 64, 64))
