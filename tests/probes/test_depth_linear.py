"""Linear depth on planted tokens, and mmseg's metrics of depth."""
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmseg.evaluation import DepthMetric

from semmae.probes.depth import (
    LinearDepthProbe,
    cell_means,
    depth_metrics,
    log_loss,
    upsample_exactly,
)
from semmae.probes.features import ArrayFeatures, Task
from semmae.probes.probe import choose
from semmae.registry import MODELS

GRID = (4, 6)
TASK = Task('depth', depth_range=(1e-3, 10.))
FIT, TEST = np.arange(12), np.arange(12, 16)


def planted(seed=0, images=16):
    """Tokens with the depth of the patch in one channel, the depth of the image in another."""
    rng = np.random.default_rng(seed)
    of_image = rng.uniform(2, 6, (images, 1, 1))
    depths = (of_image + rng.uniform(-.5, .5, (images, *GRID))).clip(1, 9)
    tokens = rng.normal(size=(images, 24, 6)) * .05
    tokens[:, :, 0] += depths.reshape(images, 24)
    maps = [np.repeat(np.repeat(one, 2 + i % 3, 0), 3, 1).astype(np.float32)
            for i, one in enumerate(depths)]
    maps[0][0] = 0.  # not measured
    arrays = {(5, 'patches'): tokens, (2, 'patches'): rng.normal(size=tokens.shape),
              **{(layer, 'class'): rng.normal(size=(images, 6)) for layer in (2, 5)}}
    return ArrayFeatures(arrays, maps, GRID)


def probe_of(**values):
    return LinearDepthProbe(**dict(dict(lr=.03, bins=64, upsample=1, epochs=60, batch_size=4,
                                        has_class_token=False), **values))


def test_a_planted_linear_relation_gets_a_small_error():
    data, probe = planted(), probe_of()
    fitted = probe.fit(data, FIT, probe.settings(data.layers), TASK, 0)
    assert probe.score(fitted, data, TEST, TASK)[0] > -.25  # metres; depths differ by 1.2
    for i, found in zip(TEST, probe.predict(fitted, 0, data, TEST, TASK)):
        truth = data.labels[i]
        assert found.shape == truth.shape and found.dtype == torch.float32
        assert (found - torch.from_numpy(truth)).square().mean().sqrt() < .35


@pytest.mark.parametrize('upsample', [1, 2])
def test_full_resolution_upsamples_the_expected_depth_of_the_bins(upsample):
    data, probe = planted(), probe_of(upsample=upsample, epochs=2)
    fitted = probe.fit(data, FIT, probe.settings(data.layers), TASK, 0)
    outputs = fitted['5'][1](data.tokens(5, 'patches', [13]))[0, :, 0].T.reshape(1, 64, *GRID)
    if upsample > 1:
        outputs = F.interpolate(outputs, scale_factor=upsample, mode='bilinear')
    shares = outputs.relu() + .1
    depths = ((shares / shares.sum(1, keepdim=True)) * torch.linspace(1e-3, 10, 64)[:, None, None]
              ).sum(1, keepdim=True)
    by_hand = F.interpolate(depths, data.labels[13].shape, mode='bilinear', align_corners=False)
    torch.testing.assert_close(next(probe.predict(fitted, 0, data, [13], TASK)), by_hand[0, 0])


def test_the_score_is_minus_the_mean_error_of_images():
    data, probe = planted(), probe_of(epochs=2)
    data.labels[0][:2] = 0.
    fitted = probe.fit(data, FIT, probe.settings(data.layers), TASK, 0)
    images = np.array([0, 13])  # the first has patches without a depth
    found = probe.depths(fitted['5'][1], data.tokens(5, 'patches', images), 0, GRID, TASK)
    truth = probe.cell_depths(data, images, TASK)
    errors = [(one[of_truth.isfinite()] - of_truth[of_truth.isfinite()]).square().mean().sqrt()
              for one, of_truth in zip(found, truth)]
    assert truth.isnan().sum((1, 2)).tolist() == [6, 0]
    assert probe.score(fitted, data, images, TASK) == [pytest.approx(-sum(errors).item() / 2)]


def test_layers_and_their_class_tokens_are_concatenated():
    data = planted()
    probe = probe_of(layers=[(5,), (2, 5)], has_class_token=True)
    assert [s['layers'] for s in probe.settings(data.layers)] == ['5', '2+5']
    tokens = probe.tokens(data, '2+5', np.arange(3))
    assert tokens.shape == (3, 24, 24)
    for at, (layer, kind) in enumerate([(2, 'patches'), (2, 'class'), (5, 'patches'),
                                        (5, 'class')]):
        one = data.tokens(layer, kind, np.arange(3))
        assert torch.equal(tokens[..., 6 * at:6 * at + 6],
                           one if kind == 'patches' else one[:, None].repeat(1, 24, 1))


def test_a_class_token_that_is_not_stored_is_an_error():
    data = planted()
    del data.arrays[5, 'class']
    with pytest.raises(ValueError, match='layer 5 class tokens are not in these features'):
        probe = probe_of(has_class_token=True)
        probe.fit(data, FIT, probe.settings(data.layers), TASK, 0)


def test_invalid_depths_change_nothing():
    data, other = planted(), planted()
    for i, wrong in enumerate([np.nan, np.inf, -3., 10., 1e-3, 500.]):
        other.labels[0][0, i] = wrong  # 0 in the first
    probe = probe_of(epochs=3)
    first, second = (probe.fit(d, FIT, probe.settings(d.layers), TASK, 0) for d in (data, other))
    assert torch.equal(first['5'][1].weight[0], second['5'][1].weight[0])
    assert probe.score(first, data, np.arange(2), TASK) == probe.score(second, other, np.arange(2),
                                                                       TASK)


def test_an_image_without_a_valid_depth_counts_for_nothing():
    data = planted()
    probe = probe_of(epochs=3)
    data.labels[13] = np.zeros_like(data.labels[13])
    fitted = probe.fit(data, FIT, probe.settings(data.layers), TASK, 0)
    assert probe.score(fitted, data, TEST, TASK) == pytest.approx(
        probe.score(fitted, data, np.setdiff1d(TEST, 13), TASK))
    data.labels[:] = [np.zeros_like(one) for one in data.labels]
    with pytest.raises(ValueError, match='without a depth between 0.001 and 10 metres'):
        probe.fit(data, FIT, probe.settings(data.layers), TASK, 0)


def test_a_grid_equals_its_settings_trained_alone():
    data = planted()
    probe = probe_of(lr=(1e-3, .03), weight_decay=(0., .1), layers=[(2,), (5,)], epochs=2)
    settings = probe.settings(data.layers)
    together = probe.fit(data, FIT, settings, TASK, 0)
    scores = probe.score(together, data, TEST, TASK)
    assert len(set(scores)) == 8
    for number, setting in enumerate(settings):
        alone = probe.fit(data, FIT, [setting], TASK, 0)
        assert probe.score(alone, data, TEST, TASK) == [pytest.approx(scores[number], rel=1e-4)]


def test_the_layer_with_the_depth_is_chosen_and_equal_seeds_give_equal_scores():
    probe = probe_of(layers=[(2,), (5,)], epochs=20)
    setting, scores = choose(probe, planted(), TASK, 0)
    assert setting['layers'] == '5' and scores == choose(probe, planted(), TASK, 0)[1]


def test_a_setting_that_diverges_is_not_chosen():
    assert choose(probe_of(lr=(1e30, .03), epochs=5), planted(), TASK, 0)[0]['lr'] == .03


def test_cells_have_the_mean_of_their_valid_depths():
    depth_map = np.array([[1, 3, 5, 0], [2, 0, 11, 0]], np.float32)
    found = cell_means(depth_map, (1, 2), (1e-3, 10.))
    assert found.tolist() == [[2, 5]]
    assert cell_means(depth_map, (2, 4), (1e-3, 10.)).isnan().tolist() == [
        [False, False, False, True], [False, True, True, True]]


def test_a_depth_map_smaller_than_the_upsampled_grid_is_refused():
    data, probe = planted(), probe_of(upsample=4)
    with pytest.raises(ValueError, match='at least 16 x 24 pixels'):
        probe.fit(data, FIT, probe.settings(data.layers), TASK, 0)


@pytest.mark.parametrize('factor', [1, 3, 4])
def test_upsampling_by_matrices_equals_interpolate(factor):
    maps = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(upsample_exactly(maps, factor), F.interpolate(
        maps, scale_factor=factor, mode='bilinear', align_corners=False))


def test_the_loss_by_hand():
    found, truth = torch.tensor([1., 2.]), torch.tensor([1., 1.])
    g = math.log(2.001 / 1.001)  # the other difference is 0
    assert log_loss(found, truth, False).item() == pytest.approx(math.sqrt(.15) * g / 2, rel=1e-5)
    assert log_loss(found, truth, True).item() == pytest.approx(
        math.sqrt(g * g / 2 + .15 * g * g / 4), rel=1e-5)


@pytest.mark.parametrize('most, warm_up', [(100, 3), (2, 2)])
def test_the_first_steps_leave_out_the_variance(monkeypatch, most, warm_up):
    flags = []
    monkeypatch.setattr('semmae.probes.depth.WARM_UP', most)
    monkeypatch.setattr('semmae.probes.depth.log_loss', lambda found, truth, with_variance: (
        flags.append(with_variance), found.mean())[1])
    probe = probe_of(epochs=10, bins=2)
    probe.fit(planted(), FIT, probe.settings((5,)), TASK, 0)
    assert flags == [False] * warm_up + [True] * (30 - warm_up)


def test_an_exact_prediction_has_a_finite_gradient():
    found = torch.ones(3, requires_grad=True)
    log_loss(found, torch.ones(3), True).backward()
    assert found.grad.isfinite().all()


@pytest.mark.parametrize('crop', [None, 'nyu_crop'])
def test_the_mean_over_images_equals_the_metric_of_mmseg(crop):
    generator = torch.Generator().manual_seed(0)
    pairs = [(torch.rand(480, 640, generator=generator) * 9 + .5,
              torch.rand(480, 640, generator=generator) * 11) for _ in range(2)]
    metric = DepthMetric(min_depth_eval=1e-3, max_depth_eval=10., crop_type=crop)
    metric.process({}, [dict(pred_depth_map=dict(data=found), gt_depth_map=dict(data=truth))
                        for found, truth in pairs])
    expected = metric.compute_metrics(metric.results)
    found = [depth_metrics(*pair, (1e-3, 10.), crop) for pair in pairs]
    for name in ('rmse', 'abs_rel', 'd1'):
        assert np.mean([one[name] for one in found]) == pytest.approx(expected[name])


def test_depth_metrics_by_hand():
    found, truth = torch.tensor([[2., 5.], [1., 1.]]), torch.tensor([[1., 4.], [0., 10.]])
    assert depth_metrics(found, truth, (1e-3, 10.)) == dict(
        rmse=1, abs_rel=pytest.approx(.625), d1=0)  # 5 / 4 is not below 1.25


def test_an_image_without_a_valid_pixel_has_no_metric():
    assert all(math.isnan(value) for value in depth_metrics(
        torch.ones(2, 2), torch.zeros(2, 2), (1e-3, 10.)).values())


def test_the_crop_needs_the_size_of_nyu():
    with pytest.raises(ValueError, match='crop=nyu_crop, expected the same, and 480 x 640'):
        depth_metrics(torch.ones(4, 4), torch.ones(4, 4), (1e-3, 10.), 'nyu_crop')
    with pytest.raises(ValueError, match='expected the same'):
        depth_metrics(torch.ones(4, 5), torch.ones(4, 4), (1e-3, 10.))


@pytest.mark.parametrize('arguments, message', [
    (dict(lr=0), 'got lr=0'), (dict(bins=0), 'bins=0, expected a whole number from 1'),
    (dict(upsample=.5), 'upsample=0.5, expected a whole number from 1')])
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(dict(type='semmae.LinearDepthProbe', **arguments))


def test_another_task_and_a_missing_layer_are_refused():
    data, probe = planted(), probe_of()
    with pytest.raises(ValueError, match='kind segmentation, expected depth'):
        probe.fit(data, FIT, probe.settings(data.layers), Task('segmentation', 3), 0)
    with pytest.raises(ValueError, match=r'got layers=\(2, 3\), expected any of: 2, 5'):
        probe_of(layers=[(2, 3)]).settings((2, 5))


def test_the_defaults_are_those_of_dinov2():
    assert LinearDepthProbe().bins == 256 and LinearDepthProbe().upsample == 4
    assert LinearDepthProbe().has_class_token
