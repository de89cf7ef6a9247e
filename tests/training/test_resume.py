"""Runs stopped after any iteration and resumed end in the bits of runs that were not."""
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from semmae.checkpoints.read import read_checkpoint
from semmae.config.conditions import changes
from semmae.datasets.seeded import SeededSampler
from semmae.training.loops import ResumableEpochLoop
from semmae.training.run import missing_of_compiler
from tests.reliability.resume import ITERS, Run, cases, forked, run

NAMES = [case.name for case in cases(quick=True, root='never written')]


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return tmp_path_factory.mktemp('resume')


@pytest.fixture(scope='module')
def by_name(root):
    return {case.name: case for case in cases(quick=True, root=root)}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ------------------------------------------------------------------ every way of being stopped
@pytest.mark.parametrize('name', NAMES)
def test_it_ends_in_the_same_bits(by_name, name):
    assert by_name[name].ours()


@pytest.mark.skipif(bool(missing_of_compiler()), reason='nothing here to compile with')
def test_a_compiled_run_does_so_too(root):
    run = Run(root, 'pretrain', compile=True, ema=True)
    assert run.survives(7)
    said = 'cannot resume: the run differs: compile: True -> absent'
    with pytest.raises(RuntimeError, match=said):
        run.resumed(7, compile=False)
    compiled, eager = (
        read_checkpoint(r.straight[0] / f'iter_{ITERS}.pth')['message_hub']['log_scalars'][
            'train/loss'].data[0] for r in (run, Run(root, 'pretrain', ema=True)))
    assert (compiled != eager).any()  # so something was compiled
    np.testing.assert_allclose(compiled, eager, rtol=1e-4)


@pytest.fixture(scope='module')
def finetune(root):
    return Run(root, 'finetune')


def test_stock_mmengine_does_not(root):
    stock = Run(root, 'finetune', stock=True)
    assert stock.repeats()  # the comparison is fair
    assert not stock.survives(7)


# ------------------------------------------------------------------ what it is that does it
def without(hook):
    def edit(cfg):
        cfg.custom_hooks = [h for h in cfg.custom_hooks if h.type != hook]
    return edit


@pytest.mark.parametrize('hook, how', [
    # Without workers the last sample of a batch would seed the step just as well.
    ('semmae.StepSeedHook', dict(task='finetune', workers=1)),
    ('semmae.RankStateHook', dict(task='finetune', accumulate=2)),
    ('semmae.RankStateHook', dict(task='linprobe', world=2))])
def test_without_the_hook_the_bits_differ(root, hook, how):
    assert not Run(root, edit=without(hook), **how).survives(7)


@pytest.mark.parametrize('task', ['finetune', 'upernet'])
def test_without_the_sampler_s_start_the_bits_differ(by_name, task, monkeypatch):
    case = by_name[f'{task}, 2 accumulated, stopped after 7']
    assert case.ours()
    monkeypatch.setattr(SeededSampler, 'skip', lambda *_: None)
    assert not case.ours()


# ------------------------------------------------------------------ what is refused
def loop(iteration, sampler):
    it = ResumableEpochLoop.__new__(ResumableEpochLoop)
    it._iter, it._epoch = iteration, 1
    it.dataloader = type('Loader', (), dict(
        __len__=lambda self: 5, sampler=sampler, batch_size=4))()
    it._runner = SimpleNamespace(logger=SimpleNamespace(info=print))
    return it


def test_a_checkpoint_of_another_epoch_length_is_refused():
    with pytest.raises(ValueError, match='after 11 iterations, in epoch 1, .* begins after 5 and '
                                         'has 5'):
        loop(11, None).skip(6)


def test_a_sampler_that_cannot_skip_is_refused_inside_an_epoch():
    with pytest.raises(ValueError, match='inside epoch 1, where object cannot start'):
        loop(7, object()).skip(2)


# ------------------------------------------------------------------ another number of processes
@pytest.fixture(scope='module')
def pair(root):
    """Pre-training on two processes, each with half of the batch."""
    return Run(root, 'pretrain', world=2)


def continue_on_one(pair, edit=None, **kwargs):
    one = Run(pair.root, 'pretrain', edit=edit)
    work = one.folder()
    (work / 'iter_7.pth').write_bytes((pair.straight[0] / 'iter_7.pth').read_bytes())
    run(one.config(), work, resume=True, **kwargs)
    return work


def test_another_number_of_processes_is_refused_unless_asked_for(pair):
    with pytest.raises(ValueError, match=r'world_size 2, now 1 \(.*--allow-elastic'):
        continue_on_one(pair)


def test_another_global_batch_is_refused_also_then(pair):
    def edit(cfg):
        cfg.train_dataloader.batch_size = 2
    with pytest.raises(ValueError, match='batch_size 4, now 2'):
        continue_on_one(pair, edit, allow_elastic=True)


def test_one_process_goes_on_where_two_were_with_the_same_batches(pair, root):
    """Weights, where rounding is all that differs, are those of one process from the start."""
    elastic = read_checkpoint(continue_on_one(pair, allow_elastic=True) / 'iter_15.pth')
    reference = read_checkpoint(Run(root, 'pretrain').straight[0] / 'iter_15.pth')
    start = read_checkpoint(pair.straight[0] / 'iter_7.pth')
    for name, value in reference['state_dict'].items():
        if name.endswith('qkv.bias'):
            continue  # those of the keys have gradient 0 but for rounding, which Adam enlarges
        found = elastic['state_dict'][name]
        torch.testing.assert_close(found, value, rtol=1e-3, atol=1e-5, msg=name)
        moved = (value - start['state_dict'][name]).abs().max()
        assert (found - value).abs().max() <= 0.02 * moved, name
    assert elastic['meta']['semmae_run']['world_size'] == 1


def test_gradients_of_an_unfinished_accumulation_go_on_as_their_mean(root):
    two, one = Run(root, 'finetune', world=2, accumulate=2), Run(root, 'finetune', accumulate=2)
    state = read_checkpoint(two.straight[0] / 'iter_7.pth')['rank_state']['gradients']
    assert all(len(value) == 2 for value in state.values())
    assert 'rank_state' not in read_checkpoint(one.straight[0] / 'iter_8.pth') or not \
        read_checkpoint(one.straight[0] / 'iter_8.pth')['rank_state']
    work = one.folder()
    (work / 'iter_7.pth').write_bytes((two.straight[0] / 'iter_7.pth').read_bytes())
    run(one.config(), work, resume=True, allow_elastic=True)
    assert (work / 'iter_15.pth').is_file()


def test_only_what_a_checkpoint_states_is_compared():
    now = dict(seed=0, world_size=2, data='a')
    assert changes(dict(seed=0), now) == []
    assert changes(dict(now, world_size=4), now, allow_elastic=True) == []
    assert changes(dict(now, data='b', world_size=4), now) == [
        'world_size 4, now 2', 'data b, now a']
    assert changes(dict(now, seed=1), now, allow_elastic=True) == ['seed 1, now 0']


def test_a_killed_child_is_told_from_one_that_failed(tmp_path):
    def fail():
        raise ValueError('a mistake')
    assert forked(fail, log=tmp_path / 'error') == [1]
    assert 'a mistake' in (tmp_path / 'error.0').read_text()
    assert forked(partial(print, ''), log=tmp_path / 'error') == [0]
