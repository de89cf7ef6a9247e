"""Layer decay as in MAE, for both libraries' models."""
import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from semmae.registry import MODELS

ARCH = dict(embed_dims=24, num_layers=4, num_heads=2, feedforward_channels=48)
WRAPPER = dict(
    type='OptimWrapper', optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.05),
    constructor='semmae.LayerDecayConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.5, norm_decay_mult=0., bias_decay_mult=0.,
                       flat_decay_mult=0., custom_keys={
                           'cls_token': dict(decay_mult=0.), 'pos_embed': dict(decay_mult=0.),
                           'relative_position_bias_table': dict(decay_mult=0.)}))


class Segmentor(nn.Module):
    """As mmseg's EncoderDecoder: a backbone, no get_layer_depth of its own."""

    def __init__(self):
        super().__init__()
        self.backbone = MODELS.build(dict(type='semmae.ViT', arch=ARCH, img_size=32, patch_size=8,
                                          rel_pos_bias=True, final_norm=False))
        self.decode_head = nn.Conv2d(24, 3, 1)


def settings(model):
    groups = build_optim_wrapper(model, WRAPPER).optimizer.param_groups
    names = {id(p): n for n, p in model.named_parameters()}
    return {names[id(p)]: (g['lr'], g['weight_decay']) for g in groups for p in g['params']}


def test_rates_fall_by_half_with_each_layer_from_the_head_down():
    found = settings(Segmentor())
    assert found['decode_head.weight'] == (1.0, 0.05)
    for layer in range(4):
        assert found[f'backbone.layers.{layer}.attn.qkv.weight'] == (0.5 ** (4 - layer), 0.05)
    assert found['backbone.patch_embed.projection.weight'] == (0.5 ** 5, 0.05)


def test_norms_biases_tokens_positions_and_bias_tables_have_no_decay():
    found = settings(Segmentor())
    free = {n for n, (_, decay) in found.items() if decay == 0}
    assert free == {n for n, p in Segmentor().named_parameters()
                    if p.ndim == 1 or 'cls_token' in n or 'pos_embed' in n or 'table' in n}


def test_every_parameter_is_trained_once_in_few_groups():
    model = Segmentor()
    wrapper = build_optim_wrapper(model, WRAPPER)
    assert set(settings(model)) == {n for n, _ in model.named_parameters()}
    assert len(wrapper.optimizer.param_groups) == 2 * 6  # 6 depths, with and without decay


def test_layer_decay_without_a_backbone_is_refused():
    with pytest.raises(ValueError, match='needs a backbone'):
        build_optim_wrapper(nn.Linear(2, 2), WRAPPER)


def test_frozen_parameters_are_left_out():
    model = Segmentor()
    model.backbone.requires_grad_(False)
    assert set(settings(model)) == {'decode_head.weight', 'decode_head.bias'}
    assert isinstance(build_optim_wrapper(model, WRAPPER).optimizer, torch.optim.AdamW)
