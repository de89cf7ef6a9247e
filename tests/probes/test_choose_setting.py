"""How a setting is chosen: on held-out training images, and on low-shot subsets."""
import math

import numpy as np
import pytest

from semmae.probes.features import ArrayFeatures, Task
from semmae.probes.knn import KNNProbe
from semmae.probes.linear import LinearProbe
from semmae.probes.logistic import LogisticProbe
from semmae.probes.probe import choose, low_shot, split

TASK = Task('classification', 3)
PROBES = [KNNProbe(k=(5,), layers='all'), LogisticProbe(C=(1.,), layers='all'),
          LinearProbe(lr=(.1,), tokens=('class',), epochs=10, batch_size=32)]


def planted(n=90, good=5, seed=0):
    """Layers 2, 5 and 8; only layer ``good`` shows the class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    arrays = {(layer, 'class'): rng.normal(size=(n, 6)) for layer in (2, 5, 8)}
    arrays[good, 'class'] += 4 * np.eye(3, 6)[labels]
    return ArrayFeatures(arrays, labels)


class Recorder(ArrayFeatures):
    """Features that record which images are read."""

    def tokens(self, layer, kind, index=slice(None)):
        self.read = getattr(self, 'read', set()) | set(np.arange(len(self))[index].tolist())
        return super().tokens(layer, kind, index)


@pytest.mark.parametrize('probe', PROBES, ids=lambda probe: type(probe).__name__)
@pytest.mark.parametrize('good', [2, 5, 8])
def test_the_layer_that_shows_the_class_is_chosen(probe, good):
    setting, scores = choose(probe, planted(good=good), TASK, seed=0)
    assert setting['layer'] == good
    assert scores[(2, 5, 8).index(good)] == max(scores) and len(scores) == 3


@pytest.mark.parametrize('probe', PROBES, ids=lambda probe: type(probe).__name__)
def test_no_image_outside_of_the_training_images_is_read(probe):
    data = planted()
    data = Recorder(data.arrays, data.labels)
    used = low_shot(data.labels, .5, seed=1)
    choose(probe, data, TASK, seed=0, index=used)
    assert data.read == set(used.tolist())


def test_fit_reads_no_held_out_image():
    data = planted()
    data = Recorder(data.arrays, data.labels)
    fit, held_out = split(data, TASK)
    for probe in PROBES:
        data.read = set()
        probe.fit(data, fit, probe.settings(data.layers), TASK, 0)
        assert data.read == set(fit.tolist())


def test_every_seed_fits_and_chooses_on_the_same_two_parts_of_the_training_images():
    data, seen = planted(), []

    class Spy(KNNProbe):
        def fit(self, data, index, *others):
            seen.append(index.tolist())
            return super().fit(data, index, *others)

        def score(self, fitted, data, index, task):
            seen.append(index.tolist())
            return super().score(fitted, data, index, task)
    for seed in range(3):
        choose(Spy(k=(3, 5)), data, TASK, seed=seed)
    assert seen == [part.tolist() for part in split(data, TASK)] * 3


def test_a_tenth_of_each_class_is_held_out_and_at_least_one_image():
    labels = np.array([0] * 40 + [1] * 4 + [2])
    data = ArrayFeatures({(0, 'class'): np.zeros((45, 2))}, labels)
    fit, held_out = split(data, TASK)
    assert np.bincount(labels[held_out], minlength=3).tolist() == [4, 1, 0]
    assert sorted([*fit, *held_out]) == list(range(45))
    assert list(fit) == sorted(fit) and list(held_out) == sorted(held_out)


def test_the_split_of_a_subset_stays_inside_it_and_needs_two_images_of_a_class():
    data = planted()
    subset = np.arange(0, 90, 5)
    fit, held_out = split(data, TASK, index=subset)
    assert sorted([*fit, *held_out]) == subset.tolist()
    assert set(data.labels[held_out]) == {0, 1, 2}
    with pytest.raises(ValueError, match='3 training images are too few to hold out'):
        split(data, TASK, index=np.arange(3))  # one of each class


class Fixed(KNNProbe):
    """A probe with given scores."""

    def __init__(self, scores):
        super().__init__(k=range(1, 1 + len(scores)))
        self.scores = scores

    def score(self, fitted, data, index, task):
        return self.scores


@pytest.mark.parametrize('scores, best', [([50., 70., 70.], 2), ([math.nan, 10., 20.], 3),
                                          ([-math.inf, 0., math.nan], 2), ([30., 30.], 1)])
def test_the_first_of_the_best_finite_scores_wins(scores, best):
    assert choose(Fixed(scores), planted(), TASK, seed=0)[0]['k'] == best


def test_an_error_is_raised_if_all_settings_diverged():
    with pytest.raises(ValueError, match='Fixed: all 2 settings diverged'):
        choose(Fixed([math.nan, -math.inf]), planted(), TASK, seed=0)
    with pytest.raises(ValueError, match='LinearProbe: all 2 settings diverged'):
        choose(LinearProbe(lr=(1e38, 2e38), weight_decay=(1.,), tokens=('class',), layers=None,
                           epochs=5, batch_size=32), planted(), TASK, seed=0)


def test_a_diverged_setting_does_not_win():
    probe = LinearProbe(lr=(1e38, .1), tokens=('class',), layers=(5,), epochs=5, batch_size=32)
    setting, scores = choose(probe, planted(), TASK, seed=0)
    assert setting['lr'] == .1 and scores[0] == -math.inf


def test_a_single_setting_is_taken_without_held_out_images():
    assert choose(KNNProbe(k=(500,)), planted(), TASK, seed=0) == (
        dict(layer=8, tokens='class', k=500, temperature=.07), [])


@pytest.mark.parametrize('fraction, counts', [(.01, [10, 1, 1]), (.1, [100, 6, 1]),
                                              (1., [1000, 57, 3])])
def test_low_shot_takes_the_same_share_of_each_class_and_at_least_one_image(fraction, counts):
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [1000, 57, 3]))
    index = low_shot(labels, fraction, seed=0)
    assert np.bincount(labels[index]).tolist() == counts
    assert list(index) == sorted(set(index))


def test_low_shot_depends_on_the_seed_only():
    labels = np.repeat([0, 1], 50)
    assert np.array_equal(low_shot(labels, .1, 0), low_shot(labels, .1, 0))
    assert not np.array_equal(low_shot(labels, .1, 0), low_shot(labels, .1, 1))


@pytest.mark.parametrize('fraction', [0, -.1, 1.5, math.nan])
def test_a_fraction_outside_of_zero_to_one_raises(fraction):
    with pytest.raises(ValueError, match='expected a number above 0 and at most 1'):
        low_shot(np.zeros(4, int), fraction, 0)
