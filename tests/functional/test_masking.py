"""Algorithm 1 and other masks: cases worked by hand, properties, frequencies within 5 sigma.

B images, L patches, P parts.
"""
import hashlib
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semmae.functional.masking import (
    alpha_at,
    attention_mask,
    blockwise_mask,
    num_masked,
    part_guided_mask,
    patches_to_mask_per_part,
    random_mask,
    round_to_budget,
    split_ids,
)

RATIOS = st.sampled_from([0., .1, .25, .3, .5, .6, .7, .75, .9, .95])
HISTOGRAMS = st.lists(st.integers(0, 20), min_size=1, max_size=7).filter(any)
SEEDS = st.integers(0, 2 ** 31)
B = 20000


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def ids_of(sizes, seed=0):
    """(1, L) part ids with these part sizes, in random places."""
    ids = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return ids[torch.randperm(len(ids), generator=seeded(seed))][None]


def masked_per_part(mask, ids, num_parts):
    return torch.stack([(mask & (ids == p)).sum(1) for p in range(num_parts)], 1)


def within_5_sigma(frequency, probability, n=B):
    sigma = (probability * (1 - probability) / n) ** .5
    return ((frequency - probability).abs() <= 5 * sigma + 1e-6).all()


# Algorithm 1

@pytest.mark.parametrize('length, ratio, masked', [
    (196, .75, 147), (784, .75, 588), (16, .7, 12), (5, 0., 0), (10, .9, 10)])
def test_num_masked_is_the_formula_of_mae_with_its_float_truncation(length, ratio, masked):
    assert num_masked(length, ratio) == masked == length - int(length * (1 - ratio))


@pytest.mark.parametrize('ratio', [-.1, 1., 1.5])
def test_a_mask_ratio_outside_0_to_1_is_refused(ratio):
    with pytest.raises(ValueError, match=f'mask_ratio is {ratio}'):
        random_mask(1, 4, ratio)


def test_alpha_is_0_at_the_start_1_at_the_end_and_squared_between():
    assert [alpha_at(p) for p in (0, .5, 1)] == [0., .25, 1.]


def test_alpha_can_run_backwards_or_stand_still():
    assert [alpha_at(p, gamma=1, start=1, end=0) for p in (0, .25, 1)] == [1., .75, 0.]
    assert [alpha_at(p, start=.7, end=.7) for p in (0, 1)] == [.7, .7]


@pytest.mark.parametrize('wrong', [dict(progress=1.1), dict(progress=.5, gamma=0),
                                   dict(progress=.5, end=2)])
def test_alpha_at_refuses_arguments_outside_their_range(wrong):
    with pytest.raises(ValueError, match='expected a'):
        alpha_at(**wrong)


def test_alpha_one_spends_the_budget_on_whole_parts():
    counts = patches_to_mask_per_part(
        part_sizes=torch.tensor([[4., 2., 2.]]), mask_ratio=0.5, alpha=1.0,
        part_order=torch.tensor([[1, 2, 0]]))       # budget 4: parts 1 and 2, nothing left for 0
    assert counts.tolist() == [[0., 2., 2.]]


@pytest.mark.parametrize('sizes, ratio, alpha, order, expected', [
    ([4, 2, 2], .5, 0., [0, 1, 2], [2, 1, 1]),        # half of every part
    ([4, 2, 2], .5, 1., [0, 1, 2], [4, 0, 0]),        # part 0 takes the whole budget
    ([4, 2, 2], .5, 1., [2, 0, 1], [2, 0, 2]),        # part 2, then 2 of the 4 of part 0
    ([4, 2, 2], .5, .5, [2, 0, 1], [2, .5, 1.5]),     # halfway between the first and the third
    ([3, 0, 5], .75, 1., [1, 2, 0], [1, 0, 5]),       # an empty part takes none; 6 - 5 = 1
    ([8], .75, .3, [0], [6]),                         # one part: both settings agree
])
def test_algorithm_1_on_cases_worked_by_hand(sizes, ratio, alpha, order, expected):
    counts = patches_to_mask_per_part(torch.tensor([sizes]), ratio, alpha, torch.tensor([order]))
    torch.testing.assert_close(counts, torch.tensor([expected], dtype=torch.float))


@settings(max_examples=60, deadline=None)
@given(HISTOGRAMS, RATIOS, st.floats(0, 1), st.randoms(use_true_random=False))
def test_algorithm_1_equals_a_loop_over_the_parts_of_one_image(sizes, ratio, alpha, random):
    order = random.sample(range(len(sizes)), len(sizes))
    budget = left = sum(sizes) * ratio
    expected = [0.] * len(sizes)
    for p in order:
        take = min(max(left, 0), sizes[p])
        left -= sizes[p]
        expected[p] = (1 - alpha) * ratio * sizes[p] + alpha * take
    counts = patches_to_mask_per_part(torch.tensor([sizes, sizes]), ratio, alpha,
                                      torch.tensor([order, order]))
    torch.testing.assert_close(counts, torch.tensor([expected, expected]), atol=1e-4, rtol=1e-5)
    assert counts.sum(1).tolist() == pytest.approx([budget, budget], abs=1e-3)


# Rounding

@settings(max_examples=100, deadline=None)
@given(HISTOGRAMS, st.floats(0, 1), SEEDS)
def test_rounded_counts_sum_to_any_budget_and_stay_between_0_and_the_part_size(sizes, share, seed):
    sizes = torch.tensor([sizes] * 8)
    counts = torch.rand(sizes.shape, generator=seeded(seed)) * sizes
    budget = round(share * int(sizes[0].sum()))   # independent of the counts
    n = round_to_budget(counts, sizes, budget, generator=seeded(seed))
    assert n.dtype == torch.int64
    assert (n.sum(1) == budget).all() and (n >= 0).all() and (n <= sizes).all()


@settings(max_examples=60, deadline=None)
@given(HISTOGRAMS, st.floats(0, 1), SEEDS)
def test_counts_that_fit_the_budget_are_rounded_up_or_down_by_less_than_one(sizes, share, seed):
    sizes = torch.tensor([sizes] * 8)
    budget = round(share * int(sizes[0].sum()))
    counts = sizes.double() * budget / sizes[0].sum()
    n = round_to_budget(counts, sizes, budget, generator=seeded(seed))
    assert ((n - counts).abs() < 1 + 1e-6).all()


def test_whole_counts_are_not_changed():
    counts = torch.tensor([[3., 0., 5., 1.]] * 500)
    assert (round_to_budget(counts, counts, 9, generator=seeded()) == counts).all()


def test_a_count_above_or_below_its_bounds_by_float_error_stays_inside_them():
    counts = torch.tensor([[3.4, -.4, 1.]] * 500)   # a large error makes it visible
    n = round_to_budget(counts, torch.tensor([[3, 3, 3]] * 500), 4, generator=seeded())
    assert (n[:, 0] == 3).all() and (n >= 0).all() and (n.sum(1) == 4).all()


def test_rounding_is_unbiased_given_every_order_of_the_parts():
    # A part of one patch with count .75 is masked in 75 % of the draws.
    counts, sizes = torch.tensor([[.75, 1.5, .75]] * 2 * B), torch.tensor([[1, 2, 6]] * 2 * B)
    noise = torch.rand(2 * B, 3, generator=seeded())
    n = round_to_budget(counts, sizes, 3, noise=noise)
    for order in itertools.permutations(range(3)):
        these = (noise.argsort(1) == torch.tensor(order)).all(1)
        up = (n[these] - counts[0].floor()).mean(0)
        assert within_5_sigma(up, counts[0] % 1, int(these.sum()))


def test_systematic_rounding_on_a_case_worked_by_hand():
    # Order 1, 0, 2; offset .5 + .25 + .5 mod 1 = .25. The intervals of parts 1, 0, 2 end at .5, 1,
    # 2; plus the offset at .75, 1.25, 2.25. The whole numbers 1 and 2 are in parts 0 and 2.
    n = round_to_budget(torch.tensor([[.5, .5, 1.]]), torch.tensor([[1, 1, 2]]), 2,
                        noise=torch.tensor([[.5, .25, .5]]))
    assert n.tolist() == [[1, 0, 1]]


# Part-guided masks

@settings(max_examples=100, deadline=None)
@given(HISTOGRAMS, RATIOS, st.floats(0, 1), SEEDS)
def test_a_part_guided_mask_has_exactly_the_budget_for_any_parts(sizes, ratio, alpha, seed):
    ids = ids_of(sizes, seed).expand(8, -1)
    mask = part_guided_mask(ids, len(sizes), ratio, alpha, generator=seeded(seed))
    assert mask.dtype == torch.bool and mask.shape == ids.shape
    assert (mask.sum(1) == num_masked(sum(sizes), ratio)).all()


@settings(max_examples=60, deadline=None)
@given(HISTOGRAMS, RATIOS, SEEDS)
def test_alpha_0_masks_the_ratio_of_every_part_within_one_patch(sizes, ratio, seed):
    ids = ids_of(sizes, seed).expand(8, -1)
    mask = part_guided_mask(ids, len(sizes), ratio, 0., generator=seeded(seed))
    share = num_masked(sum(sizes), ratio) / sum(sizes)
    found = masked_per_part(mask, ids, len(sizes))
    assert ((found - share * torch.tensor(sizes)).abs() < 1 + 1e-4).all()


@settings(max_examples=60, deadline=None)
@given(HISTOGRAMS, RATIOS, SEEDS)
def test_alpha_1_masks_whole_parts_and_cuts_at_most_one(sizes, ratio, seed):
    ids = ids_of(sizes, seed).expand(8, -1)
    mask = part_guided_mask(ids, len(sizes), ratio, 1., generator=seeded(seed))
    found = masked_per_part(mask, ids, len(sizes))
    assert (((found > 0) & (found < torch.tensor(sizes))).sum(1) <= 1).all()


def test_the_mask_on_a_case_worked_by_hand():
    # 2 of 3 patches of part 0 and 2 of 3 of part 1; in each the smallest noise stays.
    mask = part_guided_mask(torch.tensor([[0, 1, 0, 1, 0, 1]]), 2, .66, 0., noise=torch.tensor(
        [[.9, .1, .2, .8, .3, .7, .5, .6]]))
    assert mask.int().tolist() == [[1, 0, 0, 1, 1, 1]]


@settings(max_examples=60, deadline=None)
@given(HISTOGRAMS, RATIOS, st.floats(0, 1), st.sampled_from([1, 4, 2 ** 24]), SEEDS)
def test_each_part_keeps_its_patches_of_smallest_noise_and_of_equal_noise_the_left_one(
        sizes, ratio, alpha, levels, seed):
    parts, length = len(sizes), sum(sizes)
    noise = torch.rand(3, length + parts, generator=seeded(seed))
    noise[:, :length] = (noise[:, :length] * levels).floor() / levels   # 1 and 4: many ties
    ids = torch.stack([ids_of(sizes, seed + i)[0] for i in range(3)])
    mask = part_guided_mask(ids, parts, ratio, alpha, noise=noise)
    num_mask = masked_per_part(mask, ids, parts)
    expected = torch.zeros(3, length, dtype=torch.bool)
    for i, p in itertools.product(range(3), range(parts)):
        patches = sorted((noise[i, k].item(), k) for k in range(length) if ids[i, k] == p)
        for _, k in patches[len(patches) - num_mask[i, p]:]:
            expected[i, k] = True
    assert torch.equal(mask, expected)


@pytest.mark.parametrize('grid, alpha, digest', [
    (14, 0., '0aae70b0cd451452'), (14, .5, 'b4bb9710d851b639'), (14, 1., '11cc975a45d99ddb'),
    (28, 0., '51773e871642b033'), (28, .5, 'e616e8849093b802'), (28, 1., '7bd1a21b6b6fcdc7')])
def test_part_guided_masks_of_given_noise_are_those_recorded(grid, alpha, digest):
    # Recorded with a stable sort by part and noise. Noise of 16 levels has many ties.
    found = hashlib.sha256()
    for seed in range(4):
        generator = seeded(seed)
        noise = torch.rand(8, grid ** 2 + 7, generator=generator)
        ids = torch.randint(0, 7, (8, grid ** 2), generator=generator)
        for given_noise in (noise, (noise * 16).floor() / 16):
            mask = part_guided_mask(ids, 7, .75, alpha, noise=given_noise)
            found.update(mask.numpy().tobytes())
    assert found.hexdigest()[:16] == digest


def test_patches_of_equal_parts_are_equally_likely_at_any_alpha():
    ids = ids_of([4, 4, 4, 4]).expand(B, -1)
    for seed, alpha in enumerate((0., .4, 1.)):
        mask = part_guided_mask(ids, 4, .6, alpha, generator=seeded(seed))
        assert within_5_sigma(mask.float().mean(0), torch.tensor(10 / 16))


def test_patches_of_one_part_are_equally_likely_and_parts_follow_algorithm_1():
    sizes, alpha = [8, 5, 2, 1], .6
    ids = ids_of(sizes)
    mask = part_guided_mask(ids.expand(B, -1), 4, .75, alpha, generator=seeded())
    orders = torch.tensor(list(itertools.permutations(range(4))))
    counts = patches_to_mask_per_part(torch.tensor([sizes] * 24), .75, alpha, orders).mean(0)
    share = counts / torch.tensor(sizes)
    assert within_5_sigma(mask.float().mean(0), share[ids[0]])


def test_with_one_part_the_mask_is_the_random_mask():
    noise = torch.rand(50, 17, generator=seeded())
    mask = part_guided_mask(torch.zeros(50, 16, dtype=torch.long), 1, .75, .5, noise=noise)
    assert torch.equal(mask, random_mask(50, 16, .75, noise=noise))


def test_one_row_of_noise_replays_the_mask_of_its_image_alone():
    ids, noise = torch.randint(0, 6, (32, 49)), torch.rand(32, 55, generator=seeded())
    mask = part_guided_mask(ids, 6, .75, .3, noise=noise)
    assert torch.equal(part_guided_mask(ids[7:8], 6, .75, .3, noise=noise[7:8]), mask[7:8])


def test_a_flipped_image_with_flipped_noise_has_the_flipped_mask():
    ids, noise = torch.randint(0, 6, (32, 49)), torch.rand(32, 55, generator=seeded())
    flipped = torch.cat([noise[:, :49].flip(1), noise[:, 49:]], 1)
    mask = part_guided_mask(ids, 6, .75, .3, noise=noise)
    assert torch.equal(part_guided_mask(ids.flip(1), 6, .75, .3, noise=flipped), mask.flip(1))


# Other masks

def test_random_mask_keeps_what_mae_keeps():
    noise = torch.rand(10, 196, generator=seeded())
    keep = torch.argsort(noise, dim=1)[:, :49]   # MAE: ascend, small is keep
    expected = torch.ones(10, 196, dtype=torch.bool).scatter(1, keep, False)
    assert torch.equal(random_mask(10, 196, .75, noise=noise), expected)


def test_random_mask_ignores_the_noise_of_the_parts():
    noise = torch.rand(3, 22, generator=seeded())
    assert torch.equal(random_mask(3, 16, .5, noise=noise),
                       random_mask(3, 16, .5, noise=noise[:, :16]))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), RATIOS, SEEDS)
def test_a_blockwise_mask_has_exactly_the_budget_on_any_grid(h, w, ratio, seed):
    mask = blockwise_mask(4, (h, w), ratio, generator=seeded(seed))
    assert mask.shape == (4, h * w) and (mask.sum(1) == num_masked(h * w, ratio)).all()


def test_a_blockwise_mask_on_a_case_worked_by_hand():
    # Noise of one half: a square in the middle. Area 16/196 * 64 + (16 - that) / 2 = 10.6, so its
    # side of 3.26 covers the centres of 4 patches: 16 of them, the whole budget.
    mask = blockwise_mask(1, 8, .25, noise=torch.full((1, 64), .5)).view(8, 8)
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[2:6, 2:6] = True
    assert torch.equal(mask, expected)


def test_blockwise_masks_are_compact_and_have_no_preferred_side():
    mask = blockwise_mask(2000, 14, .75, generator=seeded()).view(-1, 14, 14)
    # Vertical neighbours agree in 62.5 % of the cases in random masks, 90 % in BEiT's own.
    assert (mask[:, 1:] == mask[:, :-1]).float().mean() > .85
    mean = mask.float().mean(0)
    for mirrored in (mean.flip(0), mean.flip(1), mean.T):
        assert ((mean - mirrored).abs() <= 5 * (.5 / 2000) ** .5).all()


@pytest.mark.parametrize('mode, expected', [('high', [1, 0, 1, 0]), ('low', [0, 1, 0, 1])])
def test_attention_masks_take_the_most_or_the_least_attended(mode, expected):
    assert attention_mask(torch.tensor([[.9, .1, .8, .2]]), .5, mode).int().tolist() == [expected]


def test_hints_are_random_and_the_next_most_attended_are_masked_instead():
    scores = torch.arange(40.).flip(0).expand(B, -1)          # patch 0 is the most attended
    mask = attention_mask(scores, .5, 'hint', generator=seeded())
    assert (mask.sum(1) == 20).all()
    assert ((~mask[:, :4]).sum(1) == 2).all()                 # 2 hints among the top 10 %
    assert within_5_sigma(mask[:, :4].float().mean(0), torch.tensor(.5))
    assert mask[:, 4:22].all() and not mask[:, 22:].any()


def test_there_are_no_more_hints_than_visible_patches():
    scores = torch.arange(40.).flip(0).expand(B, -1)
    mask = attention_mask(scores, .975, 'hint', generator=seeded())   # 2 of 4 hints, 1 visible
    assert within_5_sigma((~mask[:, :4]).float().mean(0), torch.tensor(1 / 4))
    assert mask[:, 4:].all()


def test_nonessential_masks_are_random_and_spare_the_most_attended_eighth():
    scores = torch.arange(40.).flip(0).expand(B, -1)
    mask = attention_mask(scores, .75, 'nonessential', generator=seeded())
    assert not mask[:, :5].any()
    assert within_5_sigma(mask[:, 5:].float().mean(0), torch.tensor(30 / 35))
    with pytest.raises(ValueError, match="mask_ratio is 0.9, expected at most 0.875 for mode 'non"):
        attention_mask(scores, .9, 'nonessential')


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), RATIOS, st.sampled_from(['high', 'low', 'hint']), SEEDS)
def test_an_attention_mask_has_exactly_the_budget(length, ratio, mode, seed):
    scores = torch.randint(0, 5, (4, length), generator=seeded(seed)).float()   # many ties
    mask = attention_mask(scores, ratio, mode, generator=seeded(seed))
    assert (mask.sum(1) == num_masked(length, ratio)).all()


def test_split_ids_are_ascending_and_give_back_the_mask():
    mask = random_mask(20, 30, .6, generator=seeded())
    keep, masked = split_ids(mask)
    assert keep.shape == (20, 12) and (keep.diff() > 0).all() and (masked.diff() > 0).all()
    assert torch.equal(torch.zeros_like(mask).scatter(1, masked, True), mask)
    assert torch.equal(torch.zeros_like(mask).scatter(1, keep, True), ~mask)
    assert torch.equal(split_ids(mask, 12)[0], keep)


def test_split_ids_refuses_rows_of_different_size():
    with pytest.raises(ValueError, match='keep 1 to 2 patches'):
        split_ids(torch.tensor([[True, False], [False, False]]))


# Randomness and devices

ids = torch.zeros(2, 12, dtype=torch.long)
DRAWS = {
    'part_guided': lambda **kw: part_guided_mask(ids.to(kw.pop('device', 'cpu')), 4, .5, .5, **kw),
    'random': lambda **kw: random_mask(2, 12, .5, **kw),
    'blockwise': lambda **kw: blockwise_mask(2, (3, 4), .5, **kw),
    'attention': lambda **kw: attention_mask(torch.ones(2, 12, device=kw.pop('device', 'cpu')), .5,
                                             'nonessential', **kw),
    'round': lambda **kw: round_to_budget(torch.full((2, 4), .5), torch.ones(2, 4), 2, **kw),
}


@pytest.mark.parametrize('draw', list(DRAWS)[:4])
def test_a_generator_or_noise_repeats_a_mask_and_without_them_masks_differ(draw):
    draw, noise = DRAWS[draw], torch.rand(2, 16, generator=seeded(1))
    assert torch.equal(draw(generator=seeded(5)), draw(generator=seeded(5)))
    assert torch.equal(draw(noise=noise), draw(noise=noise))
    assert len({tuple(draw().flatten().tolist()) for _ in range(50)}) > 1


@pytest.mark.parametrize('draw', DRAWS)
def test_generator_and_noise_together_are_refused(draw):
    with pytest.raises(ValueError, match='generator and noise are both given'):
        DRAWS[draw](generator=seeded(), noise=torch.rand(2, 16))


@pytest.mark.parametrize('draw', DRAWS)
def test_noise_of_the_wrong_shape_is_refused(draw):
    with pytest.raises(ValueError, match=r'noise has shape \(2, 3\), expected \(2, '):
        DRAWS[draw](noise=torch.rand(2, 3))


def test_part_guided_mask_refuses_noise_made_for_another_number_of_parts():
    with pytest.raises(ValueError, match=r'\(2, 17\), expected \(2, 16\)'):
        DRAWS['part_guided'](noise=torch.rand(2, 17))


@pytest.mark.parametrize('draw', ['part_guided', 'random', 'blockwise', 'attention'])
@pytest.mark.parametrize('generator', [None, seeded()])
def test_masks_are_on_the_requested_device(draw, generator):
    assert DRAWS[draw](device='meta', generator=generator).device.type == 'meta'


def test_no_mask_waits_for_the_device():
    noise = torch.rand(2, 20, device='meta')   # no values: reading one raises
    part_ids = torch.zeros(2, 16, dtype=torch.long, device='meta')
    for mask in (part_guided_mask(part_ids, 4, .75, .5, noise=noise),
                 random_mask(2, 16, .75, noise=noise), blockwise_mask(2, 4, .75, noise=noise),
                 attention_mask(noise[:, :16], .75, 'hint', noise=noise)):
        assert split_ids(mask, 4)[1].shape == (2, 12)
    with pytest.raises(RuntimeError, match='meta tensors'):
        split_ids(mask)   # without num_keep it counts
