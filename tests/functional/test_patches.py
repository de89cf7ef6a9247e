"""Patches and positions: cases worked by hand, and the values of mmpretrain."""
import pytest
import torch

from semmae.functional.patches import (
    gather_positions,
    normalize_patches,
    patchify,
    sincos_position_embedding,
    unpatchify,
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_a_patch_is_row_by_row_with_the_colours_of_a_pixel_together():
    image = torch.arange(2 * 4 * 4).view(1, 2, 4, 4)   # value = 16 * colour + 4 * y + x
    patches = patchify(image, 2)
    assert patches[0, 1].tolist() == [2, 18, 3, 19, 6, 22, 7, 23]    # right of the first
    assert patches[0, 2].tolist() == [8, 24, 9, 25, 12, 28, 13, 29]  # below the first


@pytest.mark.parametrize('height, width', [(8, 8), (4, 12)])
def test_unpatchify_undoes_patchify(height, width):
    images = torch.rand(2, 3, height, width)
    again = unpatchify(patchify(images, 4), 4, grid=(height // 4, width // 4))
    assert torch.equal(again, images)


def test_a_grid_is_square_unless_it_is_given():
    assert unpatchify(torch.rand(1, 9, 12), 2).shape == (1, 3, 6, 6)
    with pytest.raises(ValueError, match='8 patches do not fill a grid of 3x3'):
        unpatchify(torch.rand(1, 8, 12), 2)


def test_sizes_that_are_not_a_multiple_of_the_patch_are_refused():
    with pytest.raises(ValueError, match=r'\(1, 3, 8, 10\).*patch_size=4'):
        patchify(torch.rand(1, 3, 8, 10), 4)
    with pytest.raises(ValueError, match='13 values'):
        unpatchify(torch.rand(1, 4, 13), 2)


def test_normalised_patches_have_mean_0_and_unbiased_variance_1():
    patches = normalize_patches(torch.rand(2, 5, 48) * 7 + 3)
    torch.testing.assert_close(patches.mean(-1), torch.zeros(2, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(patches.var(-1), torch.ones(2, 5), atol=1e-4, rtol=0)
    assert normalize_patches(torch.ones(1, 1, 12)).abs().max() == 0   # a flat patch


def test_gather_positions_takes_other_positions_in_every_image():
    x = torch.arange(2 * 3 * 2).view(2, 3, 2)
    taken = gather_positions(x, torch.tensor([[2, 0], [1, 1]]))
    assert taken.tolist() == [[[4, 5], [0, 1]], [[8, 9], [8, 9]]]
    assert gather_positions(x[..., 0], torch.tensor([[2], [0]])).tolist() == [[4], [6]]


def test_gather_positions_uses_one_row_for_the_whole_batch():
    x = torch.rand(1, 4, 3)
    ids = torch.tensor([[3, 1], [0, 2]])
    assert torch.equal(gather_positions(x, ids), x[0][ids])


def test_gather_positions_refuses_batches_that_differ():
    with pytest.raises(ValueError, match=r'\(2, 4\) and ids \(3, 1\)'):
        gather_positions(torch.rand(2, 4), torch.zeros(3, 1, dtype=torch.long))


@pytest.fixture(scope='module')
def mmpretrain_head():
    heads = pytest.importorskip('mmpretrain.models.heads.mae_head')
    return heads.MAEPretrainHead(loss=dict(type='PixelReconstructionLoss', criterion='L2'),
                                 norm_pix=True, patch_size=4)


def test_patches_and_targets_equal_those_of_mmpretrain(mmpretrain_head):
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(patchify(images, 4), mmpretrain_head.patchify(images))
    assert torch.equal(unpatchify(patchify(images, 4), 4),
                       mmpretrain_head.unpatchify(mmpretrain_head.patchify(images)))
    target = mmpretrain_head.construct_target(images)
    torch.testing.assert_close(normalize_patches(patchify(images, 4)), target)


@pytest.mark.parametrize('grid, dim', [(14, 768), (3, 8)])
def test_the_position_embedding_equals_that_of_mmpretrain(grid, dim):
    utils = pytest.importorskip('mmpretrain.models.utils')
    theirs = utils.build_2d_sincos_position_embedding(grid, dim, cls_token=True)
    ours = sincos_position_embedding(dim, grid)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_the_position_embedding_holds_row_then_column_in_row_major_order():
    embedding = sincos_position_embedding(4, (2, 3))[0]
    assert embedding[0].tolist() == [0, 0, 0, 0]               # the class token
    rows, columns = embedding[1:].T[[0, 2]]                    # sines of frequency 1
    torch.testing.assert_close(rows, torch.tensor([0, 0, 0, 1, 1, 1.]).sin())
    torch.testing.assert_close(columns, torch.tensor([0, 1, 2, 0, 1, 2.]).sin())


def test_an_odd_embedding_width_is_refused():
    with pytest.raises(ValueError, match='embed_dim is 6'):
        sincos_position_embedding(6, 2)
