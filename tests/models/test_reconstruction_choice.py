"""Eq. 5 does not say how colours become a number: the mean (ours) or their sum."""
import pytest
import torch
from mmengine.config import Config

from semmae.functional.losses import diversity_loss, part_loss, reconstruction_loss

from ..test_recipes import REPO
from .test_part_learner import halves, learner


def test_the_sum_over_colours_is_three_times_their_mean():
    image, other = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    by_hand = (image - other).square().sum(1).mean()
    torch.testing.assert_close(reconstruction_loss(image, other, 'sum'), by_hand)
    torch.testing.assert_close(reconstruction_loss(image, other, 'mean'), by_hand / 3)
    torch.testing.assert_close(reconstruction_loss(image, other), by_hand / 3)


def test_lambda_weighs_a_third_against_the_sum():
    image, maps = torch.ones(1, 3, 2, 2), torch.rand(1, 4, 9)
    loss = part_loss(image, image * 0, maps, .03, over_colours='sum')
    assert loss.item() == pytest.approx(3 + .03 * diversity_loss(maps).item())
    assert loss.item() / 3 == pytest.approx(
        part_loss(image, image * 0, maps, .01).item())


def test_a_learner_takes_the_choice_and_refuses_others(tmp_path):
    images, found = halves(4), {}
    for choice in ('mean', 'sum'):
        model = learner(tmp_path, diversity_weight=0., over_colours=choice).eval()
        found[choice] = model(images, mode='loss')
    assert found['sum']['loss'].item() == pytest.approx(3 * found['mean']['loss'].item())
    assert found['sum']['explained'].item() == pytest.approx(
        found['mean']['explained'].item())
    with pytest.raises(ValueError, match="over_colours is 'max', expected 'mean' or 'sum'"):
        learner(tmp_path, over_colours='max')


def test_the_main_recipe_declares_its_choices_and_the_ablation_takes_the_other():
    main = REPO / 'mm_configs/semmae_parts.py'
    header = main.read_text().split('"""')[1]
    for told in ('mean over colours', 'sum over colours', '112 pixels', '1 + scale', 'LeakyReLU'):
        assert told in ' '.join(header.split()), told
    other = Config.fromfile(REPO / 'mm_configs/ablations/parts_vit-small_sum_colours.py')
    assert other.model.over_colours == 'sum'
    assert Config.fromfile(main).model.get('over_colours', 'mean') == 'mean'
