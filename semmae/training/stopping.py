"""Signals: a training finishes its step, saves a checkpoint and ends."""
import os
import signal
import threading
import time

import torch
import torch.distributed as dist
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop

from ..registry import HOOKS
from .checkpointing import CheckpointHook

GRACE = 5  # seconds after the first signal in which repeated signals are ignored


@HOOKS.register_module()
class StopHook(Hook):
    """SIGTERM, SIGUSR1, SIGINT and SIGHUP: finish the step, save, exit with 143, 143, 130 and 129.

    A validation ends after its batch. All processes stop after the same iteration, even if only one
    got the signal, and end when the checkpoint is written. Another signal within `GRACE` seconds is
    ignored, because a terminal and the program that runs in it both send one, as srun and torchrun
    do; a later one exits at once. Under Slurm, ``--signal=USR1@120`` gives a run two minutes before
    its time is over.
    """

    priority = 'LOWEST'  # after all other hooks, CheckpointHook included
    CODES = {number: 128 + number for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    CODES[signal.SIGUSR1] = CODES[signal.SIGTERM]

    def __init__(self):
        self.code, self.before, self.group = 0, {}, None

    def before_train(self, runner):
        self.loop_has_epochs = isinstance(runner.train_loop, EpochBasedTrainLoop)
        if get_world_size() > 1:  # on the CPU, to avoid waiting for a GPU in each step
            self.group = dist.new_group(backend='gloo')
        # nohup makes a run ignore SIGHUP; keep that.
        self.before = {s: signal.signal(s, self.remember) for s in self.CODES
                       if (s, signal.getsignal(s)) != (signal.SIGHUP, signal.SIG_IGN)}

    def remember(self, number, frame):
        if not self.code:
            self.code, self.received_at = self.CODES[number], time.monotonic()
        elif time.monotonic() - self.received_at >= GRACE:
            os._exit(self.code)

    def agreed(self):
        """The exit status for the signal that any process got, or 0."""
        if self.group is None:
            return self.code
        code = torch.tensor(self.code)
        dist.all_reduce(code, dist.ReduceOp.MAX, self.group)
        return int(code)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if code := self.agreed():
            self.leave(runner, code, runner.epoch, runner.iter + 1)

    def after_train_epoch(self, runner):
        if self.loop_has_epochs and (code := self.agreed()):
            self.leave(runner, code, runner.epoch + 1, runner.iter)

    def before_val_epoch(self, runner):
        # Processes may differ by one batch; `common` is the smallest number.
        self.common = len(runner.val_dataloader)
        if self.group is not None:
            common = torch.tensor(self.common)
            dist.all_reduce(common, dist.ReduceOp.MIN, self.group)
            self.common = int(common)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if self.before and batch_idx < self.common and (code := self.agreed()):
            self.leave(runner, code, runner.epoch, runner.iter)

    def leave(self, runner, code, epoch, iteration):
        for hook in runner.hooks:
            if isinstance(hook, CheckpointHook):
                hook.save_here(runner, epoch, iteration)
        if self.group is not None:  # a launcher kills all processes when the first one ends
            dist.barrier(self.group)
        runner.logger.info(f'stopped by a signal after {iteration} iterations; continue with '
                           '--resume')
        raise SystemExit(code)

    def after_train(self, runner):
        self.restore()
        if self.code:  # the signal came after the last iteration; everything is saved
            raise SystemExit(self.code)

    def restore(self):
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}


class LeavesSignals:
    """A worker_init_fn: a data loader's worker ignores the signals that `StopHook` handles.

    A signal to the whole group would kill the worker, and its process would wait for the batch. The
    worker still ends by a SIGTERM from its own process, which Python and torch send on exit.
    """

    def __init__(self, init=None):
        self.init = init

    def __call__(self, worker):
        if self.init:
            self.init(worker)
        for number in {*StopHook.CODES} - {signal.SIGTERM}:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=self.wait_for_its_process, daemon=True).start()

    @staticmethod
    def wait_for_its_process():
        while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
            pass
        os._exit(0)


def train_until_stopped(runner):
    """``runner.train()``; if there is a `StopHook`, workers ignore its signals.

    Loops build their data loaders through the runner.
    """
    hooks = [hook for hook in runner.hooks if isinstance(hook, StopHook)]
    build = runner.build_dataloader

    def build_protected(*args, **kwargs):
        loader = build(*args, **kwargs)
        loader.worker_init_fn = LeavesSignals(loader.worker_init_fn)
        return loader
    if hooks:
        runner.build_dataloader = build_protected
    try:
        return runner.train()
    finally:
        for hook in hooks:
            hook.restore()
