"""What may end a training: a signal, a number that is none, another run in the same folder."""
import contextlib
import os
import signal
import socket
import threading
import time
from pathlib import Path

import torch
import torch.distributed as dist
from filelock import FileLock, Timeout
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop

from ..checkpoints.folder import checkpoints, is_first_process
from ..files import writable_folder
from ..models.layers import unwrapped
from ..registry import HOOKS
from .checkpointing import CheckpointHook

PATIENCE = 3  # seconds in which a run that is just ending may let go of its folder
GRACE = 5  # seconds after a signal in which more of them are no second thought


@contextlib.contextmanager
def only_run(work_dir, launcher='none'):
    """Hold a work directory; ValueError naming the holder if another process has it.

    Of a launch the first process holds it. The lock is the system's: it goes with its holder,
    however that ends.
    """
    if not is_first_process(launcher):
        yield
        return
    folder = Path(work_dir)
    lock = FileLock(folder / '.lock')
    writable_folder(folder)
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        raise ValueError(f'{folder} is in use by {named_in(folder)}. Wait for it, stop it, or '
                         'give another --work-dir') from None
    try:
        (folder / '.lock.holder').write_text(f'process {os.getpid()} on {socket.gethostname()}')
        yield
    finally:
        lock.release()


def trained_by(work_dir):
    """Who trains in a work directory, in words, or '' if nobody does."""
    try:
        with FileLock(Path(work_dir) / '.lock', timeout=0):
            return ''
    except Timeout:
        return named_in(Path(work_dir))


def named_in(folder):
    holder = folder / '.lock.holder'
    return holder.read_text() if holder.is_file() else 'another process'


def require_new(work_dir):
    """ValueError if a run has saved in ``work_dir``: a second one would mix its files with them."""
    if found := checkpoints(work_dir):
        raise ValueError(f'{work_dir} has checkpoints of a run ({found[-1].name}), expected none '
                         'where one starts anew. --resume goes on with it; give another '
                         '--work-dir to start anew')


@HOOKS.register_module()
class StopHook(Hook):
    """SIGTERM, SIGUSR1, SIGINT and SIGHUP: finish the step, save, exit with 143, 143, 130 and 129.

    A validation ends after its batch. All processes stop after the same iteration, whichever of
    them was told, and end when the checkpoint is written. A signal that comes `GRACE` seconds
    after the first exits at once; before that it is the same wish once more: a terminal and what
    runs in it both tell a run to end, and so do srun and torchrun. Under Slurm,
    ``--signal=USR1@120`` gives a run two minutes before its time is over.
    """

    # After everyone else, CheckpointHook included, has seen the iteration.
    priority = 'LOWEST'
    CODES = {signal.SIGTERM: 143, signal.SIGUSR1: 143, signal.SIGINT: 130, signal.SIGHUP: 129}

    def __init__(self):
        self.code, self.before, self.group = 0, {}, None

    def before_train(self, runner):
        self.loop_has_epochs = isinstance(runner.train_loop, EpochBasedTrainLoop)
        if get_world_size() > 1:  # on the CPU: asking a GPU would wait for it in each step
            self.group = dist.new_group(backend='gloo')
        # nohup has a run ignore the end of its terminal, and that stays.
        self.before = {s: signal.signal(s, self.remember) for s in self.CODES
                       if (s, signal.getsignal(s)) != (signal.SIGHUP, signal.SIG_IGN)}

    def remember(self, number, frame):
        if not self.code:
            self.code, self.told_at = self.CODES[number], time.monotonic()
        elif time.monotonic() - self.told_at >= GRACE:
            os._exit(self.code)

    def agreed(self):
        """The exit code that any process was told, or 0."""
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
        # Processes may have one batch more or less; all have the least.
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
        if self.group is not None:  # a launcher ends the others when the first of them is gone
            dist.barrier(self.group)
        runner.logger.info(f'stopped by a signal after {iteration} iterations; --resume goes on')
        raise SystemExit(code)

    def after_train(self, runner):
        self.restore()
        if self.code:  # it came after the last iteration, and everything is saved
            raise SystemExit(self.code)

    def restore(self):
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}


class LeavesSignals:
    """A worker_init_fn: the worker of a data loader does not hear what its process is told.

    Of a signal to the whole group it would die, and the batch that it was at with it. It still ends
    where its process itself tells it to, by SIGTERM, as Python and torch do when they exit.
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
    """``runner.train()``, in which signals are the business of `StopHook` alone, if there is one.

    Loops build their data loaders through the runner.
    """
    hooks = [hook for hook in runner.hooks if isinstance(hook, StopHook)]
    build = runner.build_dataloader

    def deaf(*args, **kwargs):
        loader = build(*args, **kwargs)
        loader.worker_init_fn = LeavesSignals(loader.worker_init_fn)
        return loader
    if hooks:
        runner.build_dataloader = deaf
    try:
        return runner.train()
    finally:
        for hook in hooks:
            hook.restore()


@HOOKS.register_module()
class FiniteHook(Hook):
    """FloatingPointError before the step of an iteration whose loss or gradient is NaN or infinite.

    It names the terms of the loss, or the first parameter. Gradients that dynamic loss scaling
    (float16) skips are no error. On a GPU nothing waits for this: losses, and gradients that
    nothing else looks at (clipping, mixed precision without a fused optimiser), are asked after
    every ``interval`` iterations and before each checkpoint, so none is written from broken
    weights.
    """

    def __init__(self, interval=50):
        self.interval = interval
        self.seen = {}  # on a GPU, {kind: (names, flags)} since they were last asked

    def before_train(self, runner):
        self.runner, wrapper = runner, runner.optim_wrapper
        model = unwrapped(runner.model)
        self.names = {p: name for name, p in model.named_parameters()}
        self.parse, self.step = model.parse_losses, wrapper.step
        model.parse_losses, wrapper.step = self.parse_losses, self.guarded_step
        kind = getattr(wrapper, 'cast_dtype', None)
        self.scales = hasattr(wrapper, 'loss_scaler')
        self.may_skip = self.scales and kind in (None, torch.float16)
        clip = wrapper.clip_grad_kwargs
        self.clips = bool(clip) and wrapper.clip_func is torch.nn.utils.clip_grad_norm_
        if self.clips and not self.may_skip:
            clip.setdefault('error_if_nonfinite', True)  # torch asks before it spoils the others
        wrapper.optimizer.register_step_pre_hook(self.before_step)

    def parse_losses(self, losses):
        loss, values = self.parse(losses)
        terms = {k: v.detach() for k, v in values.items() if 'loss' in k and torch.is_tensor(v)}
        if terms:
            self.ask('loss', list(terms), are_broken(terms.values()))
        return loss, values

    def guarded_step(self, **kwargs):
        self.has_stepped = False
        try:
            self.step(**kwargs)
        except RuntimeError as error:
            if 'non-finite' not in str(error):
                raise
            self.fail('gradient', self.broken_gradients())
        if self.scales and not self.may_skip and not self.has_stepped:
            self.fail('gradient', self.broken_gradients())  # the scaler left the step out

    def before_step(self, optimizer, args, kwargs):
        self.has_stepped = True
        if self.scales:
            # A fused one gets to its step with what the scaler found, and does nothing by itself.
            found = getattr(optimizer, 'found_inf', None)
            if found is not None and not self.may_skip:
                self.ask('gradient', [''], found.reshape(1) > 0)
        elif not self.clips:
            found = [(p, p.grad) for group in optimizer.param_groups for p in group['params']
                     if p.grad is not None]
            if found:
                self.ask('gradient', [self.names.get(p, '') for p, _ in found],
                         are_broken(torch._foreach_norm([grad for _, grad in found])))

    def broken_gradients(self):
        return [name for p, name in self.names.items()
                if p.grad is not None and not p.grad.isfinite().all()]

    def ask(self, what, names, broken):
        """At once on a CPU; on a GPU later. broken: (names,) bool."""
        if not self.waits(broken):
            self.require_none(what, names, broken)
        elif what in self.seen and self.seen[what][0] == names:
            self.seen[what][1].logical_or_(broken)
        else:
            self.ask_later()
            self.seen[what] = names, broken

    @staticmethod
    def waits(broken):
        return broken.is_cuda

    def ask_later(self):
        for what, (names, broken) in self.seen.items():
            self.require_none(what, names, broken, ' or before')

    def require_none(self, what, names, broken, when=''):
        if broken.any():
            self.fail(what, [name for name, is_bad in zip(names, broken.tolist()) if is_bad], when)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if self.seen and self.every_n_train_iters(runner, self.interval):
            self.ask_later()

    def before_save_checkpoint(self, runner, checkpoint):
        self.ask_later()

    def fail(self, what, names, when=''):
        where = f'iteration {self.runner.iter + 1}, epoch {self.runner.epoch + 1}{when}'
        if what == 'loss':  # the sum is named only where it has no terms of its own to blame
            named = ', '.join([name for name in names if name != 'loss'] or names)
        else:
            named = f'of {next(filter(None, [*names, *self.broken_gradients()]), "a parameter")}'
        raise FloatingPointError(
            f'{what} {named} is NaN or infinite in {where}. Training stopped before anything was '
            'saved from it; the checkpoints before are good. Lower the learning rate, clip '
            'gradients (optim_wrapper.clip_grad), or look at the images of this iteration')


def are_broken(values):
    """(values,) bool: which of these tensors of one number are NaN or infinite."""
    return ~torch.stack([value.float() for value in values]).isfinite()
