"""torch.compile of a model's parts, and fused AdamW: the losses and weights of eager training."""
import copy

import pytest
import torch
from mmengine.config import Config
from mmpretrain.structures import DataSample

from semmae.config.options import read_config
from semmae.registry import MODELS
from semmae.training.compile import compile_parts, take_compile

pytestmark = pytest.mark.slow

ARCH = dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=48)


@pytest.fixture
def semmae():
    torch.manual_seed(0)
    model = MODELS.build(dict(
        type='semmae.SemMAE',
        backbone=dict(type='semmae.ViT', arch=ARCH, img_size=32, patch_size=8,
                      is_pos_embed_fixed=True),
        decoder=dict(type='semmae.MAEDecoder', grid=4, patch_size=8, embed_dim=24,
                     decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2),
        masking=dict(type='semmae.PartGuidedMasking', num_parts=3, mask_ratio=0.75, gamma=2.)))
    model.backbone.init_weights()
    model.decoder.init_weights()
    return model


def batch(n, seed=1):
    g = torch.Generator().manual_seed(seed)
    return dict(inputs=torch.randn(n, 3, 32, 32, generator=g),
                part_ids=torch.randint(3, (n, 16), generator=g),
                noise=torch.rand(n, 19, generator=g))


def loss_of(model, data):
    return model(**data, mode='loss')['loss']


@pytest.fixture
def graphs():
    """(graphs that were compiled, a backend of torch.compile that collects and runs them)."""
    torch._dynamo.reset()
    seen = []

    def backend(graph, _):
        seen.append(graph)
        return graph.forward
    return seen, backend


def test_fused_adamw_is_adamw_on_a_cpu_and_continues_from_its_state(semmae):
    def train(model, optim, seeds):
        for seed in seeds:
            optim.zero_grad()
            loss_of(model, batch(4, seed)).backward()
            optim.step()
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    def new(model, fused):
        return torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=.05, fused=fused)
    plain, fused = copy.deepcopy(semmae), copy.deepcopy(semmae)
    optim = new(fused, True)
    train(fused, optim, [1, 2])
    resumed = copy.deepcopy(fused)
    other = new(resumed, True)
    other.load_state_dict(copy.deepcopy(optim.state_dict()))
    straight = train(fused, optim, [3, 4])
    assert train(resumed, other, [3, 4]).equal(straight)
    torch.testing.assert_close(train(plain, new(plain, False), [1, 2, 3, 4]), straight,
                               rtol=0, atol=1e-4)  # of 4 steps of 1e-3


def test_compiled_parts_give_the_same_loss_and_a_new_progress_compiles_nothing(semmae, graphs):
    eager, (seen, backend) = copy.deepcopy(semmae), graphs
    names = list(semmae.state_dict())
    compile_parts(semmae, dict(backend=backend))
    assert list(semmae.state_dict()) == names
    for step in range(4):
        semmae.progress = eager.progress = step / 4
        found, expected = (loss_of(m, batch(4, step)) for m in (semmae, eager))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
        found.backward()
        assert len(seen) == 1


def test_a_copy_of_a_compiled_model_computes_with_its_own_weights(semmae):
    compile_parts(semmae, dict(backend='eager'))
    other, data = copy.deepcopy(semmae), batch(2)
    before = loss_of(semmae, data)
    with torch.no_grad():
        other.decoder.decoder_pred.bias += 1
    assert loss_of(semmae, data) == before != loss_of(other, data)


@pytest.mark.parametrize('config, data', [
    ('mm_configs/mini/semmae_parts_mini.py', {}),
    ('mm_configs/mini/semmae_finetune_mini.py',
     dict(data_samples=[DataSample().set_gt_label(1) for _ in range(2)]))])
def test_encoder_and_decoder_of_other_models_are_one_graph_each(config, data, graphs):
    cfg, (seen, backend) = Config.fromfile(config).model, graphs
    cfg.get('backbone', {}).pop('init_cfg', None)
    model = MODELS.build(cfg).train()
    compile_parts(model, dict(backend=backend))
    for _ in range(2):
        losses = model(torch.randn(2, 3, 64, 64), mode='loss', **data)
    assert losses and len(seen) == sum(hasattr(model, k) for k in (
        'backbone', 'encoder', 'decoder'))


def test_compile_is_a_switch_or_options_and_old_work_directories_have_it_as_compiled():
    cfg = read_config('mm_configs/semmae_pretrain.py', {'compile': True})
    assert take_compile(cfg) is True and (cfg.compile, cfg.compiled) == (False, True)
    assert take_compile(cfg) is True  # as a config of a work directory has it
    assert take_compile(Config(dict(compile=False))) is False
    with pytest.raises(ValueError, match="compile is 'yes', expected True, False or a dict"):
        take_compile(Config(dict(compile='yes')))


def test_a_missing_compiler_is_an_error_before_the_first_step(semmae, monkeypatch):
    monkeypatch.setenv('CXX', 'no-compiler')
    for how in (True, dict(backend='inductor')):
        with pytest.raises(ValueError, match='on a CPU needs a C.* no-compiler is missing. '
                                             'Install it .* or leave compile out'):
            compile_parts(semmae, how)
    assert 'pixel_loss' not in vars(semmae)
