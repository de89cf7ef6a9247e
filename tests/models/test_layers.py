"""Transformer layers that compute some queries only, and bfloat16 on a CPU."""
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer

from semmae.models.backbone import RelPosAttention
from semmae.models.layers import Layer, attend
from semmae.registry import MODELS
from semmae.training import precision


def layers(**kwargs):
    """mmpretrain's layer, and ours with the same tensors."""
    torch.manual_seed(0)
    theirs = TransformerEncoderLayer(24, 3, 48, **kwargs)
    return theirs, Layer(deepcopy(theirs))


def gradients(module, loss):
    return torch.autograd.grad(loss, list(module.parameters()))


@pytest.mark.parametrize('kwargs', [{}, dict(qkv_bias=False), dict(layer_scale_init_value=.1)])
def test_a_layer_has_the_tensors_outputs_and_gradients_of_mmpretrains(kwargs):
    theirs, ours = layers(**kwargs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x = torch.randn(2, 9, 24)
    weights = torch.randn(2, 9, 24)
    torch.testing.assert_close(ours(x), theirs(x))
    for mine, other in zip(gradients(ours, (ours(x) * weights).sum()),
                           gradients(theirs, (theirs(x) * weights).sum())):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_the_last_tokens_and_their_gradients_equal_those_of_the_full_layer():
    layer = layers()[1]
    x, weights = torch.randn(2, 9, 24), torch.randn(2, 4, 24)
    torch.testing.assert_close(layer(x, num_queries=4), layer(x)[:, -4:])
    for few, every in zip(gradients(layer, (layer(x, num_queries=4) * weights).sum()),
                         gradients(layer, (layer(x)[:, -4:] * weights).sum())):
        torch.testing.assert_close(few, every, rtol=1e-4, atol=1e-5)


def test_the_last_tokens_have_their_own_relative_position_bias():
    layer = layers()[1]
    layer.attn = RelPosAttention(layer.attn, (2, 4))
    torch.nn.init.normal_(layer.attn.relative_position_bias_table)
    x = torch.randn(2, 9, 24)
    torch.testing.assert_close(layer(x, num_queries=4), layer(x)[:, -4:])


@pytest.mark.parametrize('shape', [(2, 3, 5, 8), (1, 2, 65, 32)])
@pytest.mark.parametrize('with_bias', [False, True])
def test_attention_in_bfloat16_equals_float32_to_its_precision(shape, with_bias):
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(shape, generator=g) for _ in range(3))
    bias = torch.randn(1, shape[1], shape[2], shape[2], generator=g) if with_bias else None
    exact = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    found = attend(*(t.bfloat16() for t in (q, k, v)), bias if bias is None else bias.bfloat16())
    assert found.dtype == torch.bfloat16
    assert (found.float() - exact).abs().max() < .03 * exact.abs().max()


def mini(dtype):
    """(model, optimiser) of the mini MAE as tools/train.py makes them on a CPU."""
    torch.manual_seed(0)
    cfg = Config.fromfile('mm_configs/mini/mae_p16_mini.py')
    model = MODELS.build(cfg.model)
    model.init_weights()
    wrapper = precision.mixed_precision(cfg.optim_wrapper, asked=dtype is not None)
    return model, build_optim_wrapper(model, wrapper)


@pytest.mark.skipif(torch.cuda.is_available(), reason='a GPU has its own mixed precision')
def test_amp_on_a_cpu_multiplies_in_bfloat16_and_trains_float32_weights(monkeypatch):
    monkeypatch.setattr(precision, 'multiplies_bfloat16', lambda: True)
    g = torch.Generator().manual_seed(1)
    data = dict(inputs=torch.randint(256, (8, 3, 64, 64), dtype=torch.uint8, generator=g),
                noise=torch.rand(8, 64, generator=g))
    losses, kinds = {}, {}
    for dtype in (None, 'bfloat16'):
        model, optim = mini(dtype)
        model.decoder.decoder_pred.register_forward_hook(
            lambda _, inputs, out, key=dtype: kinds.update({key: out.dtype}))
        losses[dtype] = [float(model.train_step(data, optim)['loss']) for _ in range(4)]
        assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert kinds == {None: torch.float32, 'bfloat16': torch.bfloat16}
    assert losses[None][-1] < losses[None][0]
    torch.testing.assert_close(torch.tensor(losses['bfloat16']), torch.tensor(losses[None]),
                               rtol=.02, atol=0)


@pytest.mark.skipif(torch.cuda.is_available(), reason='a GPU has its own mixed precision')
@pytest.mark.parametrize('can, dtype', [(False, 'bfloat16'), (True, 'float16')])
def test_amp_on_a_cpu_without_bfloat16_is_refused(monkeypatch, can, dtype):
    monkeypatch.setattr(precision, 'multiplies_bfloat16', lambda: can)
    with pytest.raises(ValueError, match='--amp needs a GPU, or a CPU with bfloat16'):
        precision.mixed_precision(dict(type='AmpOptimWrapper', dtype=dtype), asked=True)


def test_parameters_of_equal_rate_and_decay_are_in_one_group():
    optim = mini(None)[1]
    assert sorted(group['weight_decay'] for group in optim.optimizer.param_groups) == [0, .05]
