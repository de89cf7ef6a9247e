"""Mixed precision: which type is trained in, and that its gradients are those of float32."""
import pytest
import torch
from mmengine.config import Config

from semmae.config.identity import precision_of_training
from semmae.config.options import read_config
from semmae.training import precision

from .test_compile import batch, loss_of, semmae  # noqa: F401  a fixture

PRETRAIN = 'mm_configs/semmae_pretrain.py'


def resolved(monkeypatch, gpu, asked, **wrapper):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: gpu)
    monkeypatch.setattr(precision, 'multiplies_bfloat16', lambda: True)
    return precision.mixed_precision(Config(dict(w=wrapper)).w, asked=asked)


@pytest.mark.parametrize('wrapper', [
    dict(type='OptimWrapper'), dict(type='AmpOptimWrapper'),
    dict(type='AmpOptimWrapper', loss_scale='dynamic'), dict(type='mmengine.AmpOptimWrapper'),
    read_config(PRETRAIN).optim_wrapper])
def test_amp_on_a_gpu_is_bfloat16_without_loss_scaling_and_the_protocol_says_so(
        monkeypatch, wrapper):
    found = resolved(monkeypatch, True, True, **wrapper)
    assert (found['type'], found['dtype'], found['loss_scale']) == (
        'AmpOptimWrapper', 'bfloat16', 1.0)
    assert precision_of_training(Config(dict(optim_wrapper=found))) == 'bfloat16'


def test_float16_with_dynamic_loss_scaling_is_trained_only_if_the_config_asks_for_it(monkeypatch):
    found = resolved(monkeypatch, True, False, type='AmpOptimWrapper', dtype='float16')
    assert (found['dtype'], found['loss_scale']) == ('float16', 'dynamic')
    assert precision_of_training(Config(dict(optim_wrapper=found))) == 'float16'


def test_without_a_gpu_the_protocol_says_what_the_cpu_computes(monkeypatch):
    asked = resolved(monkeypatch, False, True, type='OptimWrapper')
    by_itself = resolved(monkeypatch, False, False, type='semmae.CPUAmpOptimWrapper')
    for found in (asked, by_itself):
        assert (found['type'], found['dtype']) == ('semmae.CPUAmpOptimWrapper', 'bfloat16')
        assert precision_of_training(Config(dict(optim_wrapper=found))) == 'bfloat16'
    other = resolved(monkeypatch, False, False, type='AmpOptimWrapper', dtype='bfloat16')
    assert other == dict(type='OptimWrapper')


@pytest.mark.parametrize('options, said', [
    (dict(dtype='fp16'), "dtype is 'fp16', expected bfloat16 or float16"),
    (dict(dtype='float16', loss_scale=1.),
     'loss_scale is 1 with float16.*expected .*loss_scale=dynamic')])
def test_a_precision_that_cannot_train_is_refused(monkeypatch, options, said):
    with pytest.raises(ValueError, match=said):
        resolved(monkeypatch, True, False, type='AmpOptimWrapper', **options)


@pytest.mark.parametrize('dtype, tolerance', [(torch.bfloat16, 2e-2), (torch.float16, 2e-3)])
def test_a_step_in_half_precision_has_the_loss_and_the_direction_of_float32(
        semmae, dtype, tolerance):  # noqa: F811
    def gradients():
        return torch.cat([p.grad.flatten() for p in semmae.parameters() if p.grad is not None])
    expected = loss_of(semmae, batch(8))
    expected.backward()
    exact = gradients()
    semmae.zero_grad()
    with torch.autocast('cpu', dtype):
        found = loss_of(semmae, batch(8))
    found.backward()
    assert abs(found.item() / expected.item() - 1) < tolerance
    assert gradients().isfinite().all()
    assert torch.cosine_similarity(gradients(), exact, 0) > 0.99
