"""A signal: the training finishes its step, saves a checkpoint and ends."""
import multiprocessing
import os
import signal
import socket
import threading
import time

import pytest
from mmengine.runner import runner as mmengine_runner
from torch.utils.data import DataLoader

from semmae.checkpoints.folder import latest
from semmae.checkpoints.read import read_checkpoint
from semmae.checkpoints.write import Digesting, write_checkpoint
from semmae.registry import DATASETS
from semmae.training import resume, stopping
from semmae.training.stopping import LeavesSignals

from ..tiny import VALIDATION, TinyData, TinyModel, config, fork, start, trained, wait
from .test_checkpointing import equal, names, with_digests


def told(*signals, after, mode='loss', group=False, wait=0.):
    """Called in a child: it gets the signals in the forward ``after`` of a step or a validation.

    group: the workers of its data loaders get them too, from another process. wait: seconds later.
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
            signal.alarm(60)  # without its workers it might wait forever
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
@pytest.mark.slow
@pytest.mark.parametrize('number, code', [
    (signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 143), (signal.SIGHUP, 129)])
def test_a_signal_saves_after_the_step_and_the_resumed_run_is_bit_identical(
        tmp_path, whole, number, code):
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


def test_under_nohup_sighup_is_ignored(tmp_path):
    def before():
        told(signal.SIGHUP, after=9)()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert trained(tmp_path, config(tmp_path), before)[0] == 0


def test_a_signal_in_a_save_lets_it_finish_and_saves_nothing_twice(tmp_path):
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
def test_a_signal_in_a_validation_ends_it_after_its_batch_without_another_save(tmp_path, workers):
    path = config(tmp_path, VALIDATION, f'val_dataloader.update(num_workers={workers})')
    code, said = trained(tmp_path, path, told(signal.SIGTERM, after=2, mode='predict', group=True))
    assert code == 143, said
    assert names(tmp_path / 'work') == with_digests('epoch_1')


def test_a_signal_in_a_validation_of_unsaved_weights_saves_them(tmp_path):
    path = config(tmp_path, VALIDATION, "default_hooks['checkpoint'].update(interval=2)")
    assert trained(tmp_path, path, told(signal.SIGTERM, after=2, mode='predict'))[0] == 143
    assert names(tmp_path / 'work') == with_digests('iter_6')


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGUSR1])
def test_workers_that_get_the_signal_too_keep_reading(tmp_path, whole, number):
    path = config(tmp_path, 'train_dataloader.update(num_workers=1)')
    code, said = trained(tmp_path, path, told(number, after=9, group=True))
    assert code == 143, said
    assert latest(tmp_path / 'work').name == 'iter_9.pth'
    code, said = trained(tmp_path, path, resume=True)
    assert code == 0, said
    assert equal(tmp_path / 'work/epoch_3.pth', whole / 'epoch_3.pth')


def test_workers_end_with_their_process(tmp_path):
    """Python terminates the workers that are left when it exits, and waits for them."""
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


@pytest.mark.slow
@pytest.mark.parametrize('processes', [1, 2])
def test_a_signal_to_the_whole_group_does_not_lose_the_next_batch(tmp_path, processes):
    """torchrun and scancel signal the whole group."""
    path = config(tmp_path, SLOW_DATA)
    befores = [told(signal.SIGTERM, after=2, group=True, wait=.1)] * processes
    if processes == 1:
        codes = [trained(tmp_path, path, *befores)[0]]
    else:
        codes = together(tmp_path, path, *befores)
    assert codes == [143] * processes, [p.read_text() for p in tmp_path.glob('said*')]
    assert names(tmp_path / 'work') == with_digests('iter_3')


@pytest.mark.parametrize('by_epoch', [True, False])
def test_all_processes_stop_after_the_iteration_in_which_one_got_the_signal(tmp_path, by_epoch):
    """In an unfinished accumulation; the checkpoint has the gradients of all."""
    path = config(tmp_path, 'optim_wrapper.update(accumulative_counts=4)', *(
        [] if by_epoch else ["default_hooks['checkpoint'].update(by_epoch=False, interval=100)"]))
    codes = together(tmp_path, path, lambda: None, told(signal.SIGUSR1, after=2))
    assert codes == [143, 143], (tmp_path / 'said0.txt').read_text()
    content = read_checkpoint(latest(tmp_path / 'work'))
    assert content['meta']['iter'] == 2
    assert len(content['rank_state']['gradients']['first.weight']) == 2


def test_no_process_ends_before_the_checkpoint_is_written(tmp_path):
    """A launcher kills the others when the first of them has ended."""
    def slow_to_write():
        write = write_checkpoint

        def writing(*args, **kwargs):
            time.sleep(.5)
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


def test_processes_that_find_different_checkpoints_are_stopped(tmp_path):
    path = config(tmp_path, 'train_cfg.update(max_epochs=2)')
    assert trained(tmp_path, path)[0] == 0

    def with_an_old_view():
        resume.latest = lambda *_: tmp_path / 'work/epoch_1.pth'
    path = config(tmp_path)
    assert together(tmp_path, path, lambda: None, with_an_old_view, resume=True) == [2, 2]
    for rank in range(2):
        assert 'process 0 begins after 12 iterations and process 1 after 6' in (
            tmp_path / f'said{rank}.txt').read_text()
