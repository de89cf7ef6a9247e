import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semmae.results.predictions import recount
from semmae.results.statistics import paired_bootstrap, welch


def classified(hits, names=None):
    """Predictions of which ``hits`` (N,) bool are right."""
    names = [f'{i}.png' for i in range(len(hits))] if names is None else names
    return dict(images=np.array(names), labels=np.zeros(len(hits), int),
                predicted=1 - np.asarray(hits, int))


def segmented(rng, good, num=60, classes=4, label=None):
    """Counts of pixels of ``num`` images; a share ``good`` of each class is found."""
    label = rng.integers(20, 200, (num, classes)) if label is None else label
    hit = rng.binomial(label, good)
    predicted = hit + rng.binomial(label, 1 - good)
    return dict(images=np.array([f'{i}.png' for i in range(num)]), label=label,
                predicted=predicted, intersection=hit, ignored=np.zeros(num, int))


def test_welch_is_that_of_scipy_on_a_case_worked_by_hand():
    # means 2 and 5, variances 1 and 4, n 3: error sqrt(5/3) = 1.2910; by Welch and Satterthwaite
    # (5/3)^2 / ((1/3)^2/2 + (4/3)^2/2) = 2.941 degrees of freedom, where t(.975) = 3.2194
    interval = welch([1., 2., 3.], [3., 5., 7.])
    assert interval.difference == -3
    assert interval.high - interval.low == pytest.approx(2 * 3.2194 * 1.2910, rel=1e-3)


def test_one_run_or_no_spread_gives_no_interval():
    assert welch([1.], [2., 3.]) is None and welch([1., 1.], [2., 2.]) is None


@settings(max_examples=25, deadline=None)
@given(st.floats(-5, 5), st.floats(.1, 5), st.integers(0, 2 ** 32 - 1))
def test_a_known_difference_and_spread_are_recovered(difference, spread, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(difference, spread, 4000), rng.normal(0, spread, 4000)
    interval = welch(a, b)
    # The half width of 4000 runs each is 1.96 * spread * sqrt(2 / 4000), known to about 1 %.
    half = (interval.high - interval.low) / 2
    assert half == pytest.approx(1.96 * spread * (2 / 4000) ** .5, rel=.06)
    assert abs(interval.difference - difference) < 2.6 * half


@pytest.mark.slow
@pytest.mark.parametrize('spreads', [(1, 1), (1, 4)])
@pytest.mark.parametrize('num', [3, 5])
def test_the_interval_over_seeds_covers_at_the_nominal_rate(spreads, num):
    rng = np.random.default_rng(0)
    runs = 400
    covered = sum(low <= 1 <= high for _, low, high in (
        welch(rng.normal(1, spreads[0], num), rng.normal(0, spreads[1], num))
        for _ in range(runs))) / runs
    assert .93 < covered < .985  # Welch's t keeps its rate or a little more with three runs


def test_the_interval_over_images_covers_at_the_nominal_rate():
    rng = np.random.default_rng(1)
    true, covered, times = 100 * (.6 - .5), 0, 400
    for _ in range(times):
        difficulty = rng.random(400)  # shared by the two, as by two models on one test set
        a, b = (classified(difficulty < share) for share in (.6, .5))
        flip = rng.random(400) < .2
        b['predicted'] = np.where(flip, classified(rng.random(400) < .5)['predicted'],
                                  b['predicted'])
        interval = paired_bootstrap([a], [b], 'top1', times=600)
        covered += interval.low <= true <= interval.high
    assert .92 < covered / times < .98


def test_the_interval_over_images_of_mean_iou_covers_at_the_nominal_rate():
    rng = np.random.default_rng(2)
    many = 20_000
    good = rng.beta(8, 2, (many, 1))  # how easy an image is
    a = segmented(rng, good, many)
    b = segmented(rng, good * .95, many, label=a['label'])
    true, times, covered = recount(a)['mIoU'] - recount(b)['mIoU'], 300, 0
    for _ in range(times):
        drawn = rng.integers(0, many, 60)
        sample = [{key: value[drawn] for key, value in whole.items()} for whole in (a, b)]
        for whole in sample:
            whole['images'] = np.array([f'{i}.png' for i in range(60)])
        interval = paired_bootstrap(*([one] for one in sample), 'mIoU', times=400)
        covered += interval.low <= true <= interval.high
    assert .9 < covered / times < .98


@pytest.mark.parametrize('metric', ['mIoU', 'mAcc', 'aAcc'])
def test_the_difference_of_segmentations_is_that_of_their_metrics(metric):
    rng = np.random.default_rng(0)
    a = segmented(rng, .9)
    b = segmented(rng, .6, label=a['label'])
    interval = paired_bootstrap([a], [b], metric, times=200)
    assert interval.difference == pytest.approx(recount(a)[metric] - recount(b)[metric])
    assert interval.low < interval.difference < interval.high and interval.excludes_zero


def test_several_runs_of_a_side_are_averaged_on_the_same_images():
    right, wrong = np.ones(50, bool), np.zeros(50, bool)
    interval = paired_bootstrap([classified(right), classified(wrong)], [classified(wrong)], 'top1')
    assert interval == (50, 50, 50)  # every image has the same difference, whatever is drawn


def test_equal_predictions_have_an_interval_of_zero_width_that_holds_zero():
    p = classified(np.arange(40) % 2 == 0)
    assert paired_bootstrap([p], [p], 'top1') == (0, 0, 0)


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(30)), st.integers(0, 2 ** 30))
def test_the_order_of_the_images_in_a_file_changes_nothing(order, seed):
    rng = np.random.default_rng(seed)
    a, b = classified(rng.random(30) < .7), classified(rng.random(30) < .5)
    mixed = {key: value[list(order)] for key, value in a.items()}
    assert paired_bootstrap([a], [b], 'top1') == paired_bootstrap([mixed], [b], 'top1')


def test_other_images_or_other_labels_give_no_interval():
    a = classified([True, False])
    assert paired_bootstrap([a], [classified([True, False], ['0.png', 'x.png'])], 'top1') is None
    assert paired_bootstrap([a], [dict(a, labels=np.array([0, 1]))], 'top1') is None
    assert paired_bootstrap([a], [classified([True])], 'top1') is None
