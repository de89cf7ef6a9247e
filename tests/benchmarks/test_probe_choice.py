"""The analysis of the rule of choice: every setting on the test images, beside the chosen one."""
import numpy as np

from benchmarks.probe_choice import analyse, interval
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
    assert found['chosen_minus_best'] == [0, 0]


def test_the_interval_is_of_the_chosen_minus_the_best_in_percent():
    best, worse = np.ones(200, bool), np.arange(200) % 4 > 0
    low, high = interval(worse, best, [f'{i}.jpg' for i in range(200)])
    assert low < -25 < high < 0
