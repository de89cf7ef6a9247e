"""Relative positions belong to one grid of patches; any other is refused or filled up to it."""
import pytest
import torch

from semmae.models import ViT
from semmae.models.backbone import relative_positions

ARCH = dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=48)


def vit(**kwargs):
    torch.manual_seed(0)
    model = ViT(**dict(dict(arch=ARCH, img_size=64, patch_size=8, out_type='raw',
                            rel_pos_bias=True), **kwargs))
    model.init_weights()
    for layer in model.layers:
        torch.nn.init.normal_(layer.attn.relative_position_bias_table)
    return model.eval()


@pytest.mark.parametrize('out_type', ['raw', 'cls_token', 'avg_featmap'])
@pytest.mark.parametrize('height, width', [(32, 128), (128, 32)])
def test_another_grid_with_as_many_patches_is_refused(out_type, height, width):
    told = (f'made for a grid of 8x8 patches, got {height // 8}x{width // 8}: the image is larger '
            'than img_size')
    with pytest.raises(ValueError, match=told):
        vit(out_type=out_type)(torch.randn(1, 3, height, width))


@pytest.mark.parametrize('out_type', ['raw', 'cls_token', 'avg_featmap'])
def test_a_smaller_image_without_a_feature_map_is_called_smaller(out_type):
    with pytest.raises(ValueError, match='got 4x5: the image is smaller than img_size'):
        vit(out_type=out_type)(torch.randn(1, 3, 32, 40))


@pytest.mark.parametrize('ids_keep', [torch.arange(5)[None], torch.arange(64).flip(0)[None]])
def test_kept_patches_are_refused_even_if_all_of_them_are_kept(ids_keep):
    with pytest.raises(ValueError, match='rel_pos_bias=True needs all patches in order'):
        vit()(torch.randn(1, 3, 64, 64), ids_keep)


def test_patches_at_equal_offsets_have_equal_biases_wherever_they_are():
    bias = vit().layers[0].attn.bias()[0, :, 1:, 1:].unflatten(1, (8, 8)).unflatten(3, (8, 8))
    # From (0, 1) to (2, 4), and the same offset in the opposite corner.
    assert bias[:, 0, 1, 2, 4].equal(bias[:, 5, 4, 7, 7])
    assert not bias[:, 0, 1, 2, 4].equal(bias[:, 2, 4, 0, 1])


def test_the_patches_of_a_smaller_window_have_the_biases_of_their_offsets():
    # A window that is filled up lies in the upper left corner of the full one.
    bias = vit().layers[0].attn.bias()[0, :, 1:, 1:].unflatten(1, (8, 8)).unflatten(3, (8, 8))
    corner = bias[:, :3, :5, :3, :5].flatten(3).flatten(1, 2)
    small, table = relative_positions(3, 5)[1:, 1:], {}
    for row, value in zip(small.flatten().tolist(), corner.flatten(1).T, strict=True):
        assert table.setdefault(row, value).equal(value)
    assert len(table) == 5 * 9


@pytest.mark.parametrize('height, width', [(64, 64), (48, 60)])
def test_a_compiled_backbone_has_the_features_of_the_eager_one(height, width):
    model, images = vit(out_type='featmap'), torch.randn(1, 3, height, width)
    compiled = torch.compile(model, backend='eager', fullgraph=True)
    with torch.no_grad():
        assert compiled(images)[0].equal(model(images)[0])
