"""Eq. 1-3, blur, part ids, foreground rankings and collapse: cases worked by hand, properties."""
import math

import pytest
import torch
import torch.nn.functional as F

from semmae.functional import parts
from semmae.functional.parts import (
    adain,
    blur_maps,
    foreground_ids,
    foreground_scores,
    part_attention,
    part_health,
    part_ids,
    part_tokens,
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_part_tokens_are_equation_1_part_by_part():
    cls_token, w1, w2 = torch.randn(3, 5), torch.randn(4, 5, 5), torch.randn(4, 5, 5)
    tokens = part_tokens(cls_token, w1, w2)
    assert tokens.shape == (3, 4, 5)
    for b in range(3):
        for p in range(4):
            gate = torch.sigmoid(w2[p] @ torch.tanh(w1[p] @ cls_token[b]))
            torch.testing.assert_close(tokens[b, p], cls_token[b] * gate)


def test_part_tokens_with_zero_weights_are_half_the_class_token():
    tokens = part_tokens(torch.tensor([[2., -4.]]), torch.zeros(1, 2, 2), torch.zeros(1, 2, 2))
    assert tokens.tolist() == [[[1., -2.]]]


def test_part_attention_is_equation_2_without_a_scale():
    parts, patches = torch.randn(2, 3, 4), torch.randn(2, 6, 4)
    wp, w = torch.randn(4, 4), torch.randn(4, 4)
    logits = torch.stack([p @ wp.T @ w @ x.T for p, x in zip(parts, patches)])
    close = torch.testing.assert_close
    close(part_attention(parts, patches, wp, w, return_logits=True), logits, atol=1e-4, rtol=1e-4)
    close(part_attention(parts, patches, wp, w), logits.softmax(1), atol=1e-4, rtol=1e-4)
    close(part_attention(parts, patches, wp, w, softmax_over='positions'), logits.softmax(2),
          atol=1e-4, rtol=1e-4)


def test_a_wrong_axis_and_wrong_shapes_are_refused():
    parts, patches, w = torch.randn(2, 3, 4), torch.randn(2, 6, 4), torch.eye(4)
    with pytest.raises(ValueError, match="softmax_over is 'channels'"):
        part_attention(parts, patches, w, w, softmax_over='channels')
    with pytest.raises(ValueError, match=r'\(2, 6, 3\)'):
        part_attention(parts, patches[..., :3], w, w)
    with pytest.raises(ValueError, match=r'\(2, 4\), \(3, 5, 5\)'):
        part_tokens(torch.randn(2, 4), torch.randn(3, 5, 5), torch.randn(3, 5, 5))


@pytest.mark.parametrize('kernel_size', [3, 7, 31])
def test_blur_leaves_constant_maps_constant(kernel_size):
    maps = torch.tensor([.3, 2.]).view(1, 2, 1, 1).expand(1, 2, 6, 9)
    torch.testing.assert_close(blur_maps(maps, kernel_size), maps)


def test_blur_with_kernel_1_changes_nothing():
    maps = torch.rand(2, 3, 5, 7)
    assert torch.equal(blur_maps(maps, 1), maps)


def test_blur_is_the_depthwise_gaussian_convolution_away_from_the_border():
    maps = torch.rand(2, 3, 12, 10)
    line = torch.exp(-.5 * (torch.arange(-3., 4) / 1.4) ** 2)   # sigma of kernel 7
    kernel = torch.outer(line, line) / line.sum() ** 2
    expected = F.conv2d(maps, kernel.expand(3, 1, 7, 7), groups=3)
    torch.testing.assert_close(blur_maps(maps, 7)[..., 3:-3, 3:-3], expected)


def test_blur_keeps_the_sum_over_parts_and_does_not_mix_parts():
    maps = torch.randn(2, 4, 8, 8).softmax(1)
    torch.testing.assert_close(blur_maps(maps).sum(1), torch.ones(2, 8, 8))
    maps = torch.zeros(1, 2, 5, 5)
    maps[0, 0, 2, 2] = 1.
    assert blur_maps(maps, 3)[0, 1].abs().max() == 0


def test_blur_of_a_flipped_map_is_the_flipped_blur():
    maps = torch.rand(1, 2, 6, 9)
    torch.testing.assert_close(blur_maps(maps.flip(-1)), blur_maps(maps).flip(-1))


@pytest.mark.parametrize('size', [4, 0])
def test_a_blur_kernel_of_even_size_is_refused(size):
    with pytest.raises(ValueError, match=f'kernel_size is {size}'):
        blur_maps(torch.rand(1, 1, 8, 8), size)


def test_adain_gives_every_channel_the_mean_and_deviation_of_the_style():
    features = torch.randn(2, 3, 8, 8) * 5 + 1
    scale, shift = torch.rand(2, 3) + .5, torch.randn(2, 3)
    out = adain(features, scale, shift)
    torch.testing.assert_close(out.mean((2, 3)), shift, atol=1e-5, rtol=0)
    torch.testing.assert_close(out.std((2, 3), correction=0), scale, atol=1e-4, rtol=0)
    expected = F.instance_norm(features) * scale[..., None, None] + shift[..., None, None]
    torch.testing.assert_close(out, expected)


def test_adain_refuses_a_style_of_another_width():
    with pytest.raises(ValueError, match=r'\(2, 3, 8, 8\), \(2, 4\)'):
        adain(torch.rand(2, 3, 8, 8), torch.rand(2, 4), torch.rand(2, 4))


def test_part_ids_name_the_part_with_the_largest_map():
    ids = part_ids(torch.tensor([[[.2, .7, .3], [.8, .1, .4], [0., .2, .3]]]))
    assert ids.dtype == torch.int64 and ids.tolist() == [[1, 0, 1]]


def test_foreground_scores_of_a_large_background_part_are_low():
    # 8 background patches belong to part 0, 2 of the object to part 1, each with probability .9.
    maps = torch.full((1, 2, 10), .1)
    maps[0, 0, :8] = .9
    maps[0, 1, 8:] = .9
    scores = foreground_scores(maps)
    assert scores[0, 8:].min() > scores[0, :8].max()
    assert scores[0, 9].item() == pytest.approx(.9 / (.9 * 2 + .1 * 8))


def test_foreground_scores_of_maps_over_positions_are_their_maximum():
    maps = torch.randn(2, 3, 20).softmax(-1)
    torch.testing.assert_close(foreground_scores(maps), maps.amax(1))


def test_foreground_ids_are_the_highest_scores_in_ascending_order():
    scores = torch.tensor([[.1, .4, .5, .9], [2., 3., 1., 4.]])
    assert foreground_ids(scores, 2).tolist() == [[2, 3], [1, 3]]


def test_foreground_ids_of_equal_scores_are_the_lower_positions():
    scores = torch.full((3, 784), 7, dtype=torch.uint8)
    assert torch.equal(foreground_ids(scores, 196), torch.arange(196).expand(3, -1))


@pytest.mark.parametrize('keep', [0, 5])
def test_foreground_ids_refuse_to_keep_no_patch_or_more_than_all(keep):
    with pytest.raises(ValueError, match=rf'\(1, 4\) and keep is {keep}'):
        foreground_ids(torch.rand(1, 4), keep)


def test_part_health_on_a_case_worked_by_hand():
    # Image 0: parts win 2, 2, 0 patches; image 1: 4, 0, 0.
    ids = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 0]])
    health = part_health(F.one_hot(ids, 3).transpose(1, 2).float())
    assert health['coverage'].tolist() == [.75, .25, 0.]
    assert health['num_empty'].item() == 1.5
    assert health['largest_share'].item() == .75
    assert health['entropy'].item() == pytest.approx(math.log(2) / 2)
    assert health['off_diagonal_cosine'].item() == 0.


def test_part_health_of_equal_maps_has_cosine_1_and_one_part():
    health = part_health(torch.rand(2, 1, 9).expand(2, 6, 9))
    assert health['off_diagonal_cosine'].item() == pytest.approx(1.)
    assert health['num_empty'].item() == 5.


def block(grid=6):
    """(L,) bool: an object of 2x2 patches away from the border."""
    inside = torch.zeros(grid, grid, dtype=torch.bool)
    inside[2:4, 2:4] = True
    return inside.flatten()


def test_patches_unlike_the_border_rank_first_by_tokens_and_by_parts():
    tokens = torch.randn(1, 36, 8) * .01 + torch.where(block()[:, None], 1., -1.)
    scores = parts.unlike_border_tokens(tokens, 6)
    assert scores[0, block()].min() > scores[0, ~block()].max()
    # The cosine with the border is near 1 for background and near -1 for the object.
    assert scores[0, block()].mean() > .9 and scores[0, ~block()].mean() < -.9
    maps = torch.stack([~block(), block()])[None].float()
    assert parts.unlike_border_parts(maps, 6).equal(block()[None].float() - 1)


def test_the_border_is_the_outermost_ring_of_patches():
    ring = torch.zeros(16)
    ring[parts.border_ring(4)] = 1
    assert ring.sum() == 12 and not ring.view(4, 4)[1:3, 1:3].any()
    assert parts.border_share(ring[None, None], 4).item() == 1


def test_centre_scores_are_highest_in_the_centre_and_lowest_in_the_corners():
    scores = parts.centre_scores(3).view(3, 3)
    assert scores[1, 1] == 0 and scores.min() == scores[0, 0] == scores[2, 2]


def test_voronoi_cells_are_the_nearest_points():
    ids = parts.voronoi_ids(torch.tensor([[[0., 0.], [1., 1.]]]), 2)
    assert ids[0, 0] == 0 and ids[0, 3] == 1


def test_the_texture_of_a_part_is_the_mean_of_its_tokens():
    maps = torch.tensor([[[1., 1., 0.], [0., 0., 2.]]])
    tokens = torch.tensor([[[1.], [3.], [5.]]])
    assert parts.part_textures(maps, tokens).tolist() == [[[2.], [5.]]]


def test_signs_of_collapse_are_named_and_sound_parts_have_none():
    assert parts.signs_of_collapse([.4, .3, .3], .6, .5, .8) == []
    said = parts.signs_of_collapse([.98, .02, 0, 0], .999, .98, math.nan)
    assert 'explains nan' in said[3]
    assert 'explains -50%' in parts.signs_of_collapse([.5, .5], .5, .5, -.5)[0]
    assert len(said) == 4 and 'all alike' in said[0] and '98%' in said[1] and '2 of 4' in said[2]
