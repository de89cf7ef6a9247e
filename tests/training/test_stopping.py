"""A training that is told to end ends well, a broken one stops, and none shares its folder."""
import contextlib
import multiprocessing
import os
import signal
import socket
import threading
import time

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.runner import runner as mmengine_runner
from torch.utils.data import DataLoader

from semmae.checkpoints import load
from semmae.checkpoints.folder import is_first_process, latest
from semmae.checkpoints.read import read_checkpoint
from semmae.checkpoints.write import Digesting, write_checkpoint
from semmae.registry import DATASETS, OPTIM_WRAPPERS
from semmae.training import run as training
from semmae.training import stopping
from semmae.training.stopping import FiniteHook, LeavesSignals, only_run, trained_by

from ..tiny import REPO, VALIDATION, TinyData, TinyModel, config, fork, start, trained, wait
from .test_checkpointing import equal, names, with_digests


def told(*signals, after, mode='loss', group=False, wait=0.):
    """For a child: it gets the signals in that forward of a step, or of a validation.

    group: so do the workers of its data loaders, and not from itself. wait: seconds later.
    """
    def tell():
        for number in signals:
            if group:
                os.system(f'kill -{number:d} -{os.getpgrp()}')
            else:
                os.kill(os.getpid(), number)

    def before():
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup has these tests ignore it
        if group:
            signal.alarm(60)  # without its workers it might wait for ever
            os.setpgrp()
        forward, count = TinyModel.forward, 0

        def counting(self, inputs, mode='tensor'):
            nonlocal count
            count += mode == wanted
            if mode == wanted and count == after:
                threading.Timer(wait, tell).start() if wait else tell()
            return forward(self, inputs, mode)
        wanted = mode
        TinyModel.forward = counting
    return before


@DATASETS.register_module(force=True)
class TinySlow(TinyData):
    """A batch of two takes longer to read than a step."""

    def __getitem__(self, index):
        time.sleep(.2)
        return super().__getitem__(index)


SLOW_DATA = '''
train_dataloader.update(num_workers=1)
train_dataloader['dataset']['dataset'].update(type='semmae.TinySlow')
'''


def together(folder, path, *befores, **kwargs):
    """The exit codes of the processes of one training; each calls its own of ``befores`` first."""
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = str(s.getsockname()[1])

    def ranked(rank, before):
        signal.alarm(60)  # they wait for each other
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(len(befores)),
                          MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
        before()
    children = [start(folder, path, lambda rank=rank, before=before: ranked(rank, before),
                      said=f'said{rank}.txt', launcher='pytorch', **kwargs)
                for rank, before in enumerate(befores)]
    return [wait(child) for child in children]


# ------------------------------------------------------------------ signals
@pytest.mark.parametrize('number, code', [
    (signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 143), (signal.SIGHUP, 129)])
def test_it_finishes_the_step_saves_and_goes_on_to_the_same_bits(tmp_path, whole, number, code):
    path = config(tmp_path)
    assert trained(tmp_path, path, told(number, after=9))[0] == code
    assert names(tmp_path / 'work') == with_digests('epoch_1', 'iter_9')
    again, said = trained(tmp_path, path, resume=True)
    assert again == 0, said
    assert names(tmp_path / 'work') == with_digests('epoch_1', 'epoch_2', 'epoch_3')
    assert equal(tmp_path / 'work/epoch_3.pth', whole / 'epoch_3.pth')


def test_without_the_hook_the_work_since_the_last_checkpoint_is_lost(tmp_path):
    path = config(tmp_path, 'custom_hooks = []')
    assert trained(tmp_path, path, told(signal.SIGTERM, after=9))[0] == -signal.SIGTERM
    assert names(tmp_path / 'work') == with_digests('epoch_1')


def test_the_last_step_of_an_epoch_is_saved_before_the_epoch_ends(tmp_path, whole):
    path = config(tmp_path)
    assert trained(tmp_path, path, told(signal.SIGTERM, after=12))[0] == 143
    assert latest(tmp_path / 'work').name == 'iter_12.pth'
    code, said = trained(tmp_path, path, resume=True)
    assert code == 0, said
    assert equal(tmp_path / 'work/epoch_3.pth', whole / 'epoch_3.pth')


@pytest.mark.parametrize('grace, saved', [
    (stopping.GRACE, ['epoch_1', 'iter_9']), (0, ['epoch_1'])])
def test_a_second_signal_exits_at_once_but_not_one_that_comes_with_the_first(
        tmp_path, grace, saved):
    """Ctrl-C at a suite is SIGINT from the terminal and then SIGTERM from the suite."""
    def before():
        stopping.GRACE = grace
        told(signal.SIGINT, signal.SIGTERM, after=9)()
    assert trained(tmp_path, config(tmp_path), before)[0] == 130
    assert names(tmp_path / 'work') == with_digests(*saved)


def test_under_nohup_the_end_of_the_terminal_is_ignored_still(tmp_path):
    def before():
        told(signal.SIGHUP, after=9)()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert trained(tmp_path, config(tmp_path), before)[0] == 0


def test_a_signal_in_a_save_lets_it_end_and_saves_nothing_twice(tmp_path):
    def in_a_save():
        write = Digesting.write

        def told(self, data):
            Digesting.write = write
            os.kill(os.getpid(), signal.SIGTERM)
            return write(self, data)
        Digesting.write = told
    assert trained(tmp_path, config(tmp_path), in_a_save)[0] == 143
    assert names(tmp_path / 'work') == with_digests('epoch_1')


@pytest.mark.parametrize('workers', [0, 1])
def test_a_validation_ends_after_its_batch_without_another_save(tmp_path, workers):
    path = config(tmp_path, VALIDATION, f'val_dataloader.update(num_workers={workers})')
    code, said = trained(tmp_path, path, told(signal.SIGTERM, after=2, mode='predict', group=True))
    assert code == 143, said
    assert names(tmp_path / 'work') == with_digests('epoch_1')


def test_a_validation_of_weights_that_are_not_saved_saves_them(tmp_path):
    path = config(tmp_path, VALIDATION, "default_hooks['checkpoint'].update(interval=2)")
    assert trained(tmp_path, path, told(signal.SIGTERM, after=2, mode='predict'))[0] == 143
    assert names(tmp_path / 'work') == with_digests('iter_6')


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGUSR1])
def test_workers_that_get_the_signal_too_go_on_reading(tmp_path, whole, number):
    path = config(tmp_path, 'train_dataloader.update(num_workers=1)')
    code, said = trained(tmp_path, path, told(number, after=9, group=True))
    assert code == 143, said
    assert latest(tmp_path / 'work').name == 'iter_9.pth'
    code, said = trained(tmp_path, path, resume=True)
    assert code == 0, said
    assert equal(tmp_path / 'work/epoch_3.pth', whole / 'epoch_3.pth')


def test_workers_end_with_their_process(tmp_path):
    """Python tells those that are left when it exits, and waits for them."""
    def left_behind():
        before = {*multiprocessing.active_children()}  # of tests before this one
        data = DataLoader(range(8), num_workers=1, persistent_workers=True,
                          worker_init_fn=LeavesSignals())
        list(data)
        [worker] = {*multiprocessing.active_children()} - before
        signal.alarm(20)
        worker.terminate()
        worker.join()
        print('it ended with', worker.exitcode)
    code = wait(fork(left_behind, tmp_path / 'said.txt'))
    said = (tmp_path / 'said.txt').read_text()
    assert code == 0 and 'it ended with 0' in said, said


@pytest.mark.parametrize('processes', [1, 2])
def test_a_run_that_waits_for_a_batch_gets_it_although_the_workers_were_told(tmp_path, processes):
    """What torchrun and scancel do: a signal to the whole group."""
    path = config(tmp_path, SLOW_DATA)
    befores = [told(signal.SIGTERM, after=2, group=True, wait=.1)] * processes
    if processes == 1:
        codes = [trained(tmp_path, path, *befores)[0]]
    else:
        codes = together(tmp_path, path, *befores)
    assert codes == [143] * processes, [p.read_text() for p in tmp_path.glob('said*')]
    assert names(tmp_path / 'work') == with_digests('iter_3')


@pytest.mark.parametrize('by_epoch', [True, False])
def test_all_processes_stop_where_one_was_told_to(tmp_path, by_epoch):
    """In an unfinished accumulation, whose gradients all of them put into the checkpoint."""
    path = config(tmp_path, 'optim_wrapper.update(accumulative_counts=4)', *(
        [] if by_epoch else ["default_hooks['checkpoint'].update(by_epoch=False, interval=100)"]))
    codes = together(tmp_path, path, lambda: None, told(signal.SIGUSR1, after=2))
    assert codes == [143, 143], (tmp_path / 'said0.txt').read_text()
    content = read_checkpoint(latest(tmp_path / 'work'))
    assert content['meta']['iter'] == 2
    assert len(content['rank_state']['gradients']['first.weight']) == 2


def test_all_processes_are_there_until_the_checkpoint_is_written(tmp_path):
    """A launcher kills the others when the first of them has ended."""
    def slow_to_write():
        write = write_checkpoint

        def writing(*args, **kwargs):
            time.sleep(2)
            write(*args, **kwargs)
            (tmp_path / 'written').write_text(str(time.time()))
        mmengine_runner.save_checkpoint = writing
        told(signal.SIGTERM, after=2)()

    def watched():
        leave = os._exit

        def leaving(code):
            (tmp_path / 'left').write_text(str(time.time()))
            leave(code)
        os._exit = leaving
    assert together(tmp_path, config(tmp_path), slow_to_write, watched) == [143, 143]
    assert float((tmp_path / 'left').read_text()) > float((tmp_path / 'written').read_text())


def test_processes_that_would_go_on_from_different_checkpoints_are_stopped(tmp_path):
    path = config(tmp_path, 'train_cfg.update(max_epochs=2)')
    assert trained(tmp_path, path)[0] == 0

    def with_an_old_view():
        training.latest = lambda *_: tmp_path / 'work/epoch_1.pth'
    path = config(tmp_path)
    assert together(tmp_path, path, lambda: None, with_an_old_view, resume=True) == [2, 2]
    for rank in range(2):
        assert 'process 0 begins after 12 iterations and process 1 after 6' in (
            tmp_path / f'said{rank}.txt').read_text()


# ------------------------------------------------------------------ one run per work directory
def test_a_second_run_in_a_folder_is_told_who_has_it(tmp_path):
    path, lock = config(tmp_path, 'model.update(pause=60)'), tmp_path / 'work/.lock.holder'
    first = start(tmp_path, path)
    try:
        deadline = time.time() + 60
        while not (lock.is_file() and lock.read_text()) and time.time() < deadline:
            time.sleep(.02)
        begun = time.time()
        second = start(tmp_path, path, said='second.txt')
        assert wait(second) == 2
        assert time.time() - begun < 5
        assert f'is in use by process {first} on {socket.gethostname()}' in (
            tmp_path / 'second.txt').read_text()
        assert not names(tmp_path / 'work')
        assert trained_by(tmp_path / 'work') == f'process {first} on {socket.gethostname()}'
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(first, signal.SIGKILL)
    assert wait(first) == -signal.SIGKILL
    assert trained_by(tmp_path / 'work') == ''
    with only_run(tmp_path / 'work'):  # what a killed holder leaves is no lock
        assert lock.read_text() == f'process {os.getpid()} on {socket.gethostname()}'


def test_a_new_start_where_a_run_has_saved_is_refused(tmp_path):
    path = config(tmp_path, 'train_cfg.update(max_epochs=2)')
    assert trained(tmp_path, path)[0] == 0
    before = {p.name: p.read_bytes() for p in (tmp_path / 'work').glob('*.pth*')}
    code, said = trained(tmp_path, path)
    assert code == 2 and 'has checkpoints of a run (epoch_2.pth), expected none' in said
    assert '--resume' in said and '--work-dir' in said and 'Traceback' not in said
    assert before == {p.name: p.read_bytes() for p in (tmp_path / 'work').glob('*.pth*')}
    assert trained(tmp_path, path, resume=True)[0] == 0


def test_without_a_launcher_each_process_is_a_run_of_its_own(tmp_path, monkeypatch):
    """As under ``srun -n 4 python tools/train.py ...``, which numbers them."""
    monkeypatch.setenv('SLURM_PROCID', '3')
    monkeypatch.setenv('RANK', '1')
    monkeypatch.setattr(stopping, 'PATIENCE', 0)
    assert [is_first_process(launcher) for launcher in ('none', 'slurm', 'pytorch')] == [
        True, False, False]
    with only_run(tmp_path), only_run(tmp_path, 'slurm'):
        with pytest.raises(ValueError, match='is in use by process'), only_run(tmp_path):
            pass


def test_a_test_beside_a_training_says_so_and_reads_its_checkpoint_once(tmp_path, whole):
    path, work = config(tmp_path, VALIDATION.replace('val_', 'test_')), tmp_path / 'work'

    def tested():
        Config.pretty_text, reads = '', []
        for module in (training, load):
            module.read_checkpoint = lambda file: reads.append(file) or read_checkpoint(file)
        metrics = training.test(path, whole / 'epoch_3.pth', work_dir=work)
        print(metrics, len(reads), 'reads')
    with only_run(work):
        code = wait(fork(tested, tmp_path / 'said.txt'))
    said = (tmp_path / 'said.txt').read_text()
    assert code == 0 and f'is in use by process {os.getpid()}' in said, said
    assert "'score'" in said and ' 1 reads' in said, said


# ------------------------------------------------------------------ numbers that are none
@pytest.mark.parametrize('broken, more, said', [
    ('nan_loss=8', (), 'loss loss_other is NaN or infinite in iteration 8, epoch 2'),
    ('nan_gradient=8', (), 'gradient of first.weight is NaN or infinite in iteration 8, epoch 2'),
    ('nan_gradient=8', ('optim_wrapper.update(clip_grad=dict(max_norm=1.))',),
     'gradient of first.weight is NaN or infinite in iteration 8, epoch 2')])
def test_it_stops_before_the_step_and_saves_nothing_of_it(tmp_path, broken, more, said):
    path = config(tmp_path, f'model.update({broken})', *more)
    code, printed = trained(tmp_path, path, lambda: forbid_steps(8))
    assert code == 2 and said in printed and 'Traceback' not in printed, printed
    assert names(tmp_path / 'work') == with_digests('epoch_1')


def forbid_steps(number):
    """The optimiser must not get to that step."""
    step, count = torch.optim.AdamW.step, 0

    def counting(self, *args, **kwargs):
        nonlocal count
        count += 1
        assert count < number
        return step(self, *args, **kwargs)
    torch.optim.AdamW.step = counting


@pytest.mark.parametrize('broken', ['nan_loss=8', 'nan_gradient=8'])
def test_without_the_hook_it_trains_on_and_saves_what_is_none(tmp_path, broken):
    path = config(tmp_path, f'model.update({broken})', 'custom_hooks = []')
    code, said = trained(tmp_path, path)
    assert code == 0, said
    weight = read_checkpoint(tmp_path / 'work/epoch_3.pth')['state_dict']['first.weight']
    assert weight.isnan().all()


@OPTIM_WRAPPERS.register_module(force=True)
class TinyScaled(OptimWrapper):
    """mmengine's AmpOptimWrapper, which needs a GPU, in what the hook sees of it."""

    def __init__(self, dtype, **kwargs):
        super().__init__(**kwargs)
        self.cast_dtype, self.loss_scaler = getattr(torch, dtype), torch.amp.GradScaler(
            'cpu', init_scale=4.)

    def backward(self, loss, **kwargs):
        self.loss_scaler.scale(loss).backward()
        self._inner_count += 1

    def step(self, **kwargs):
        self.loss_scaler.step(self.optimizer)
        self.loss_scaler.update()

    def state_dict(self):
        return self.optimizer.state_dict()


def scaled(dtype, fused):
    return (f"optim_wrapper.update(type='semmae.TinyScaled', dtype='{dtype}')\n"
            f"optim_wrapper['optimizer'].update(fused={fused})")


@pytest.mark.parametrize('fused', [False, True])
@pytest.mark.parametrize('dtype, ends', [('float16', 0), ('bfloat16', 2)])
def test_only_loss_scaling_of_float16_may_leave_a_step_out(tmp_path, dtype, ends, fused):
    """A fused optimiser is asked for its step all the same, and leaves it out by itself."""
    path = config(tmp_path, 'model.update(nan_gradient=8)', scaled(dtype, fused))
    code, said = trained(tmp_path, path)
    assert code == ends, said
    assert ends == 0 or 'gradient of first.weight is NaN or infinite in iteration 8' in said


def ask_later():
    """As on a GPU."""
    FiniteHook.waits = staticmethod(lambda broken: True)


@pytest.mark.parametrize('broken, more, named', [
    # Of weights that are none by then, every loss is.
    ('nan_loss=8', '', 'loss loss_good, loss_other'),
    ('nan_gradient=8', '', 'loss loss_good, loss_other'),
    ('nan_gradient=8', scaled('bfloat16', True), 'gradient of a parameter')])
def test_what_is_asked_later_is_asked_before_a_checkpoint(tmp_path, broken, more, named):
    path = config(tmp_path, f'model.update({broken})', more)
    code, said = trained(tmp_path, path, ask_later)
    assert code == 2 and f'{named} is NaN or infinite in iteration 13, epoch 2 or b' in said, said
    assert names(tmp_path / 'work') == with_digests('epoch_1')


def test_it_is_asked_at_the_interval_also_where_epochs_are_no_multiple_of_it(tmp_path):
    """Epochs of 6 iterations, asked after 4, 8 and 12."""
    path = config(tmp_path, 'model.update(nan_loss=7)', 'custom_hooks[2].update(interval=4)')
    code, said = trained(tmp_path, path, ask_later)
    assert code == 2 and 'is NaN or infinite in iteration 8, epoch 2 or before' in said, said


def test_every_shipped_training_has_both_hooks():
    for path in (REPO / 'mm_configs').rglob('*.py'):
        cfg = Config.fromfile(path) if '_base_' not in path.parts else {}
        if cfg.get('train_cfg'):
            kinds = {hook.type for hook in cfg.custom_hooks}
            assert {'semmae.FiniteHook', 'semmae.StopHook'} <= kinds, path
            assert cfg.default_hooks.checkpoint.type == 'semmae.CheckpointHook', path
