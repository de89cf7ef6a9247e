"""Eq. 5-7 and MAE's loss: cases worked by hand, equations written out, precision."""
import math

import pytest
import torch

from semmae.functional.losses import (
    diversity_loss,
    masked_patch_loss,
    part_loss,
    reconstruction_loss,
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_reconstruction_loss_is_the_mean_over_pixels_colours_and_images():
    image = torch.zeros(2, 3, 2, 2)
    reconstruction = image.clone()
    reconstruction[0, 0] = 3.   # one of 3 colours of one of 2 images differs by 3: 9 / 3 / 2
    assert reconstruction_loss(image, reconstruction).item() == pytest.approx(1.5)


def test_diversity_loss_is_0_for_different_maps_and_the_share_of_pairs_for_equal_maps():
    assert diversity_loss(torch.eye(4)[None]).item() == 0.
    equal = torch.rand(1, 1, 9).expand(2, 6, 9)
    assert diversity_loss(equal).item() == pytest.approx(30 / 36)   # P (P - 1) / P**2


def test_diversity_loss_on_a_case_worked_by_hand():
    # The cosine of 45 degrees squared is 1/2, once for (i, j) and once for (j, i), over P**2 = 4.
    assert diversity_loss(torch.tensor([[[1., 0.], [2., 2.]]])).item() == pytest.approx(.25)


def test_diversity_loss_is_equation_6_with_its_diagonal():
    maps = torch.rand(3, 5, 12, dtype=torch.double)
    total = 0.
    for image in maps:
        for i, m in enumerate(image):
            for j, n in enumerate(image):
                total += (float(i == j) - (m @ n / m.norm() / n.norm()).item()) ** 2 / 25 / 3
    assert diversity_loss(maps).item() == pytest.approx(total, abs=1e-6)


def test_a_gradient_step_on_the_diversity_loss_makes_maps_less_similar():
    maps = torch.tensor([[[2., 1.], [1., 1.]]], requires_grad=True)
    diversity_loss(maps).backward()
    closer = diversity_loss(maps - .1 * maps.grad)
    assert closer < diversity_loss(maps)


def test_diversity_loss_of_an_empty_map_is_finite_with_its_gradient():
    maps = torch.zeros(1, 3, 4, requires_grad=True)
    loss = diversity_loss(maps)
    loss.backward()
    assert loss.item() == 0. and maps.grad.isfinite().all()


def test_part_loss_is_reconstruction_plus_the_weighted_diversity():
    image, reconstruction = torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4)
    maps = torch.ones(1, 2, 16)
    assert part_loss(image, reconstruction, maps).item() == pytest.approx(1 + .03 * .5)
    assert part_loss(image, reconstruction, maps, weight=2.).item() == pytest.approx(2.)


def test_masked_patch_loss_is_the_loss_of_mae_on_the_masked_patches():
    pred, target = torch.rand(2, 10, 12), torch.rand(2, 10, 12)
    mask = torch.tensor([[1, 0, 0, 1, 0, 1, 1, 0, 0, 0], [0, 1, 1, 1, 0, 0, 0, 0, 0, 1]]).bool()
    per_patch = (pred - target).square().mean(-1)
    mae = (per_patch * mask).sum() / mask.sum()
    chosen = masked_patch_loss(pred[mask].view(2, 4, 12), target[mask].view(2, 4, 12))
    assert chosen.item() == pytest.approx(mae.item(), rel=1e-6)


def test_losses_of_half_precision_tensors_are_summed_in_float32():
    a = torch.full((1, 4, 256), 200., dtype=torch.half)   # 200**2 * 1024 is not a float16
    loss = masked_patch_loss(a, torch.zeros_like(a))
    assert loss.dtype == torch.float32 and math.isclose(loss.item(), 40000.)


@pytest.mark.parametrize('loss', [reconstruction_loss, masked_patch_loss])
def test_shapes_that_would_broadcast_are_refused(loss):
    with pytest.raises(ValueError, match=r'\(2, 3, 4\) and \w+ \(2, 1, 4\)'):
        loss(torch.zeros(2, 3, 4), torch.zeros(2, 1, 4))


def test_diversity_loss_keeps_float32_under_autocast():
    maps = 1 + .01 * torch.rand(1, 6, 64)   # equal in bfloat16
    with torch.autocast('cpu', torch.bfloat16):
        under_autocast = diversity_loss(maps)
    assert torch.equal(under_autocast, diversity_loss(maps))


def test_a_loss_without_masked_patches_is_refused():
    with pytest.raises(ValueError, match='no masked patch'):
        masked_patch_loss(torch.zeros(2, 0, 4), torch.zeros(2, 0, 4))


def test_the_sum_over_colours_is_three_times_their_mean():
    image, other = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    by_hand = (image - other).square().sum(1).mean()
    torch.testing.assert_close(reconstruction_loss(image, other, 'sum'), by_hand)
    torch.testing.assert_close(reconstruction_loss(image, other), by_hand / 3)
    with pytest.raises(ValueError, match="over_colours is 'max', expected 'mean' or 'sum'"):
        reconstruction_loss(image, other, 'max')


def test_lambda_has_a_third_of_its_weight_with_the_sum_over_colours():
    image, maps = torch.ones(1, 3, 2, 2), torch.rand(1, 4, 9)
    loss = part_loss(image, image * 0, maps, .03, over_colours='sum')
    assert loss.item() == pytest.approx(3 + .03 * diversity_loss(maps).item())
    assert loss.item() / 3 == pytest.approx(part_loss(image, image * 0, maps, .01).item())


def test_maps_on_a_grid_are_refused_by_the_diversity_loss():
    with pytest.raises(ValueError, match=r'expected \(B, P, L\)'):
        diversity_loss(torch.zeros(1, 2, 3, 3))


def test_weights_choose_the_pixels_of_the_reconstruction_error():
    image, other = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    weights = torch.zeros(2, 4, 4)
    weights[:, 1:3] = 1
    found = reconstruction_loss(image, other, weights=weights)
    torch.testing.assert_close(found, (image - other)[..., 1:3, :].square().mean())
    torch.testing.assert_close(reconstruction_loss(image, other, weights=torch.ones(2, 4, 4)),
                               reconstruction_loss(image, other))
