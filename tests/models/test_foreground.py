"""Rankings of the foreground, and the object as a map."""
import pytest
import torch

from semmae.functional.parts import otsu_thresholds, unlike_border_tokens
from semmae.models.foreground import BY, ObjectMap, Ranking, object_first
from semmae.models.part_encoder import Seen

GRID = 6


def seen(batch=2, inner=3., heads=2):
    """An object of 2x2 patches in the middle, in the tokens of layer 4 and in the attention."""
    torch.manual_seed(0)
    is_object = torch.zeros(GRID, GRID, dtype=torch.bool)
    is_object[2:4, 2:4] = True
    noise = torch.randn(batch, GRID ** 2, 8) * .1
    direction = torch.zeros(8)
    direction[0] = 1.
    marked = noise + direction * torch.where(is_object.flatten(), inner, -1.)[:, None]
    attention = torch.rand(batch, heads, GRID ** 2) * .01 + is_object.flatten() * .1
    return Seen(torch.randn(batch, 8), noise, {4: marked}, {-1: attention, 4: attention.flip(-1)}
                ), is_object.flatten()


@pytest.mark.parametrize('by', ['border', 'attention', 'both'])
def test_each_ranking_puts_the_object_first(by):
    what, is_object = seen()
    scores = Ranking(by, 4).scores(what._replace(attention={4: what.attention[-1]}), GRID)
    assert scores.shape == (2, GRID ** 2)
    assert (scores[:, is_object].min(1).values > scores[:, ~is_object].max(1).values).all()


def test_without_a_layer_it_reads_the_tokens_that_the_encoder_gives_and_the_last_attention():
    what, _ = seen()
    assert Ranking('border').scores(what, GRID).equal(unlike_border_tokens(what.patches, GRID))
    assert Ranking('attention').scores(what, GRID).equal(what.attention[-1].mean(1))
    assert Ranking('border').reads == {} == Ranking('centre', 3).reads
    assert Ranking('both', 4).reads == dict(token_layers=(4,), attention_layers=(4,))


def test_both_is_the_mean_of_two_ranks():
    what, _ = seen(batch=1)
    both = Ranking('both', 4).scores(what, GRID)
    ranks = [Ranking(by, 4).scores(what, GRID).argsort(1).argsort(1) for by in
             ('border', 'attention')]
    assert both.equal(sum(ranks).float() / 2)


def test_the_centre_ranks_all_images_the_same():
    what, _ = seen()
    first, second = Ranking('centre').scores(what, GRID)
    assert first.equal(second) and first.argmax() in (14, 15, 20, 21)


def test_another_ranking_is_refused():
    with pytest.raises(ValueError, match=f'expected one of .*{BY[0]}'):
        Ranking('colour')


def test_otsu_finds_the_object_and_a_share_takes_so_many_patches():
    what, is_object = seen()
    found, scores = ObjectMap(layer=4)(what, GRID)
    assert found.bool().equal(is_object.expand(2, -1)) and scores.shape == found.shape
    quarter, _ = ObjectMap(layer=4, threshold=.25)(what, GRID)
    assert (quarter.sum(1) == 9).all() and (quarter >= found).all()


@pytest.mark.parametrize('threshold', ['otsu', .001])
def test_an_image_without_differences_has_an_object_of_one_patch(threshold):
    flat = Seen(torch.ones(2, 8), torch.ones(2, GRID ** 2, 8), {}, {})
    found, _ = ObjectMap(threshold=threshold)(flat, GRID)
    assert found.sum(1).tolist() == [1, 1]


@pytest.mark.parametrize('threshold', ['mean', 0., 1., 2, None])
def test_another_threshold_is_refused(threshold):
    with pytest.raises(ValueError, match="expected 'otsu' or a share"):
        ObjectMap(threshold=threshold)


def by_hand(scores):
    """The threshold with the largest variance between the two groups, one candidate at a time."""
    best = max(scores.unique()[:-1], key=lambda t: (
        (scores > t).double().mean() * (scores <= t).double().mean()
        * (scores[scores > t].double().mean() - scores[scores <= t].double().mean()) ** 2))
    return best.item()


@pytest.mark.parametrize('seed', range(5))
def test_otsus_threshold_has_the_largest_variance_between_groups(seed):
    scores = torch.randn(3, 40, generator=torch.Generator().manual_seed(seed)).round(decimals=1)
    assert otsu_thresholds(scores).tolist() == [by_hand(row) for row in scores]


def test_otsu_refuses_other_shapes():
    with pytest.raises(ValueError, match='expected .B, L. with L above 1'):
        otsu_thresholds(torch.zeros(3, 1))


def test_the_objects_patches_rank_above_all_others_and_keep_their_order():
    scores, ids = torch.tensor([[5., 4., 3., 2.]]), torch.tensor([[0, 2, 0, 1]])
    assert object_first(scores, ids).argsort(dim=1, descending=True).tolist() == [[1, 3, 0, 2]]
