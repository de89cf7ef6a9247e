"""Segmentation by nearest patches against loops over a small memory."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from semmae.probes.dense import patch_labels
from semmae.probes.features import ArrayFeatures, Task
from semmae.probes.probe import choose
from semmae.probes.seg_knn import KNNSegProbe, Search, sample
from semmae.registry import MODELS

from .test_seg_linear import GRID, TASK, C, planted

FIT, TEST = np.arange(6), np.arange(6, 10)


def noisy(seed=0):
    """Random tokens, and maps with several classes in a patch and ignored pixels."""
    rng = np.random.default_rng(seed)
    maps = [rng.integers(0, C + 1, (9 + i, 20 - i)).astype(np.uint8) for i in range(10)]
    for label_map in maps:
        label_map[label_map == C] = 255
        label_map[:3, :6] = 255  # whole patches
    return ArrayFeatures({(5, 'patches'): 2 + rng.normal(size=(10, 24, 8))}, maps, GRID)


def brute_force(data, images, query, k, temperature, standardize=False):
    """(L, C) shares of the patches of image ``query``, one patch at a time."""
    labels = np.concatenate([patch_labels(data.labels[i], GRID, C, 255) for i in images])
    kept = labels.sum(1) > 0
    keys = data.tokens(5, 'patches', images).flatten(0, 1)[kept].double()
    queries = data.tokens(5, 'patches', [query])[0].double()
    if standardize:
        mean, scale = keys.mean(0), (keys.var(0, correction=0) + 1e-6).sqrt()
        keys, queries = (keys - mean) / scale, (queries - mean) / scale
    found = []
    for one in queries:
        similarity = F.cosine_similarity(keys, one[None]).numpy()
        nearest = np.argsort(-similarity)[:k]
        weights = (np.ones(k) if temperature is None
                   else np.exp((similarity[nearest] - 1) / temperature))
        found.append(weights @ labels[kept][nearest] / weights.sum())
    return np.array(found)


@pytest.mark.parametrize('values', [
    dict(k=3, temperature=.02), dict(k=5, temperature=None),
    dict(protocol='capi', k=4), dict(protocol='capi', k=30, temperature=.1)])
def test_shares_equal_a_loop_over_the_memory(values, monkeypatch):
    monkeypatch.setattr('semmae.probes.seg_knn.QUERIES', 10)
    monkeypatch.setattr('semmae.functional.knn.CHUNK', 33)
    data, probe = noisy(), KNNSegProbe(**values)
    memory = probe.fit(data, FIT, probe.settings((5,)), TASK, 0)
    (setting,) = memory.settings
    found = Search(memory, 5, [setting])(data.tokens(5, 'patches', TEST))
    assert found.shape == (1, 4, 24, C)
    for query, shares in zip(TEST, found[0]):
        np.testing.assert_allclose(shares, brute_force(
            data, FIT, query, setting['k'], setting['temperature'], setting['standardize']),
            atol=1e-4)


def test_full_resolution_upsamples_the_shares():
    data, probe = noisy(), KNNSegProbe(k=3)
    memory = probe.fit(data, FIT, probe.settings((5,)), TASK, 0)
    found = list(probe.predict(memory, 0, data, TEST, TASK))
    for query, label in zip(TEST, found):
        shares = torch.from_numpy(brute_force(data, FIT, query, 3, .02).T.reshape(1, C, *GRID))
        by_hand = F.interpolate(shares, data.labels[query].shape, mode='bilinear',
                                align_corners=False).argmax(1)[0]
        assert label.dtype == torch.int64 and (label == by_hand).float().mean() > .99


def test_the_hummingbird_protocol_has_the_numbers_of_its_implementation():
    assert KNNSegProbe('hummingbird').settings((2, 11)) == [
        dict(layer=11, k=30, temperature=.02, memory_size=10_240_000, standardize=False)]


def test_the_capi_protocol_tries_its_numbers_of_neighbours():
    assert [(s['k'], s['temperature'], s['memory_size'], s['standardize'])
            for s in KNNSegProbe('capi').settings((11,))] == [
        (k, None, None, True) for k in (1, 3, 10, 30)]


@pytest.mark.parametrize('protocol', ['hummingbird', 'capi'])
def test_a_separable_task_is_solved(protocol):
    data, probe = planted(), KNNSegProbe(protocol, k=(1, 3))
    memory = probe.fit(data, FIT, probe.settings(data.layers), TASK, 0)
    assert probe.score(memory, data, np.arange(10), TASK) == [100, 100]


def test_settings_together_score_as_alone():
    data, probe = noisy(), KNNSegProbe(k=(1, 7), temperature=(.02, .5))
    settings = probe.settings((5,))
    together = probe.score(probe.fit(data, FIT, settings, TASK, 0), data, TEST, TASK)
    assert together == [probe.score(probe.fit(data, FIT, [one], TASK, 0), data, TEST, TASK)[0]
                        for one in settings]
    assert len(set(together)) > 1


def test_the_layer_with_the_classes_is_chosen():
    probe = KNNSegProbe(k=3, layers='all')
    assert choose(probe, planted(images=20), TASK, 0)[0]['layer'] == 5


def test_ignored_patches_are_not_in_the_memory():
    data, other = noisy(), noisy()
    ignored = patch_labels(data.labels[0], GRID, C, 255).sum(1) == 0
    assert ignored.any()
    other.arrays[5, 'patches'][0, ignored] = 1e3
    for label_map in other.labels:
        label_map[label_map == 255] = 99
    for probe in (KNNSegProbe('capi', k=3), KNNSegProbe(k=3, memory_size=48)):
        first, second = (list(probe.predict(
            probe.fit(d, FIT, probe.settings((5,)), task, 0), 0, d, TEST, task))
            for d, task in ((data, TASK), (other, Task('segmentation', C, 99))))
        assert all(torch.equal(a, b) for a, b in zip(first, second))


def test_a_limited_memory_has_the_same_number_of_patches_of_each_image():
    data, probe = noisy(), KNNSegProbe(k=1, memory_size=6 * 5 + 3)
    memory = probe.fit(data, FIT, probe.settings((5,)), TASK, 0)
    assert memory.kept.reshape(6, 24).sum(1).tolist() == [5] * 6
    assert memory.labels.shape == (30, C)
    again, other = (probe.fit(data, FIT, probe.settings((5,)), TASK, seed).kept for seed in (0, 1))
    assert (again == memory.kept).all() and (other != memory.kept).any()


def test_patches_of_rare_classes_are_sampled_first():
    from scipy import sparse
    areas = np.zeros((400, 2), np.float32)
    areas[:, 0] = 1
    areas[::40] = 0, 1  # 10 patches of class 1
    kept = sample(sparse.csr_array(areas), np.ones(400, bool), 1, 20, 0)
    # u * 10 against u * 390: a patch of class 1 is almost always among the 20 smallest
    assert kept.sum() == 20 and kept[::40].sum() >= 8


def test_more_neighbours_than_patches_are_refused():
    data, probe = noisy(), KNNSegProbe(memory_size=6)
    with pytest.raises(ValueError, match='got k=30, expected at most the 6 labelled patches'):
        probe.fit(data, FIT, probe.settings((5,)), TASK, 0)


@pytest.mark.parametrize('arguments, message', [
    (dict(protocol='dino'), 'expected one of .*capi.*hummingbird'),
    (dict(neighbours=3), r"\['neighbours'\].*any of \['k', 'memory_size'"),
    (dict(k=0), 'got k=0, expected one or more numbers above 0'),
    (dict(k=1.5), 'expected a whole number from 1'),
    (dict(temperature=0.), 'got temperature=0.0, expected'),
    (dict(memory_size=0), 'got memory_size=0, expected a whole number')])
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(dict(type='semmae.KNNSegProbe', **arguments))
