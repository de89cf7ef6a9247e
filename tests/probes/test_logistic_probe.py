"""The logistic probe against scikit-learn used directly."""
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from semmae.probes.features import ArrayFeatures, Task
from semmae.probes.logistic import LogisticProbe
from semmae.registry import MODELS

TASK = Task('classification', 4)
FIT, REST = np.arange(45), np.arange(45, 60)


def planted(n=60, channels=5, seed=0):
    """Classes 0, 1 and 3 of four; no image shows class 2."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([0, 1, 3], n)
    return ArrayFeatures({(layer, kind): 3 + np.eye(4, channels)[labels] * 2
                          + rng.normal(size=(n, channels))
                          for layer in (2, 5) for kind in ('class', 'mean')}, labels)


def test_every_setting_equals_scikit_learn():
    data = planted()
    probe = LogisticProbe(C=(.01, 1.), layers='all', tokens=('mean', 'class+mean'))
    settings = probe.settings(data.layers)
    assert len(settings) == 8
    fitted = probe.fit(data, FIT, settings, TASK, seed=0)
    scores = probe.score(fitted, data, REST, TASK)
    for number, setting in enumerate(settings):
        inputs = np.concatenate([data.arrays[setting['layer'], kind]
                                 for kind in setting['tokens'].split('+')], 1)
        model = make_pipeline(StandardScaler(), LogisticRegression(C=setting['C'], max_iter=1000))
        model.fit(inputs[FIT], data.labels[FIT])
        predicted = torch.stack(list(probe.predict(fitted, number, data, REST, TASK)))
        np.testing.assert_allclose(predicted[:, [0, 1, 3]], model.predict_proba(inputs[REST]),
                                   atol=2e-3)  # float32 against float64 until lbfgs stops
        assert scores[number] == pytest.approx(100 * model.score(inputs[REST], data.labels[REST]))


def test_a_class_without_training_images_has_probability_zero():
    data, probe = planted(), LogisticProbe(C=(1.,))
    fitted = probe.fit(data, FIT, probe.settings(data.layers), TASK, seed=0)
    predicted = torch.stack(list(probe.predict(fitted, 0, data, REST, TASK)))
    assert predicted.shape == (15, 4) and predicted.dtype == torch.float32
    assert (predicted[:, 2] == 0).all() and (predicted[:, [0, 1, 3]] > 0).all()
    torch.testing.assert_close(predicted.sum(1), torch.ones(15))


def test_the_seed_does_not_change_the_result():
    data, probe = planted(), LogisticProbe(C=(1.,))
    settings = probe.settings(data.layers)
    first, second = (probe.fit(data, FIT, settings, TASK, seed)[0][1].models[0].coef_
                     for seed in (0, 1))
    assert np.array_equal(first, second)


def test_bad_arguments_raise():
    with pytest.raises(ValueError, match='LogisticProbe has no settings: got no values for C'):
        LogisticProbe(C=())
    with pytest.raises(ValueError, match='expected any of: 2, 5'):
        LogisticProbe(layers=(9,)).settings((2, 5))


def test_the_probe_is_registered():
    assert isinstance(MODELS.build(dict(type='semmae.LogisticProbe', C=[1.])), LogisticProbe)
