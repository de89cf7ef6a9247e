"""A training that is told to end ends well, a broken one stops, and none shares its folder."""
import contextlib
import os
import signal
import socket
import time

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper

from semmae.engine import saving
from semmae.engine.guards import only_run
from semmae.engine.saving import latest
from semmae.registry import OPTIM_WRAPPERS

from .test_saving import equal, names, with_digests
from .tiny import REPO, VALIDATION, TinyModel, config, start, trained, wait


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """Three epochs of six iterations, uninterrupted."""
    folder = tmp_path_factory.mktemp('whole')
    code, said = trained(folder, config(folder))
    assert code == 0, said
    return folder / 'work'


def told(*signals, after, mode='loss', group=False):
    """For a child: it gets the signals in that forward of a step, or of a validation."""
    def before():
        if group:
            os.setpgrp()
        forward, count = TinyModel.forward, 0

        def counting(self, inputs, mode='tensor'):
            nonlocal count
            count += mode == wanted
            if mode == wanted and count == after:
                for number in signals:
                    (os.killpg if group else os.kill)(os.getpgrp() if group else os.getpid(),
                                                      number)
            return forward(self, inputs, mode)
        wanted = mode
        TinyModel.forward = counting
    return before


# ------------------------------------------------------------------ signals
@pytest.mark.parametrize('number, code', [
    (signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 143)])
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


def test_a_second_signal_exits_at_once(tmp_path):
    begun = time.time()
    code, _ = trained(tmp_path, config(tmp_path), told(signal.SIGINT, signal.SIGTERM, after=9))
    assert code == 130 and time.time() - begun < 20
    assert names(tmp_path / 'work') == with_digests('epoch_1')


def test_a_signal_in_a_save_lets_it_end_and_saves_nothing_twice(tmp_path):
    def in_a_save():
        write = saving.Digesting.write

        def told(self, data):
            saving.Digesting.write = write
            os.kill(os.getpid(), signal.SIGTERM)
            return write(self, data)
        saving.Digesting.write = told
    assert trained(tmp_path, config(tmp_path), in_a_save)[0] == 143
    assert names(tmp_path / 'work') == with_digests('epoch_1')


def test_a_validation_ends_after_its_batch_without_another_save(tmp_path):
    path = config(tmp_path, VALIDATION)
    code, said = trained(tmp_path, path, told(signal.SIGTERM, after=2, mode='predict'))
    assert code == 143, said
    assert names(tmp_path / 'work') == with_digests('epoch_1')


def test_a_validation_of_weights_that_are_not_saved_saves_them(tmp_path):
    path = config(tmp_path, VALIDATION, "default_hooks['checkpoint'].update(interval=2)")
    assert trained(tmp_path, path, told(signal.SIGTERM, after=2, mode='predict'))[0] == 143
    assert names(tmp_path / 'work') == with_digests('iter_6')


def test_a_worker_that_gets_the_signal_too_does_not_end_the_run_in_the_middle(tmp_path, whole):
    path = config(tmp_path, 'train_dataloader.update(num_workers=1)')
    code, said = trained(tmp_path, path, told(signal.SIGTERM, after=9, group=True))
    assert code == 143, said
    assert latest(tmp_path / 'work').name == 'iter_9.pth'
    code, said = trained(tmp_path, path, resume=True)
    assert code == 0, said
    assert equal(tmp_path / 'work/epoch_3.pth', whole / 'epoch_3.pth')


@pytest.mark.parametrize('by_epoch', [True, False])
def test_all_processes_stop_where_one_was_told_to(tmp_path, by_epoch):
    """In an unfinished accumulation, whose gradients all of them put into the checkpoint."""
    path = config(tmp_path, 'optim_wrapper.update(accumulative_counts=4)', *(
        [] if by_epoch else ["default_hooks['checkpoint'].update(by_epoch=False, interval=100)"]))
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = str(s.getsockname()[1])

    def ranked(rank, after):
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2',
                          MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
        if after:
            told(signal.SIGUSR1, after=after)()
    children = [start(tmp_path, path, lambda rank=rank, after=after: ranked(rank, after),
                      said=f'said{rank}.txt', launcher='pytorch')
                for rank, after in ((0, 0), (1, 2))]
    assert [wait(child) for child in children] == [143, 143], (tmp_path / 'said0.txt').read_text()
    content = saving.read_checkpoint(latest(tmp_path / 'work'))
    assert content['meta']['iter'] == 2
    assert len(content['rank_state']['gradients']['first.weight']) == 2


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
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(first, signal.SIGKILL)
    assert wait(first) == -signal.SIGKILL
    with only_run(tmp_path / 'work'):  # what a killed holder leaves is no lock
        assert lock.read_text() == f'process {os.getpid()} on {socket.gethostname()}'


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
    weight = saving.read_checkpoint(tmp_path / 'work/epoch_3.pth')['state_dict']['first.weight']
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


@pytest.mark.parametrize('dtype, ends', [('float16', 0), ('bfloat16', 2)])
def test_only_loss_scaling_of_float16_may_leave_a_step_out(tmp_path, dtype, ends):
    path = config(tmp_path, 'model.update(nan_gradient=8)',
                  f"optim_wrapper.update(type='semmae.TinyScaled', dtype='{dtype}')")
    code, said = trained(tmp_path, path)
    assert code == ends, said
    assert ends == 0 or 'gradient of first.weight' in said


def test_every_shipped_training_has_both_hooks():
    for path in (REPO / 'mm_configs').rglob('*.py'):
        cfg = Config.fromfile(path) if '_base_' not in path.parts else {}
        if cfg.get('train_cfg'):
            kinds = {hook.type for hook in cfg.custom_hooks}
            assert {'semmae.FiniteHook', 'semmae.StopHook'} <= kinds, path
            assert cfg.default_hooks.checkpoint.type == 'semmae.CheckpointHook', path
