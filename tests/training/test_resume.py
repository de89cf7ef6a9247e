"""A run that is stopped after any iteration and resumed ends bit-identical to one that is not."""
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from semmae.checkpoints.read import read_checkpoint
from semmae.config.resume import changes
from semmae.datasets.seeded import SeededSampler
from semmae.training.compile import missing_of_compiler
from semmae.training.loops import ResumableEpochLoop
from tests.reliability.resume import ITERS, Run, cases, forked, run

pytestmark = pytest.mark.slow

# Of the points within an epoch one for each task, of those at the end of an epoch the longest loop
# of each kind, of the orders one for each kind of sampler.
LEFT_OUT = ('stopped after 11', 'stopped after 12', 'stopped after 13', 'stopped after 14',
            'pretrain, stopped after 5', 'parts, stopped after 5', 'linprobe, stopped after 5',
            'parts, every', 'finetune, every', 'linprobe, every')
NAMES = [case.name for case in cases(quick=True, root='never written')
         if not any(words in case.name for words in LEFT_OUT)]


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


@pytest.mark.parametrize('name', NAMES)
def test_a_stopped_and_resumed_run_is_bit_identical(by_name, name):
    assert by_name[name].ours()


@pytest.mark.parametrize('how', [dict(backend='aot_eager'), pytest.param(True, marks=[
    pytest.mark.slow, pytest.mark.skipif(bool(missing_of_compiler()), reason='no C++ compiler')])])
def test_a_compiled_run_is_bit_identical_too_and_not_continued_without_compile(root, how):
    run = Run(root, 'pretrain', compile=how, ema=True)
    assert run.survives(7)
    with pytest.raises(RuntimeError, match='the run differs: compile.* -> absent'):
        run.resumed(7, compile=False)
    compiled, eager = (
        read_checkpoint(r.straight[0] / f'iter_{ITERS}.pth')['message_hub']['log_scalars'][
            'train/loss'].data[0] for r in (run, Run(root, 'pretrain', ema=True)))
    np.testing.assert_allclose(compiled, eager, rtol=1e-4)
    assert how is not True or (compiled != eager).any()  # so inductor was used
    unknown = Run(root, 'pretrain', compile=dict(backend='no_such_backend'))
    with pytest.raises(RuntimeError, match='no_such_backend'):  # so the option is used
        unknown.start(unknown.config(), unknown.folder())


def test_stock_mmengine_is_not_bit_identical(root):
    stock = Run(root, 'finetune', stock=True)
    assert stock.repeats()  # the comparison is fair
    assert not stock.survives(7)


# ------------------------------------------------------------------ what makes it so
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
def test_without_the_start_inside_an_epoch_the_bits_differ(by_name, task, monkeypatch):
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


def test_one_process_continues_a_run_of_two_with_the_same_batches(pair, root):
    """Up to rounding, the weights are those of one process from the start."""
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


def test_one_process_continues_with_the_mean_of_the_accumulated_gradients_of_two(root):
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


def test_a_killed_child_differs_from_one_that_failed(tmp_path):
    def fail():
        raise ValueError('a mistake')
    assert forked(fail, log=tmp_path / 'error') == [1]
    assert 'a mistake' in (tmp_path / 'error.0').read_text()
    assert forked(partial(print, ''), log=tmp_path / 'error') == [0]
