"""Errors, precision, global batch and compilation of a training, as tools/train.py has them."""
import copy
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmpretrain.structures import DataSample

from semmae.config.conditions import run_identity, run_size, schedule_of, why_reduced
from semmae.datasets.image_reading import DamagedImage
from semmae.registry import DATASETS, MODELS
from semmae.training import run as training

ARCH = dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=48)
PRETRAIN = 'mm_configs/semmae_pretrain.py'
UPERNET = 'mm_configs/semmae_upernet_ade20k.py'


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


def running(model):
    """A runner of the model, as far as compiling needs one."""
    return SimpleNamespace(model=model, logger=SimpleNamespace(info=print))


# ------------------------------------------------------------------ errors
def one_line(capsys, action):
    """What `fail_clearly` says of an error of ``action()``, without its hint."""
    with pytest.raises(SystemExit) as ended, training.fail_clearly():
        action()
    text, hint = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and 'SEMMAE_TRACEBACK' in hint
    return text


class Damaged(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        try:
            raise DamagedImage('a.jpg: the cause')
        except DamagedImage as error:
            raise DamagedImage('a.jpg cannot be decoded: ValueError: no image') from error


def test_an_error_of_a_worker_is_said_without_its_traceback(capsys):
    loader = torch.utils.data.DataLoader(Damaged(), num_workers=1)
    assert one_line(capsys, lambda: next(iter(loader))) == (
        'DamagedImage: a.jpg cannot be decoded: ValueError: no image')


def test_a_folder_without_classes_and_images_is_a_mistake_of_the_user(capsys, tmp_path):
    def build():
        DATASETS.build(dict(type='mmpretrain.CustomDataset', data_root=str(tmp_path)))
    assert one_line(capsys, build).startswith('RuntimeError: Found 0 files in subfolders of')
    with pytest.raises(RuntimeError, match='of our own'), training.fail_clearly():
        raise RuntimeError('of our own')


# ------------------------------------------------------------------ mixed precision
@pytest.mark.parametrize('dtype, tolerance', [(torch.bfloat16, 2e-2), (torch.float16, 2e-3)])
def test_a_step_in_half_precision_has_the_loss_and_the_direction_of_float32(
        semmae, dtype, tolerance):
    expected = loss_of(semmae, batch(8))
    expected.backward()
    exact = torch.cat([p.grad.flatten() for p in semmae.parameters() if p.grad is not None])
    semmae.zero_grad()
    with torch.autocast('cpu', dtype):
        found = loss_of(semmae, batch(8))
    found.backward()
    near = torch.cat([p.grad.flatten() for p in semmae.parameters() if p.grad is not None])
    assert abs(found.item() / expected.item() - 1) < tolerance
    assert near.isfinite().all()
    assert torch.cosine_similarity(near, exact, 0) > 0.99


def resolved(monkeypatch, **options):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    cfg = training.read_config(PRETRAIN, {f'optim_wrapper.{k}': v for k, v in options.items()})
    return training.mixed_precision(cfg.optim_wrapper, asked=False)


def test_bfloat16_has_no_loss_scaling_and_float16_a_dynamic_one_when_asked(monkeypatch):
    plain = resolved(monkeypatch)
    assert (plain['type'], plain['dtype'], plain['loss_scale']) == (
        'AmpOptimWrapper', 'bfloat16', 1.0)
    half = resolved(monkeypatch, dtype='float16', loss_scale='dynamic')
    assert (half['type'], half['dtype'], half['loss_scale']) == (
        'AmpOptimWrapper', 'float16', 'dynamic')


@pytest.mark.parametrize('options, said', [
    (dict(dtype='fp16'), "dtype is 'fp16', expected bfloat16 or float16"),
    (dict(dtype='float16'), 'loss_scale is 1 with float16.*expected .*loss_scale=dynamic')])
def test_a_precision_that_cannot_train_is_refused(monkeypatch, options, said):
    with pytest.raises(ValueError, match=said):
        resolved(monkeypatch, **options)


# ------------------------------------------------------------------ global batch
@pytest.mark.parametrize('processes, steps', [(16, 1), (4, 4), (1, 16)])
def test_fewer_processes_accumulate_to_the_recipes_batch_and_say_so(processes, steps):
    cfg = training.read_config(PRETRAIN)
    before = copy.deepcopy((cfg.param_scheduler, cfg.train_cfg))
    said = training.accumulate(cfg, processes)
    assert said == f'global batch 4096 = 256 x {processes} processes x {steps} accumulated steps'
    assert cfg.optim_wrapper.accumulative_counts == steps
    assert (cfg.param_scheduler, cfg.train_cfg) == before, 'epochs are epochs'


def test_lengths_in_iterations_grow_with_the_accumulated_steps():
    cfg = training.read_config(UPERNET)
    training.accumulate(cfg, 2)
    assert cfg.optim_wrapper.accumulative_counts == 4
    assert (cfg.train_cfg.max_iters, cfg.train_cfg.val_interval) == (640000, 64000)
    assert [(s.begin, s.end) for s in cfg.param_scheduler] == [(0, 6000), (6000, 640000)]
    assert cfg.default_hooks.checkpoint.interval == 64000
    runner = SimpleNamespace(cfg=cfg, model=torch.nn.Identity())
    assert run_size(runner)['iters'] == 160000, 'updates of the weights'


def accumulated(processes):
    cfg = training.read_config(UPERNET)
    training.accumulate(cfg, processes)
    return cfg


def test_schedules_under_accumulation_are_compared_in_updates():
    assert schedule_of(accumulated(1)) == schedule_of(accumulated(4)) == schedule_of(
        training.read_config(UPERNET))
    assert 'end=160000' in schedule_of(accumulated(4))[1]


def test_a_run_is_not_the_same_with_other_accumulation_length_or_schedule():
    def identity(cfg):
        return run_identity(SimpleNamespace(cfg=cfg, model=torch.nn.Identity(), seed=0))
    before = identity(accumulated(8))
    assert identity(accumulated(8)) == before
    assert identity(accumulated(4)) != before
    for change in ({'train_cfg.max_iters': 8}, {'param_scheduler.1.power': 2.}):
        cfg = accumulated(8)
        cfg.merge_from_dict(change)
        assert identity(cfg) != before


def test_batch_norm_sees_the_batch_of_a_process_however_much_is_accumulated():
    cfg = accumulated(1)
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(2))
    size = run_size(SimpleNamespace(cfg=cfg, model=model))
    assert (size['batch_size'], size['norm_batch']) == (16, 2)
    assert '2 of 16 images in a batch norm' in why_reduced(cfg.result.full, size)


def test_training_over_several_processes_with_synchronised_norm_needs_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(torch.distributed, 'is_initialized', lambda: True)
    with pytest.raises(ValueError, match='SyncBN.*needs GPUs.*python tools/train.py'):
        training.train(UPERNET, launcher='pytorch')


def test_a_batch_that_does_not_divide_is_refused_with_the_numbers():
    with pytest.raises(ValueError, match='found 256 images x 6 processes = 1536, expected a '
                                         'divisor of the global batch 4096'):
        training.accumulate(training.read_config(PRETRAIN), 6)
    with pytest.raises(ValueError, match='found 256 images x 32 processes = 8192'):
        training.accumulate(training.read_config(PRETRAIN), 32)


def test_a_config_without_a_stated_batch_is_refused():
    with pytest.raises(ValueError, match='states no global batch'):
        training.accumulate(Config(dict(train_dataloader=dict(batch_size=2))), 2)


def updates(model, batches, **wrapper):
    """Parameters after SGD steps of rate 1, all in one tensor."""
    model = copy.deepcopy(model)
    optim = OptimWrapper(torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.),
                         **wrapper)
    optim.initialize_count_status(model, 0, len(batches))
    for data in batches:
        with optim.optim_context(model):
            loss = loss_of(model, data)
        optim.update_params(loss)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_two_accumulated_halves_give_the_gradient_of_the_whole_batch(semmae):
    whole = batch(8)
    halves = [{k: v[i:i + 4] for k, v in whole.items()} for i in (0, 4)]
    torch.testing.assert_close(updates(semmae, halves, accumulative_counts=2),
                               updates(semmae, [whole]), rtol=0, atol=1e-6)


def test_a_remainder_at_the_end_is_averaged_over_what_it_holds(semmae):
    whole, rest = batch(8), batch(4, seed=2)
    halves = [{k: v[i:i + 4] for k, v in whole.items()} for i in (0, 4)]
    torch.testing.assert_close(updates(semmae, [*halves, rest], accumulative_counts=2),
                               updates(semmae, [whole, rest]), rtol=0, atol=1e-6)


# ------------------------------------------------------------------ fused AdamW, compilation
def test_fused_adamw_is_adamw_on_a_cpu_and_goes_on_from_its_state(semmae):
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


def test_compiled_parts_give_the_same_loss_and_a_new_progress_compiles_nothing(semmae):
    torch._dynamo.reset()
    eager, seen = copy.deepcopy(semmae), []

    def backend(graph, _):
        seen.append(graph)
        return graph.forward
    names = list(semmae.state_dict())
    training.compile_parts(running(semmae), dict(backend=backend))
    assert list(semmae.state_dict()) == names
    counts = []
    for step in range(4):
        semmae.progress = eager.progress = step / 4
        found, expected = (loss_of(m, batch(4, step)) for m in (semmae, eager))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
        found.backward()
        counts.append(len(seen))
    assert counts == [1] * 4  # one graph


def test_a_copy_of_a_compiled_model_computes_with_its_own_weights(semmae):
    training.compile_parts(running(semmae), dict(backend='eager'))
    other, data = copy.deepcopy(semmae), batch(2)
    before = loss_of(semmae, data)
    with torch.no_grad():
        other.decoder.decoder_pred.bias += 1
    assert loss_of(semmae, data) == before != loss_of(other, data)


@pytest.mark.parametrize('config, data', [
    ('mm_configs/mini/semmae_parts_mini.py', {}),
    ('mm_configs/mini/semmae_finetune_mini.py',
     dict(data_samples=[DataSample().set_gt_label(1) for _ in range(2)]))])
def test_encoder_and_decoder_of_other_models_are_one_graph_each(config, data):
    torch._dynamo.reset()
    cfg, seen = Config.fromfile(config).model, []
    cfg.get('backbone', {}).pop('init_cfg', None)
    model = MODELS.build(cfg).train()

    def backend(graph, _):
        seen.append(graph)
        return graph.forward
    training.compile_parts(running(model), dict(backend=backend))
    for _ in range(2):
        losses = model(torch.randn(2, 3, 64, 64), mode='loss', **data)
    assert losses and len(seen) == sum(hasattr(model, k) for k in (
        'backbone', 'encoder', 'decoder'))


def test_compile_takes_a_switch_or_options(semmae):
    assert training.read_config(PRETRAIN, {'compile': True}).compile is True
    with pytest.raises(ValueError, match="compile is 'yes', expected True, False or a dict"):
        training.compile_parts(running(semmae), 'yes')


def test_what_a_compiler_lacks_is_said_before_the_first_step(semmae, monkeypatch):
    monkeypatch.setenv('CXX', 'no-compiler')
    with pytest.raises(ValueError, match='compile=True on a CPU needs .* found no no-compiler: '
                                         'install it .* or leave compile out'):
        training.compile_parts(running(semmae), True)
    with pytest.raises(ValueError, match='needs a C'):
        training.compile_parts(running(semmae), dict(backend='inductor'))
    assert 'pixel_loss' not in vars(semmae)
