"""`WrappedBackbone` gives any network the contract of a backbone."""
import re

import pytest
import torch
from mmengine.model import BaseModule
from mmengine.optim import build_optim_wrapper
from torch import nn

from semmae.models.outputs import grid_of
from semmae.registry import MODELS


@MODELS.register_module(force=True)
class Foreign(nn.Module):
    """A small network with its own names; ``gives`` is the form of its output."""

    def __init__(self, gives='dict', num_prefix=0):
        super().__init__()
        self.gives, self.token = gives, nn.Parameter(torch.randn(6))
        self.stem = nn.Conv2d(3, 6, 8, 8)
        self.trunk = nn.ModuleList([nn.Sequential(nn.Linear(6, 6)) for _ in range(3)])
        self.last = nn.LayerNorm(6)
        self.prefix = nn.Parameter(torch.randn(1, num_prefix, 6))

    def forward(self, x):
        maps, layers = self.stem(x), []
        tokens = torch.cat([self.prefix.expand(len(x), -1, -1), maps.flatten(2).mT], 1)
        for layer in self.trunk:
            tokens = layer(tokens)
            layers.append(self.last(tokens))
        return {'dict': dict(summary=tokens.mean(1) + self.token, places=layers[-1],
                             early=layers[0], first=layers[0].mean(1)),
                'tuple': tuple(layers), 'tokens': layers[-1], 'map': maps,
                'maps': (maps, 2 * maps), 'vector': tokens.mean(1)}[self.gives]


@MODELS.register_module(force=True)
class TwoLists(nn.Module):
    """A network whose layers are in one of two lists."""

    def __init__(self):
        super().__init__()
        self.stem, self.body = nn.Sequential(nn.Conv2d(3, 6, 8, 8), nn.ReLU()), nn.Module()
        self.body.layers = nn.Sequential(nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1))


@MODELS.register_module(force=True)
class OwnDepth(BaseModule):
    """A network with its own initialisation and its own layers."""

    embed_dims = 5

    def init_weights(self):
        self.is_filled = True

    def get_layer_depth(self, param_name, prefix=''):
        return len(param_name.removeprefix(prefix)), 9


def wrap(gives='dict', num_in_module=0, module=None, **kwargs):
    torch.manual_seed(0)
    module = module or dict(type='Foreign', gives=gives, num_prefix=num_in_module)
    return MODELS.build(dict(type='semmae.WrappedBackbone', module=module, **kwargs)).eval()


def images_of(height=32, width=32):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


DICT = dict(patches='places', cls_token='summary')


@torch.no_grad()
def test_outputs_of_a_dict_are_given_in_every_form():
    images = images_of(32, 16)
    out = wrap().module(images)
    for out_type, wanted in dict(
            cls_token=out['summary'], avg_featmap=out['places'].mean(1),
            featmap=out['places'].mT.reshape(2, 6, 4, 2),
            raw=torch.cat([out['summary'][:, None], out['places']], 1)).items():
        model = wrap(**DICT, out_type=out_type)
        assert model(images)[0].equal(wanted) and model.num_prefix == 1, out_type


@torch.no_grad()
def test_each_layer_has_its_own_class_token():
    images = images_of()
    model = wrap(patches=['early', 'places'], cls_token=['first', 'summary'], out_type='cls_token')
    out = model.module(images)
    assert [a.equal(b) for a, b in zip(model(images), (out['first'], out['summary']))] == [True] * 2
    with pytest.raises(ValueError, match='got 1 outputs for cls_token, expected 2, one for each'):
        wrap(patches=['early', 'places'], cls_token='summary')


@torch.no_grad()
def test_prefix_tokens_are_no_patches_and_the_first_is_the_class_token():
    images = images_of()
    tokens = wrap('tokens', 3).module(images)
    patches = tokens[:, 3:]
    for out_type, wanted in dict(cls_token=tokens[:, 0], avg_featmap=patches.mean(1), raw=tokens,
                                 featmap=patches.mT.reshape(2, 6, 4, 4)).items():
        assert wrap('tokens', 3, num_prefix=3, out_type=out_type)(images)[0].equal(wanted)


@torch.no_grad()
def test_a_separate_class_token_replaces_the_prefix_tokens():
    images = images_of()
    model = wrap('dict', 2, **DICT, num_prefix=2, out_type='raw')
    out, (found,) = model.module(images), model(images)
    assert found[:, 0].equal(out['summary']) and found[:, 1:].equal(out['places'][:, 2:])
    assert model.num_prefix == 1


@torch.no_grad()
def test_maps_are_taken_from_a_tensor_and_from_a_tuple():
    images = images_of(32, 16)
    first, last = wrap('maps').module(images)
    assert wrap('map')(images)[0].equal(first)
    assert wrap('maps')(images)[0].equal(last)
    found = wrap('maps', patches=[0, -1])(images)
    assert found[0].equal(first) and found[1].equal(last)
    assert wrap('maps', out_type='avg_featmap')(images)[0].allclose(last.mean((2, 3)))
    found = wrap('tuple', patches=[0, 0, 1, 2])(images)
    assert len(found) == 4 and found[0].equal(found[1]) and not found[1].equal(found[2])


@pytest.mark.parametrize('kwargs, message', [
    (dict(), "no output None, it returns ['early', 'first', 'places', 'summary']"),
    (dict(patches='x'), "no output 'x', it returns ['early', 'first', 'places', 'summary']"),
    (dict(gives='tuple', patches=3), 'no output 3, it returns 3 outputs'),
    (dict(gives='tuple', patches='x'), "no output 'x', it returns 3 outputs"),
    (dict(gives='tokens', patches=0), 'no output 0, it returns one tensor'),
    (dict(gives='vector'), 'Foreign: got patch features (2, 6) with num_prefix=0, expected maps'),
    (dict(gives='map', num_prefix=1), 'Foreign: got patch features (2, 6, 4, 4) with num_prefix=1'),
    (dict(gives='tokens', num_in_module=1), '17 patch tokens are no grid of square patches in '
                                            'images of 32x32 pixels. Expected num_prefix')])
def test_an_output_that_is_not_there_is_refused_with_those_that_are(kwargs, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        wrap(**kwargs)(images_of())
    with pytest.raises(ValueError, match="Foreign has no class token, got out_type='cls_token'"):
        wrap(out_type='cls_token')


def test_the_grid_is_that_of_square_patches_or_is_set():
    images = images_of(32, 16)
    assert grid_of(8, images) == (4, 2) and grid_of(32, images) == (8, 4)
    for count in (0, 7, 9, 16):
        with pytest.raises(ValueError, match=f'{count} patch tokens are no grid'):
            grid_of(count, images)
    assert wrap(patches='places', grid=[2, 8])(images_of())[0].shape == (2, 6, 2, 8)


# -- training


def test_the_only_list_of_layers_gives_the_depth_of_each_parameter():
    model = wrap(**DICT)
    assert model.num_layers == 3
    depths = {name: model.get_layer_depth(f'backbone.{name}', 'backbone.')
              for name, _ in model.named_parameters()}
    assert depths == {
        'module.token': (0, 5), 'module.prefix': (0, 5),
        'module.stem.weight': (0, 5), 'module.stem.bias': (0, 5),
        **{f'module.trunk.{i}.0.{x}': (i + 1, 5) for i in range(3) for x in ('weight', 'bias')},
        'module.last.weight': (4, 5), 'module.last.bias': (4, 5)}


def rates(backbone):
    model = nn.Module()
    model.backbone, model.head = backbone, nn.Linear(6, 2)
    optim = build_optim_wrapper(model, dict(
        type='OptimWrapper', optimizer=dict(type='SGD', lr=1., weight_decay=0.),
        constructor='semmae.LayerDecayConstructor', paramwise_cfg=dict(layer_decay_rate=.5)))
    return model, {id(p): group['lr'] for group in optim.optimizer.param_groups
                   for p in group['params']}


def test_layer_decay_lowers_the_rate_of_each_layer():
    model, found = rates(wrap(**DICT))
    net = model.backbone.module
    assert [found[id(x.weight)] for x in (net.stem, *(x[0] for x in net.trunk), net.last,
                                          model.head)] == [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 1]


def test_layer_decay_without_one_list_of_layers_says_what_to_set():
    two = dict(type='TwoLists')
    with pytest.raises(ValueError, match='list of layers of TwoLists. Set model.backbone.blocks to '
                                         'its name in the network, or optim_wrapper'):
        rates(wrap(module=two))
    model, found = rates(wrap(module=two, blocks='body.layers'))
    module = model.backbone.module
    assert [found[id(x.weight)] for x in (module.stem[0], *module.body.layers)] == [1 / 8, .25, .5]
    with pytest.raises(ValueError, match="TwoLists has no list of layers 'x'. Expected blocks to "
                                         r"be one of \['body.layers', 'stem'\]"):
        wrap(module=two, blocks='x')


def test_a_network_decides_its_own_depth_width_and_initialisation():
    model = wrap(module=dict(type='OwnDepth'))
    model.init_weights()
    assert model.module.is_filled and model.embed_dims == 5
    assert model.get_layer_depth('backbone.module.abc', 'backbone.') == (3, 9)


def test_a_frozen_network_gets_no_gradient_and_stays_in_evaluation_mode():
    model = wrap(**DICT, is_frozen=True).train()
    assert not any(m.training for m in model.modules())
    assert not any(p.requires_grad for p in model.parameters())
    assert wrap(**DICT).train().module.training


# -- weights


def file_of(tmp_path, prefix='', without=(), **more):
    state = {f'{prefix}{k}': v + 1 for k, v in wrap().module.state_dict().items()
             if k not in without}
    torch.save(dict(state_dict={**state, **more}, meta={}), tmp_path / 'x.pth')
    return dict(type='Pretrained', checkpoint=str(tmp_path / 'x.pth'))


@pytest.mark.parametrize('prefix', ['', 'backbone.module.'])
def test_a_file_fills_every_tensor_after_its_prefix(prefix, tmp_path):
    init = file_of(tmp_path, prefix, **{'head.fc.weight': torch.zeros(2, 2)})
    model = wrap(init_cfg=dict(init, prefix=prefix))
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    model.init_weights()
    assert all(v.equal(before[k] + 1) for k, v in model.module.state_dict().items())
    assert (model.load_report['matched'], model.load_report['left']) == (len(before), not prefix)


@pytest.mark.parametrize('changes, message', [
    (dict(without=('trunk.1.0.bias',)), 'trunk.1.0.bias: missing in the file.*Set init_cfg.prefix'),
    (dict(other=torch.zeros(3)), r'1 tensors differ .*other: \(3\) in the file, unknown'),
    (dict(prefix='net.'), '24 tensors differ.*the file has net.last.bias, net.last.weight, ')])
def test_a_file_that_does_not_fit_is_refused_and_loads_nothing(changes, message, tmp_path):
    model = wrap(init_cfg=file_of(tmp_path, **changes))
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    with pytest.raises(ValueError, match=f'(?s)x.pth does not fit Foreign: .*{message}'):
        model.init_weights()
    assert all(v.equal(before[k]) for k, v in model.module.state_dict().items())


@pytest.mark.parametrize('init_cfg', [dict(type='TruncNormal'), dict(type='Pretrained')])
def test_another_initialisation_is_refused(init_cfg):
    with pytest.raises(ValueError, match="expected dict\\(type='Pretrained', checkpoint=FILE\\)"):
        wrap(init_cfg=init_cfg).init_weights()
