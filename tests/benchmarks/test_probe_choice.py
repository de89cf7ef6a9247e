"""The analysis of the rule of choice: every setting on the test images, beside the chosen one."""
import numpy as np

from benchmarks.probe_choice import analyse, chosen_minus_best
from semmae.probes.features import ArrayFeatures, Task
from semmae.probes.knn import KNNProbe

TASK = Task('classification', num_classes=2)


def clusters(images, seed):
    """Two classes whose features are apart in layer 1 and mixed in layer 0."""
    rng = np.random.default_rng(seed)
    labels = np.arange(images) % 2
    apart = rng.normal(size=(images, 4)) * .1 + np.where(labels, 1, -1)[:, None]
    return ArrayFeatures({(0, 'class'): rng.normal(size=(images, 4)), (1, 'class'): apart}, labels)


def test_the_chosen_setting_stands_beside_the_best_and_the_fixed_one():
    probe = KNNProbe(k=(5, 20), layers='all')
    found = analyse('knn', probe, clusters(80, 0), clusters(60, 1), TASK, seed=0)
    assert found['settings'] == 4 and found['chosen']['layer'] == found['best']['layer'] == 1
    assert found['fixed'] == dict(layer=1, tokens='class', k=20, temperature=.07)
    assert found['accuracy_chosen'] == found['accuracy_best'] == 100 > found['accuracy_median']
    assert found['chosen_minus_best'] == [0, 0, 0]


def test_the_interval_is_of_the_chosen_minus_the_best_in_percent():
    right = np.stack([np.ones(200, bool), np.arange(200) % 4 > 0])
    mean, low, high = chosen_minus_best(right, chosen=1)
    assert low < -25 < high < 0 and abs(mean + 25) < 1


def test_the_best_of_many_settings_by_chance_is_not_better_than_the_chosen_one():
    right = np.random.default_rng(0).random((150, 200)) < .2  # all settings are equally good
    assert right.mean(1).max() - right[0].mean() > .05
    mean, low, high = chosen_minus_best(right, chosen=0)
    assert low < 0 < high and mean > -3
