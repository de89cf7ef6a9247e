"""k-NN on frozen features: the votes, the settings and the bank."""
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from semmae.models.knn_head import KNNHead
from semmae.probes.features import ArrayFeatures, Task
from semmae.probes.knn import KNNProbe
from semmae.registry import MODELS

TASK = Task('classification', 3)


def planted(n=60, channels=6, seed=0):
    """(features of layers 2 and 5, class and mean tokens) of three noisy classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    shown = np.eye(3, channels)[labels]
    return ArrayFeatures({(layer, kind): shown + rng.normal(size=(n, channels))
                          for layer in (2, 5) for kind in ('class', 'mean')}, labels)


def test_votes_of_a_case_worked_by_hand():
    angles = np.radians([0., 60., 90., 180.])  # cosines to the query at 0: 1, 1/2, 0, -1
    bank = np.stack([np.cos(angles), np.sin(angles)], 1) * [[1.], [5.], [2.], [1.]]
    data = ArrayFeatures({(0, 'class'): np.concatenate([bank, [[3., 0.]]])},
                         np.array([0, 1, 1, 2, 0]))
    probe = KNNProbe(k=(1, 3, 4), temperature=(.5,))
    settings = probe.settings(data.layers)
    fitted = probe.fit(data, np.arange(4), settings, TASK, seed=0)
    one, three, four = (next(probe.predict(fitted, at, data, np.array([4]), TASK))
                        for at in range(3))
    votes = [math.exp(cosine / .5) for cosine in (1., .5, 0., -1.)]
    torch.testing.assert_close(one, torch.tensor([1., 0., 0.]))
    torch.testing.assert_close(
        three, torch.tensor([votes[0], votes[1] + votes[2], 0.]) / sum(votes[:3]))
    torch.testing.assert_close(
        four, torch.tensor([votes[0], votes[1] + votes[2], votes[3]]) / sum(votes))
    assert one.dtype == torch.float32


def test_scores_equal_those_of_the_knn_head():
    data, fit, rest = planted(), np.arange(40), np.arange(40, 60)
    probe = KNNProbe(k=(5, 10), temperature=(.07,))
    fitted = probe.fit(data, fit, probe.settings(data.layers), TASK, seed=0)
    head = KNNHead(3, k=5, also=(10,))
    head.remember(F.normalize(data.tokens(5, 'class', fit), dim=1), torch.tensor(data.labels[fit]))
    samples = head.predict((data.tokens(5, 'class', rest),))
    predicted = torch.stack(list(probe.predict(fitted, 0, data, rest, TASK)))
    assert torch.equal(predicted, torch.stack([sample.pred_score for sample in samples]))
    of_ten = [sample.knn_labels[10] for sample in samples]
    assert probe.score(fitted, data, rest, TASK)[1] == 100 * np.mean(of_ten == data.labels[rest])


def test_top1_equals_a_count_over_all_pairs():
    data, fit, rest = planted(), np.arange(40), np.arange(40, 60)
    probe = KNNProbe(k=(7,), temperature=(.1,), tokens=('class+mean',), layers=(2,))
    score, = probe.score(probe.fit(data, fit, probe.settings(data.layers), TASK, 0), data, rest,
                         TASK)
    both = np.concatenate([data.arrays[2, 'class'], data.arrays[2, 'mean']], 1)
    hits = 0
    for query in rest:
        cosines = [both[query] @ both[i] / np.linalg.norm(both[query]) / np.linalg.norm(both[i])
                   for i in fit]
        votes = np.zeros(3)
        for i in np.argsort(cosines)[-7:]:
            votes[data.labels[fit[i]]] += math.exp(cosines[i] / .1)
        hits += votes.argmax() == data.labels[query]
    assert score == 100 * hits / 20


def test_settings_are_all_combinations_and_the_last_layer_is_the_default():
    assert KNNProbe().settings((2, 5)) == [
        dict(layer=5, tokens='class', k=k, temperature=.07) for k in (10, 20, 100)]
    every = KNNProbe(k=(1, 2), temperature=(.1, .2), tokens=('class', 'mean'), layers='all')
    assert len(every.settings((2, 5))) == 16
    assert [s['layer'] for s in KNNProbe(k=(1,), layers=(5, 2)).settings((2, 5))] == [5, 2]


def test_a_k_above_the_number_of_training_images_is_left_out():
    data, fit, rest = planted(), np.arange(30), np.arange(30, 60)
    probe = KNNProbe(k=(10, 31), layers='all')
    scores = probe.score(probe.fit(data, fit, probe.settings(data.layers), TASK, 0), data, rest,
                         TASK)
    assert [math.isfinite(score) for score in scores] == [True, False, True, False]
    probe = KNNProbe(k=(31, 40))
    with pytest.raises(ValueError, match='got 30 training images, expected at least 31'):
        probe.fit(data, fit, probe.settings(data.layers), TASK, 0)


def test_queries_are_compared_in_chunks_without_a_change_of_the_result(monkeypatch):
    data, fit, rest = planted(), np.arange(40), np.arange(40, 60)
    probe = KNNProbe(k=(5,))
    fitted = probe.fit(data, fit, probe.settings(data.layers), TASK, 0)
    whole = list(probe.predict(fitted, 0, data, rest, TASK))
    monkeypatch.setattr('semmae.probes.knn.BYTES', 3 * 40 * 4)
    assert fitted[0][1].chunk == 3
    torch.testing.assert_close(list(probe.predict(fitted, 0, data, rest, TASK)), whole)


def test_the_similarities_of_a_large_bank_stay_below_100_mb():
    probe = KNNProbe(k=(1,))
    data = ArrayFeatures({(0, 'class'): np.ones((200_000, 1))}, np.zeros(200_000, int))
    head = probe.fit(data, np.arange(200_000), probe.settings((0,)), TASK, 0)[0][1]
    assert head.chunk * 131_072 * 4 <= 100e6


def test_a_nan_feature_and_a_label_outside_of_the_classes_raise():
    data = planted()
    settings = KNNProbe().settings(data.layers)
    with pytest.raises(ValueError, match='expected 0 to 1; set num_classes'):
        KNNProbe().fit(data, np.arange(60), settings, Task('classification', 2), 0)
    data.arrays[5, 'class'][3, 0] = np.nan
    with pytest.raises(ValueError, match='NaN or infinite features'):
        KNNProbe().fit(data, np.arange(60), settings, TASK, 0)


@pytest.mark.parametrize('wrong, message', [
    (dict(tokens=('patches',)), r"tokens=\['patches'\], expected any of: class, mean, class\+mean"),
    (dict(k=(0, 3)), 'expected k of at least 1'), (dict(temperature=(0.,)), 'above 0'),
    (dict(k=()), 'KNNProbe has no settings: got no values for k'),
    (dict(layers=()), 'no settings: got no values for layers')])
def test_bad_arguments_raise(wrong, message):
    with pytest.raises(ValueError, match=message):
        KNNProbe(**wrong)


def test_a_layer_that_is_not_stored_raises():
    with pytest.raises(ValueError, match='expected any of: 2, 5'):
        KNNProbe(layers=(2, 3)).settings((2, 5))


def test_the_probe_is_registered():
    assert isinstance(MODELS.build(dict(type='semmae.KNNProbe', k=[3])), KNNProbe)
