"""Linear and logistic segmentation on planted tokens."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from semmae.probes.dense import patch_areas
from semmae.probes.features import ArrayFeatures, Task
from semmae.probes.probe import choose
from semmae.probes.seg_linear import LinearSegProbe, soft_cross_entropy
from semmae.probes.seg_logistic import LogisticSegProbe
from semmae.registry import MODELS
from semmae.results.predictions import pixel_counts, recount

GRID, C = (4, 6), 3
TASK = Task('segmentation', C)
SIZES = [(8, 12), (16, 12), (12, 30), (20, 24), (8, 18)]  # multiples of the grid


def planted(seed=0, images=10, classes=C, noise=.05):
    """Tokens that point to the class of the patch; the second half of image 0 is ignored."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, (images, *GRID))
    directions = rng.normal(size=(classes, 8))
    tokens = directions[labels.reshape(images, -1)] + noise * rng.normal(
        size=(images, labels[0].size, 8))
    maps = []
    for i, of_image in enumerate(labels):
        height, width = SIZES[i % len(SIZES)]
        maps.append(np.repeat(np.repeat(of_image, height // GRID[0], 0), width // GRID[1], 1
                              ).astype(np.uint8))
    maps[0][4:] = 255
    return ArrayFeatures({(2, 'patches'): rng.normal(size=tokens.shape), (5, 'patches'): tokens},
                         maps, GRID)


PROBES = dict(linear=lambda **k: LinearSegProbe(**dict(dict(lr=.1, epochs=20, batch_size=3), **k)),
              logistic=lambda **k: LogisticSegProbe(**dict(dict(C=1.), **k)))


def predictions(probe, data, seed=0):
    fitted = probe.fit(data, np.arange(7), probe.settings(data.layers), TASK, seed)
    return fitted, list(probe.predict(fitted, 0, data, np.arange(7, 10), TASK))


@pytest.mark.parametrize('name', PROBES)
def test_a_separable_task_is_solved_at_patch_resolution(name):
    data, probe = planted(), PROBES[name]()
    fitted, found = predictions(probe, data)
    assert probe.score(fitted, data, np.arange(10), TASK) == [100]
    assert [tuple(one.shape) for one in found] == [data.labels[i].shape for i in (7, 8, 9)]
    assert all(one.dtype == torch.int64 for one in found)


@pytest.mark.parametrize('name', PROBES)
def test_a_task_of_large_regions_is_solved_at_full_resolution(name):
    data = planted()
    for i in range(10):  # one class an image: no borders that upsampling could move
        data.labels[i] = np.full_like(data.labels[i], i % C)
    data.arrays[5, 'patches'] = np.eye(C)[np.arange(10) % C][:, None].repeat(24, 1)
    _, found = predictions(PROBES[name](), data)
    counts = [pixel_counts(one.numpy(), data.labels[i], C) for one, i in zip(found, (7, 8, 9))]
    assert recount({key: np.stack([c[key] for c in counts]) for key in counts[0]})['mIoU'] == 100


@pytest.mark.parametrize('name', PROBES)
def test_ignored_patches_change_nothing(name):
    data, other = planted(), planted()
    other.arrays[5, 'patches'][0, 12:] = 1e3 * np.random.default_rng(1).normal(size=(12, 8))
    first, second = (predictions(PROBES[name](), d) for d in (data, other))
    assert all(torch.equal(a, b) for a, b in zip(first[1], second[1]))
    assert same_weights(first[0], second[0])


@pytest.mark.parametrize('name', PROBES)
def test_the_value_of_an_ignored_pixel_changes_nothing(name):
    data, other = planted(), planted()
    for label_map in other.labels:
        label_map[label_map == 255] = 77
    probe = PROBES[name]()
    first = predictions(probe, data)[0]
    assert same_weights(first, probe.fit(other, np.arange(7), probe.settings(data.layers),
                                         Task('segmentation', C, ignore_index=77), 0))


def same_weights(first, second):
    if isinstance(first, dict):
        first, second = ([value for heads in fitted.values()
                          for value in heads[1].state_dict().values()]
                         for fitted in (first, second))
    else:
        first, second = ([model.weight for model in fitted] for fitted in (first, second))
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize('name', PROBES)
def test_equal_seeds_give_bit_identical_weights(name):
    data = planted(noise=1.)
    changes = dict(max_patches=60) if name == 'logistic' else {}
    first, again, other = (predictions(PROBES[name](**changes), data, seed=seed)[0]
                           for seed in (0, 0, 1))
    assert same_weights(first, again) and not same_weights(first, other)


def test_the_loss_equals_the_pixel_cross_entropy_of_logits_constant_in_a_patch():
    rng = np.random.default_rng(0)
    maps = [rng.integers(0, C + 1, (8, 12)).astype(np.uint8) for _ in range(2)]
    for label_map in maps:
        label_map[label_map == C] = 255
    data = ArrayFeatures({(0, 'patches'): np.zeros((2, 24, 1))}, maps, GRID)
    logits = torch.from_numpy(rng.normal(size=(2, 24, C)).astype(np.float32))
    pixels = F.interpolate(logits.transpose(1, 2).unflatten(2, GRID), (8, 12), mode='nearest')
    expected = F.cross_entropy(pixels, torch.from_numpy(np.stack(maps)).long(), ignore_index=255)
    areas = torch.from_numpy(patch_areas(data, np.arange(2), TASK).toarray())
    found = soft_cross_entropy(logits.flatten(0, 1)[:, None].repeat(1, 2, 1), areas)
    torch.testing.assert_close(found, expected.repeat(2))


def test_a_grid_equals_its_settings_trained_alone():
    data = planted(noise=1.)
    probe = LinearSegProbe(lr=(1e-3, 1e-1), weight_decay=(0., .5), layers='all', epochs=3,
                           batch_size=3)
    settings = probe.settings(data.layers)
    assert [(s['layer'], s['lr'], s['weight_decay']) for s in settings] == [
        (layer, lr, wd) for layer in (2, 5) for lr in (1e-3, 1e-1) for wd in (0., .5)]
    together = probe.fit(data, np.arange(7), settings, TASK, 0)
    scores = probe.score(together, data, np.arange(7, 10), TASK)
    for number, setting in enumerate(settings):
        alone = probe.fit(data, np.arange(7), [setting], TASK, 0)
        numbers, heads = together[setting['layer']]
        torch.testing.assert_close(heads.weight[numbers.index(number)],
                                   alone[setting['layer']][1].weight[0], rtol=1e-4, atol=1e-6)
        assert probe.score(alone, data, np.arange(7, 10), TASK) == [pytest.approx(scores[number])]
        one, many = (list(probe.predict(*fitted, data, np.arange(7, 10), TASK))
                     for fitted in ((alone, 0), (together, number)))
        assert all((a == b).float().mean() > .99 for a, b in zip(one, many))


def test_training_equals_adamw_with_a_cosine_written_out():
    data = planted(noise=1.)
    probe = LinearSegProbe(lr=.01, weight_decay=.1, epochs=4, batch_size=7)
    heads = probe.fit(data, np.arange(7), probe.settings(data.layers), TASK, 0)[5][1]
    areas = torch.from_numpy(patch_areas(data, np.arange(7), TASK).toarray())
    labelled = areas.sum(1) > 0
    rows = data.tokens(5, 'patches', np.arange(7)).flatten(0, 1)[labelled]
    rows = F.batch_norm(rows, rows.mean(0), rows.var(0, correction=0), eps=1e-6)
    weight = .01 * torch.randn(C, 8, generator=torch.Generator().manual_seed(0))
    weight, bias = weight.requires_grad_(), torch.zeros(C, requires_grad=True)
    optimizer = torch.optim.AdamW([weight, bias], weight_decay=.1)
    for step in range(4):
        optimizer.param_groups[0]['lr'] = .005 * (1 + np.cos(np.pi * step / 4))
        loss = -((rows @ weight.T + bias).log_softmax(1) * areas[labelled]).sum() / areas.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(heads.weight[0], weight.detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(heads.bias[0], bias.detach(), rtol=1e-4, atol=1e-6)


def test_full_resolution_upsamples_the_logits():
    data = planted(noise=1.)
    probe = PROBES['linear']()
    fitted, (found, *_) = predictions(probe, data)
    logits = fitted[5][1](data.tokens(5, 'patches', [7]))[0, :, 0]
    by_hand = F.interpolate(logits.T.reshape(1, C, *GRID), data.labels[7].shape, mode='bilinear',
                            align_corners=False).argmax(1)[0]
    assert torch.equal(found, by_hand)


@pytest.mark.parametrize('classes', [[0, 1, 2], [0, 2]])
def test_logistic_logits_give_the_probabilities_of_scikit_learn(classes):
    data = planted(noise=1.)
    for label_map in data.labels:
        label_map[~np.isin(label_map, [*classes, 255])] = classes[0]
    probe = PROBES['logistic']()
    (model,) = probe.fit(data, np.arange(7), probe.settings(data.layers), TASK, 0)
    from sklearn.linear_model import LogisticRegression
    areas = patch_areas(data, np.arange(7), TASK)
    kept = areas.sum(1) > 0
    rows = model.standard(data.tokens(5, 'patches', np.arange(7)).flatten(0, 1)[kept])
    expected = LogisticRegression(max_iter=1000).fit(rows.numpy(), areas[kept].argmax(1))
    tokens = data.tokens(5, 'patches', [8])
    np.testing.assert_allclose(model.logits(tokens).softmax(-1)[0],
                               expected.predict_proba(model.standard(tokens)[0].numpy()), atol=1e-4)
    found = torch.cat([one.flatten() for one in probe.predict([model], 0, data, [7, 8], TASK)])
    assert set(found.tolist()) <= set(classes)
    assert np.isfinite(probe.score([model], data, np.arange(7, 10), TASK)).all()


def test_a_sample_of_one_class_is_refused():
    data = planted(classes=1)
    with pytest.raises(ValueError, match='sampled patches have label 0, expected two or more'):
        predictions(PROBES['logistic'](), data)


@pytest.mark.parametrize('name', PROBES)
def test_the_layer_with_the_classes_is_chosen(name):
    setting, scores = choose(PROBES[name](layers='all'), planted(images=20), TASK, 0)
    assert setting['layer'] == 5 and scores[1] == 100 > scores[0]


def test_a_setting_that_diverges_is_not_chosen_and_does_not_predict():
    data = planted()
    probe = LinearSegProbe(lr=(1e30, .1), epochs=20)
    assert choose(probe, data, TASK, 0)[0]['lr'] == .1
    with pytest.raises(ValueError, match='7.jpg: the prediction is NaN'):
        predictions(probe, data)


@pytest.mark.parametrize('arguments, message', [
    (dict(type='semmae.LinearSegProbe', lr=0), 'got lr=0, expected one or more numbers above 0'),
    (dict(type='semmae.LinearSegProbe', lr=[]), r'got lr=\[\], expected one or more'),
    (dict(type='semmae.LinearSegProbe', weight_decay=-1), 'weight_decay=-1.*not below 0'),
    (dict(type='semmae.LinearSegProbe', epochs=.5), 'epochs=0.5, expected a whole number from 1'),
    (dict(type='semmae.LogisticSegProbe', C=(1., -1.)), r'got C=\(1.0, -1.0\)'),
    (dict(type='semmae.LogisticSegProbe', max_patches=0), 'max_patches=0, expected a whole')])
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(arguments)


def test_the_last_layer_is_the_default_and_a_layer_that_is_not_stored_is_refused():
    assert [s['layer'] for s in LinearSegProbe(lr=.1).settings((2, 5))] == [5]
    with pytest.raises(ValueError, match=r'got layers=\(3,\), expected any of: 2, 5'):
        LinearSegProbe(layers=(3,)).settings((2, 5))


def test_logistic_regression_tries_the_strengths_of_capi():
    strengths = [s['C'] for s in LogisticSegProbe().settings((5,))]
    assert len(strengths) == 8
    np.testing.assert_allclose([strengths[0], strengths[-1]], [1e-6, 1e5])
