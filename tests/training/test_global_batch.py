"""The global batch: refused if it is not the recipe's, accumulated on request."""
import copy
import re
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper

from semmae import needs
from semmae.config.options import read_config
from semmae.config.resume import run_identity, schedule_of
from semmae.config.size import run_size, why_reduced
from semmae.suites.catalogue import MINI as SUITE
from semmae.suites.catalogue import PAPER
from semmae.suites.schedule import keeps_batch, plan
from semmae.training.global_batch import accumulate, nodes_of, require_batch
from semmae.training.run import train

from ..tiny import REPO
from .test_compile import batch, loss_of, semmae  # noqa: F401  a fixture

PRETRAIN = 'mm_configs/semmae_pretrain.py'
UPERNET = 'mm_configs/semmae_upernet_ade20k.py'


@pytest.fixture(scope='module')
def recipes():
    return {path: read_config(path) for path in (PRETRAIN, UPERNET)}


@pytest.fixture
def pretrain(recipes):
    return copy.deepcopy(recipes[PRETRAIN])


def accumulated(recipes, processes):
    cfg = copy.deepcopy(recipes[UPERNET])
    accumulate(cfg, processes)
    return cfg


# ------------------------------------------------------------------ refused, kept or accepted
def refused(cfg, processes, nodes=1):
    with pytest.raises(ValueError) as error:
        require_batch(cfg, processes, PRETRAIN, nodes=nodes)
    return str(error.value)


def test_a_pretraining_at_another_batch_is_refused_with_three_ways_out(pretrain):
    said = refused(pretrain, 32, nodes=2)
    assert 'would be 8192 = 256 images x 16 processes on each of 2 nodes' in said
    assert 'the recipe has 4096' in said
    assert 'start 8 processes on each node or set train_dataloader.batch_size=128' in said
    assert '--keep-batch with train_dataloader.batch_size=64, which accumulates 2 steps' in said
    assert '--accept-batch, which marks the results' in said


@pytest.mark.parametrize('processes', [1, 3, 6, 8, 12, 24, 32, 100])
def test_the_numbers_that_a_refusal_names_give_the_batch_of_the_recipe(pretrain, processes):
    said = refused(pretrain, processes)
    start = re.search(r'start (\d+) process', said)
    size = re.search(r'or set train_dataloader.batch_size=(\d+)', said)
    kept = re.search(r'--keep-batch with train_dataloader.batch_size=(\d+)', said)
    found = [256 * int(start[1])] + ([processes * int(size[1])] if size else [])
    assert set(found) == {4096}
    if 'number of processes that divides' not in said:
        if kept:
            pretrain.train_dataloader.batch_size = int(kept[1])
        assert accumulate(pretrain, processes).startswith('global batch 4096 ')


def test_the_recipes_own_batch_and_an_accepted_one_are_trained(pretrain):
    assert require_batch(pretrain, 16, PRETRAIN) == ''
    assert require_batch(pretrain, 32, PRETRAIN, accept=True) == ''
    pretrain.optim_wrapper.accumulative_counts = 2
    assert require_batch(pretrain, 8, PRETRAIN) == ''
    assert 'x 2 accumulated steps' in require_batch(pretrain, 8, PRETRAIN, keep=True)


def test_mini_configs_have_batches_of_their_own():
    for path in (REPO / 'mm_configs/mini').glob('*.py'):
        cfg = Config.fromfile(path)
        assert {require_batch(cfg, n, path) for n in (1, 3)} == {''}, path


@pytest.mark.slow
def test_each_full_size_recipe_starts_at_the_processes_of_its_docstring():
    checked = 0
    for path in [*(REPO / 'mm_configs').glob('*.py'), *(REPO / 'mm_configs/ablations').glob('*')]:
        cfg = Config.fromfile(path)
        started = re.search(r'dist_train.sh \S+ (\d+)( --keep-batch)?', needs.docstring(path))
        if cfg.get('recipe'):
            number, keep = (int(started[1]), bool(started[2])) if started else (1, False)
            assert bool(require_batch(cfg, number, path, keep)) == keep, path
            checked += 1
    assert checked > 20


def test_the_refusal_comes_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match='would be 256 = 256 images x 1 process, '):
        train(str(REPO / PRETRAIN), work_dir=tmp_path / 'work')
    assert not (tmp_path / 'work').exists()


def test_a_suite_accumulates_where_a_pretraining_would_be_refused(tmp_path):
    assert keeps_batch(str(REPO / PRETRAIN))
    assert not keeps_batch(str(REPO / 'mm_configs/mini/mae_p16_mini.py'))
    (run,) = plan(PAPER, tmp_path, ['mae_p16'])
    assert '--keep-batch' in run.command and run.steps == 16
    assert not [r for r in plan(SUITE, tmp_path) if '--keep-batch' in r.command]


def test_the_number_of_nodes_is_that_of_all_processes_over_those_of_this_node(monkeypatch):
    monkeypatch.delenv('LOCAL_WORLD_SIZE', raising=False)
    assert nodes_of(32) == 1
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '16')
    assert nodes_of(32) == 2


# ------------------------------------------------------------------ accumulation
@pytest.mark.parametrize('processes, steps', [(16, 1), (4, 4), (1, 16)])
def test_fewer_processes_accumulate_to_the_recipes_batch_and_say_so(pretrain, processes, steps):
    before = copy.deepcopy((pretrain.param_scheduler, pretrain.train_cfg))
    said = accumulate(pretrain, processes)
    assert said == f'global batch 4096 = 256 x {processes} processes x {steps} accumulated steps'
    assert pretrain.optim_wrapper.accumulative_counts == steps
    assert (pretrain.param_scheduler, pretrain.train_cfg) == before, 'epochs are epochs'


def test_lengths_in_iterations_grow_with_the_accumulated_steps(recipes):
    cfg = accumulated(recipes, 2)
    assert cfg.optim_wrapper.accumulative_counts == 4
    assert (cfg.train_cfg.max_iters, cfg.train_cfg.val_interval) == (640000, 64000)
    assert [(s.begin, s.end) for s in cfg.param_scheduler] == [(0, 6000), (6000, 640000)]
    assert cfg.default_hooks.checkpoint.interval == 64000
    runner = SimpleNamespace(cfg=cfg, model=torch.nn.Identity())
    assert run_size(runner)['iters'] == 160000, 'updates of the weights'


def test_schedules_under_accumulation_are_compared_in_updates(recipes):
    one, four = (schedule_of(accumulated(recipes, n)) for n in (1, 4))
    assert one == four == schedule_of(recipes[UPERNET]) and 'end=160000' in four[1]


def test_a_run_is_not_the_same_with_other_accumulation_length_or_schedule(recipes):
    def identity(cfg):
        return run_identity(SimpleNamespace(cfg=cfg, model=torch.nn.Identity(), seed=0))
    before = identity(accumulated(recipes, 8))
    assert identity(accumulated(recipes, 8)) == before
    assert identity(accumulated(recipes, 4)) != before
    for change in ({'train_cfg.max_iters': 8}, {'param_scheduler.1.power': 2.}):
        cfg = accumulated(recipes, 8)
        cfg.merge_from_dict(change)
        assert identity(cfg) != before


def test_batch_norm_sees_the_batch_of_a_process_however_much_is_accumulated(recipes):
    cfg = accumulated(recipes, 1)
    size = run_size(SimpleNamespace(cfg=cfg, model=torch.nn.Sequential(torch.nn.BatchNorm2d(2))))
    assert (size['batch_size'], size['norm_batch']) == (16, 2)
    assert '2 of 16 images in a batch norm' in why_reduced(cfg.result.full, size)


def test_training_over_several_processes_with_synchronised_norm_needs_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(ValueError, match='SyncBN.*needs GPUs.*python tools/train.py'):
        train(UPERNET, launcher='pytorch')


@pytest.mark.parametrize('processes, product', [(6, 1536), (32, 8192)])
def test_a_batch_that_does_not_divide_is_refused_with_the_numbers(pretrain, processes, product):
    with pytest.raises(ValueError, match=f'got 256 images x {processes} processes = {product}, '
                                         'expected a divisor of the global batch 4096'):
        accumulate(pretrain, processes)


def test_a_config_without_a_stated_batch_is_refused():
    with pytest.raises(ValueError, match='states no global batch'):
        accumulate(Config(dict(train_dataloader=dict(batch_size=2))), 2)


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


@pytest.mark.parametrize('rest', [[], [batch(4, seed=2)]])
def test_accumulated_halves_give_the_update_of_the_whole_batch_also_before_a_remainder(
        semmae, rest):  # noqa: F811
    whole = batch(8)
    halves = [{k: v[i:i + 4] for k, v in whole.items()} for i in (0, 4)]
    torch.testing.assert_close(updates(semmae, [*halves, *rest], accumulative_counts=2),
                               updates(semmae, [whole, *rest]), rtol=0, atol=1e-6)
