"""What may end a training: a signal, a number that is none, another run in the same folder."""
import contextlib
import os
import signal
import socket
from pathlib import Path

import torch
import torch.distributed as dist
from filelock import FileLock, Timeout
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop

from ..files import writable_folder
from ..registry import HOOKS
from .hooks import unwrapped
from .saving import CheckpointHook, is_first_process

PATIENCE = 3  # seconds in which a run that is just ending may let go of its folder


@contextlib.contextmanager
def only_run(work_dir):
    """Hold a work directory; ValueError naming the holder if another process has it.

    Of a launch the first process holds it. The lock is the system's: it goes with its holder,
    however that ends.
    """
    if not is_first_process():
        yield
        return
    folder = Path(work_dir)
    holder, lock = folder / '.lock.holder', FileLock(folder / '.lock')
    writable_folder(folder)
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        who = holder.read_text() if holder.is_file() else 'another process'
        raise ValueError(f'{folder} is in use by {who}. Wait for it, stop it, or give another '
                         '--work-dir') from None
    try:
        holder.write_text(f'process {os.getpid()} on {socket.gethostname()}')
        yield
    finally:
        lock.release()


@HOOKS.register_module()
class StopHook(Hook):
    """SIGTERM, SIGINT and SIGUSR1: finish the step, save, exit with 143, 130 and 143.

    A validation ends after its batch. A second signal exits at once. All processes stop after the
    same iteration, whichever of them was told. Under Slurm, ``--signal=USR1@120`` gives a run two
    minutes before its time is over.
    """

    # After everyone else, CheckpointHook included, has seen the iteration.
    priority = 'LOWEST'
    CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGUSR1: 143}

    def __init__(self):
        self.code, self.before, self.group = 0, {}, None
        self.is_between = False  # iterations: the weights are those of a whole number of them

    def before_train(self, runner):
        self.loop_has_epochs = isinstance(runner.train_loop, EpochBasedTrainLoop)
        if get_world_size() > 1:  # on the CPU: asking a GPU would wait for it in each step
            self.group = dist.new_group(backend='gloo')
        self.before = {s: signal.signal(s, self.remember) for s in self.CODES}
        self.owner = os.getpid()

    def remember(self, number, frame):
        if os.getpid() != self.owner:  # a worker of a data loader: its process tells it to end
            return
        if self.code:
            os._exit(self.code)
        self.code = self.CODES[number]

    def agreed(self):
        """The exit code that any process was told, or 0."""
        if self.group is None:
            return self.code
        code = torch.tensor(self.code)
        dist.all_reduce(code, dist.ReduceOp.MAX, self.group)
        return int(code)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.is_between = False
        # torch would raise out of any line when a worker of a data loader ends, as one does that
        # gets a SIGTERM together with this process. It also asks for them while it waits for a
        # batch, which is early enough.
        if callable(signal.getsignal(signal.SIGCHLD)):
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.is_between = True
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


def train_until_stopped(runner):
    """``runner.train()``; also where a signal ended the workers that the next batch comes from."""
    try:
        return runner.train()
    except RuntimeError:
        hook = next((h for h in runner.hooks if isinstance(h, StopHook)), None)
        if not (hook and hook.code and hook.is_between and hook.group is None):
            raise
        hook.leave(runner, hook.code, runner.epoch, runner.iter)
    finally:
        for hook in runner.hooks:
            if isinstance(hook, StopHook):
                hook.restore()


@HOOKS.register_module()
class FiniteHook(Hook):
    """FloatingPointError before the step of an iteration whose loss or gradient is NaN or infinite.

    It names the terms of the loss, or the first parameter. Gradients that dynamic loss scaling
    (float16) skips are no error. On a GPU nothing waits for this: losses, and gradients where
    neither clipping nor mixed precision looks at them, are asked after every ``interval``
    iterations and before each checkpoint, so none is written from broken weights.
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
        # The sum is named only where it has no terms of its own to blame.
        names = [k for k in terms if k != 'loss'] + [k for k in terms if k == 'loss']
        self.ask('loss', names, [terms[k] for k in names])
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
        if self.scales or self.clips:
            return
        found = [(p, p.grad) for group in optimizer.param_groups for p in group['params']
                 if p.grad is not None]
        if found:
            self.ask('gradient', [self.names.get(p, '?') for p, _ in found],
                     torch._foreach_norm([grad for _, grad in found]))

    def broken_gradients(self):
        return [name for p, name in self.names.items()
                if p.grad is not None and not p.grad.isfinite().all()]

    def ask(self, what, names, values):
        """At once on a CPU; on a GPU later."""
        if not names:
            return
        flags = ~torch.stack([v.float() for v in values]).isfinite()
        if not flags.is_cuda:
            if flags.any():
                self.fail(what, [name for name, bad in zip(names, flags.tolist()) if bad])
        elif what in self.seen and self.seen[what][0] == names:
            self.seen[what][1].logical_or_(flags)
        else:
            self.ask_later()
            self.seen[what] = names, flags

    def ask_later(self):
        for what, (names, flags) in self.seen.items():
            if flags.any():
                self.fail(what, [name for name, bad in zip(names, flags.tolist()) if bad])

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if self.seen and self.every_n_inner_iters(batch_idx, self.interval):
            self.ask_later()

    def before_save_checkpoint(self, runner, checkpoint):
        self.ask_later()

    def fail(self, what, names):
        terms = [name for name in names if name != 'loss'] or names or ['?']
        where = f'iteration {self.runner.iter + 1}, epoch {self.runner.epoch + 1}'
        named = ', '.join(terms) if what == 'loss' else f'of {terms[0]}'
        raise FloatingPointError(
            f'{what} {named} is NaN or infinite in {where}. Training stopped before anything was '
            'saved from it; the checkpoints before are good. Lower the learning rate, clip '
            'gradients (optim_wrapper.clip_grad), or look at the images of this iteration')
