"""Layer decay as in MAE, for both libraries' models."""
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from torch import nn

from semmae.registry import MODELS
from semmae.training.precision import multiplies_bfloat16

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


def settings(model, wrapper=WRAPPER):
    groups = build_optim_wrapper(model, wrapper).optimizer.param_groups
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


# What param_groups_lrd (layer decay 0.65, weight decay 0.05) gives for a ViT-B with average pooling
# and ['pos_embed', 'cls_token'] without decay: the scale of the rate for each layer, 0 being the
# embeddings, i + 1 block i and 13 norm and head. Run, not copied: util/lr_decay.py of
# https://github.com/facebookresearch/mae, commit efb2a8062c206524e35e47d04501ed4f544c0ae8.
MAE_SCALES = (
    0.003697205891018715, 0.005688009063105715, 0.008750783174008792, 0.013462743344628911,
    0.02071191283789063, 0.03186448128906251, 0.049022278906250015, 0.07541889062500001,
    0.11602906250000002, 0.17850625000000003, 0.274625, 0.42250000000000004, 0.65, 1.0)
# The same run: does the parameter decay? Under the names of mmpretrain's ViT.
STEM = {'cls_token': False, 'pos_embed': False, 'patch_embed.projection.weight': True,
        'patch_embed.projection.bias': False}
BLOCK = {'ln1.weight': False, 'ln1.bias': False, 'attn.qkv.weight': True, 'attn.qkv.bias': False,
         'attn.proj.weight': True, 'attn.proj.bias': False, 'ln2.weight': False, 'ln2.bias': False,
         'ffn.layers.0.0.weight': True, 'ffn.layers.0.0.bias': False, 'ffn.layers.1.weight': True,
         'ffn.layers.1.bias': False}
TABLE = {'attn.relative_position_bias_table': False}  # ours; BEiT's code decays it, MAE has none
REPO = Path(__file__).resolve().parents[2]


def reference(block, top):
    """{name: (scale of the rate, whether it decays)} of MAE for the backbone of a ViT-B.

    top: parameters of the last norm.
    """
    names = {name: (0, decays) for name, decays in STEM.items()}
    names |= {f'layers.{i}.{name}': (i + 1, decays)
              for i in range(12) for name, decays in block.items()}
    names |= {name: (13, False) for name in top}
    return {f'backbone.{name}': (MAE_SCALES[layer], decays)
            for name, (layer, decays) in names.items()}


@pytest.mark.slow
@pytest.mark.parametrize('config, block, top', [
    ('semmae_finetune', BLOCK, ('ln2.weight', 'ln2.bias')),
    ('semmae_upernet_ade20k', BLOCK | TABLE, ()),
    ('semmae_segmenter_ade20k', BLOCK, ('ln1.weight', 'ln1.bias'))])
def test_every_parameter_of_a_vit_b_has_the_rate_and_decay_of_mae(config, block, top):
    cfg = Config.fromfile(REPO / 'mm_configs' / f'{config}.py')
    model = MODELS.build(cfg.model)
    base = cfg.optim_wrapper.optimizer
    found = settings(model, dict(
        type='OptimWrapper', optimizer={k: v for k, v in base.items() if k != 'fused'},
        constructor=cfg.optim_wrapper.constructor, paramwise_cfg=cfg.optim_wrapper.paramwise_cfg))
    expected = reference(block, top)
    for name, parameter in model.named_parameters():  # of neck and heads, as MAE's of its head
        if not name.startswith('backbone.'):
            expected[name] = (1.0, parameter.ndim > 1 and not name.endswith('cls_emb'))
    assert set(found) == set(expected)
    for name, (scale, decays) in expected.items():
        rate, decay = found[name]
        assert rate == pytest.approx(base.lr * scale, rel=1e-12), name
        assert decay == (0.05 if decays else 0.0), name


def test_a_torch_without_cpu_capabilities_is_no_error(monkeypatch):
    monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: dict(amx_bf16=True), raising=False)
    assert multiplies_bfloat16()
    monkeypatch.delattr(torch.cpu, 'get_capabilities')
    assert not multiplies_bfloat16()
