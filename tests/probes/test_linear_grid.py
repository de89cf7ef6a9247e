"""The stacked grid of linear probes against torch.optim.SGD, one setting at a time."""
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from semmae.probes.features import ArrayFeatures, Task
from semmae.probes.linear import LinearProbe
from semmae.registry import MODELS

TASK = Task('classification', 3)
FIT, REST = np.arange(3, 48), np.arange(48, 60)


def planted(n=60, channels=5, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    return ArrayFeatures({(layer, kind): 3 + np.eye(3, channels)[labels] * 2
                          + rng.normal(size=(n, channels))
                          for layer in (2, 5) for kind in ('class', 'mean')}, labels)


def trained_alone(data, setting, probe, seed):
    """(D + 1, C) weights and bias of one setting, by torch.optim.SGD and its scheduler."""
    features = torch.cat([data.tokens(setting['layer'], kind, FIT)
                          for kind in setting['tokens'].split('+')], 1)
    features = F.batch_norm(features, features.mean(0), features.var(0, correction=0), eps=1e-6)
    labels = torch.tensor(data.labels[FIT])
    generator = torch.Generator().manual_seed(seed)
    linear = torch.nn.Linear(features.shape[1], 3)
    linear.weight.data = .01 * torch.randn(features.shape[1], 3, generator=generator).T
    linear.bias.data.zero_()
    optimizer = torch.optim.SGD(linear.parameters(), setting['lr'], probe.momentum,
                                weight_decay=setting['weight_decay'])
    steps = probe.epochs * math.ceil(len(FIT) / probe.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(probe.epochs):
        for batch in torch.randperm(len(FIT), generator=generator).split(probe.batch_size):
            optimizer.zero_grad()
            F.cross_entropy(linear(features[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    return torch.cat([linear.weight.T, linear.bias[None]]).detach()


def test_every_setting_of_the_grid_equals_sgd_on_that_setting_alone():
    data = planted()
    probe = LinearProbe(lr=(.01, .3), weight_decay=(0., .05), epochs=3, batch_size=16)
    settings = probe.settings(data.layers)
    assert len(settings) == 2 * 2 * 2 * 3
    fitted = probe.fit(data, FIT, settings, TASK, seed=4)
    seen = []
    for numbers, head in fitted:
        for at, number in enumerate(numbers):
            alone = trained_alone(data, settings[number], probe, seed=4)
            torch.testing.assert_close(head.weights[:, at], alone, atol=1e-5, rtol=0)
            seen.append(number)
    assert sorted(seen) == list(range(24))


def test_a_setting_fitted_alone_equals_the_same_setting_in_the_grid():
    data = planted()
    probe = LinearProbe(lr=(.01, .1, .3), epochs=2, batch_size=16)
    settings = probe.settings(data.layers)
    whole = probe.fit(data, FIT, settings, TASK, seed=1)
    alone = probe.fit(data, FIT, settings[7:8], TASK, seed=1)
    expected = torch.stack(list(probe.predict(whole, 7, data, REST, TASK)))
    torch.testing.assert_close(torch.stack(list(probe.predict(alone, 0, data, REST, TASK))),
                               expected)


def test_the_seed_decides_the_result_and_the_global_random_state_does_not():
    data, probe = planted(), LinearProbe(lr=(.1,), layers=None, tokens=('class',), epochs=2,
                                         batch_size=16)
    settings = probe.settings(data.layers)

    def weights(seed, other):
        torch.manual_seed(other)
        return probe.fit(data, FIT, settings, TASK, seed)[0][1].weights
    assert torch.equal(weights(0, 1), weights(0, 2))
    assert not torch.allclose(weights(0, 1), weights(1, 1))


def test_the_score_is_the_top1_of_the_predictions_which_sum_to_one():
    data, probe = planted(), LinearProbe(lr=(.1, .01), epochs=5)
    settings = probe.settings(data.layers)
    fitted = probe.fit(data, FIT, settings, TASK, seed=0)
    scores = probe.score(fitted, data, REST, TASK)
    for number in (0, 5, len(settings) - 1):
        predicted = torch.stack(list(probe.predict(fitted, number, data, REST, TASK)))
        assert predicted.shape == (12, 3) and predicted.dtype == torch.float32
        torch.testing.assert_close(predicted.sum(1), torch.ones(12))
        hits = predicted.argmax(1).numpy() == data.labels[REST]
        assert scores[number] == pytest.approx(100 * hits.mean())


def test_statistics_come_from_the_fitted_images_only():
    data = planted()
    probe = LinearProbe(lr=(.1,), layers=None, tokens=('mean',), epochs=1)
    data.arrays[5, 'mean'][REST] = np.nan
    head = probe.fit(data, FIT, probe.settings(data.layers), TASK, 0)[0][1]
    used = data.arrays[5, 'mean'][FIT].astype(np.float32)
    np.testing.assert_allclose(head.standard.mean, used.mean(0), rtol=1e-5)
    np.testing.assert_allclose(head.standard.scale, (used.var(0) + 1e-6) ** -.5, rtol=1e-5)
    data.arrays[5, 'mean'][FIT[0], 0] = np.inf
    with pytest.raises(ValueError, match='NaN or infinite features'):
        probe.fit(data, FIT, probe.settings(data.layers), TASK, 0)


def test_a_constant_channel_does_not_harm():
    data = planted()
    data.arrays[5, 'class'][:, 0] = 7.
    probe = LinearProbe(lr=(.1,), layers=None, tokens=('class',), epochs=1)
    assert probe.score(probe.fit(data, FIT, probe.settings(data.layers), TASK, 0), data, REST,
                       TASK)[0] > 0


def test_a_setting_that_diverges_scores_minus_infinity_and_changes_no_other_setting():
    data = planted()
    both, one = (LinearProbe(lr=lr, layers=None, tokens=('class',), epochs=5, batch_size=16)
                 for lr in ((1e38, .1), (.1,)))
    fitted = both.fit(data, FIT, both.settings(data.layers), TASK, 0)
    alone = one.fit(data, FIT, one.settings(data.layers), TASK, 0)
    scores = both.score(fitted, data, REST, TASK)
    assert scores == [-math.inf, *one.score(alone, data, REST, TASK)]
    with pytest.raises(ValueError, match='setting 0 predicts NaN'):
        next(both.predict(fitted, 0, data, REST, TASK))


def test_the_default_grid_has_at_least_forty_settings_on_four_layers():
    settings = LinearProbe().settings((2, 5, 8, 11))
    assert len(settings) == 13 * 4 * 3
    assert settings[0] == dict(layer=2, tokens='class', lr=4e-5, weight_decay=0.)


@pytest.mark.parametrize('wrong, message', [
    (dict(epochs=0), 'epochs=0, batch_size=1024: expected at least 1'),
    (dict(lr=()), 'LinearProbe has no settings: got no values for lr'),
    (dict(tokens=('cls',)), r"tokens=\['cls'\], expected any of")])
def test_bad_arguments_raise(wrong, message):
    with pytest.raises(ValueError, match=message):
        LinearProbe(**wrong)


def test_a_fit_without_settings_or_images_raises():
    data, probe = planted(), LinearProbe()
    with pytest.raises(ValueError, match='got 0 settings and 45 training images'):
        probe.fit(data, FIT, [], TASK, 0)
    with pytest.raises(ValueError, match='156 settings and 0 training images|and 0 training'):
        probe.fit(data, FIT[:0], probe.settings(data.layers), TASK, 0)


def test_the_probe_is_registered():
    assert isinstance(MODELS.build(dict(type='semmae.LinearProbe', lr=[.1])), LinearProbe)
