"""A run that was killed after any iteration and resumed ends in the bits of one that was not.

What is drawn is a function of numbers that a checkpoint has (`datasets.seeded`, `StepSeedHook`);
here is the place within the epoch, and what each process has for itself.
"""
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop
from torch.nn import SyncBatchNorm
from torch.nn.modules.batchnorm import _BatchNorm

from ..models.layers import unwrapped
from ..registry import HOOKS, LOOPS
from .hooks import stack_ranks


@LOOPS.register_module()
class ResumableEpochLoop(EpochBasedTrainLoop):
    """mmengine's loop over epochs, which also starts inside of one: no image is read again.

    Needs a sampler that skips (`semmae.SeededSampler`). Loops over iterations need nothing of the
    kind: mmengine's `IterBasedTrainLoop` skips by itself, if the sampler can.
    """

    def run_epoch(self):
        done = self._iter - self._epoch * len(self.dataloader)
        if done:
            self.skip(done)
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for idx, batch in enumerate(self.dataloader, done):
            self.run_iter(idx, batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def skip(self, done):
        """Leave out the first ``done`` batches of the epoch, be it all of them."""
        length, sampler = len(self.dataloader), self.dataloader.sampler
        if not 0 <= done <= length:
            raise ValueError(
                f'the checkpoint was saved after {self._iter} iterations, in epoch {self._epoch}, '
                f'which here begins after {self._epoch * length} and has {length}: it is of '
                'another number of images or batch size. Restore them, or start in another '
                '--work-dir')
        if not hasattr(sampler, 'skip'):
            raise ValueError(
                f'the checkpoint was saved inside epoch {self._epoch}, where '
                f'{type(sampler).__name__} cannot start; expected train_dataloader.sampler='
                "dict(type='semmae.SeededSampler'), or a checkpoint of the end of an epoch")
        sampler.skip(done * self.dataloader.batch_size)
        self.runner.logger.info(f'going on after {done} of {length} iterations of this epoch')


@HOOKS.register_module()
class RankStateHook(Hook):
    """Puts into a checkpoint what each process has for itself, and gives it back on resuming.

    Gradients that were summed up since the last update of the weights (accumulation), and the
    statistics of batch norm that is not synchronised. A checkpoint holds them for all processes,
    stacked, under 'rank_state'; of the gradients only one that was saved between two updates.
    With another number of processes everyone gets the mean of the gradients: the same update, but
    for rounding. Several processes need a hook that saves on all of them (`semmae.CheckpointHook`):
    mmengine's asks the first one only, which would wait for the others.
    """

    def before_train(self, runner):
        if get_world_size() == 1:
            return
        if not any(hasattr(h, 'join_hooks') for h in runner.hooks):
            raise ValueError("RankStateHook on several processes: default_hooks.checkpoint is "
                             "mmengine's, expected dict(type='semmae.CheckpointHook')")
        # Each process chose its checkpoint, from its own view of a shared file system.
        begin = all_gather_object(runner.iter)
        for rank, found in enumerate(begin):
            if found != begin[0]:
                raise ValueError(
                    f'process 0 begins after {begin[0]} iterations and process {rank} after '
                    f'{found}, expected the same: they see other files in {runner.work_dir}. Wait '
                    'until its file system shows the same everywhere, and start again')

    def before_save_checkpoint(self, runner, checkpoint):
        if 'optimizer' not in checkpoint:
            return  # not made to be resumed
        model, own = unwrapped(runner.model), {}
        if not runner.optim_wrapper.should_update():
            own['gradients'] = {name: stack_ranks(p.grad) for name, p in model.named_parameters()
                                if p.grad is not None}
        if get_world_size() > 1:
            own['statistics'] = {name: stack_ranks(value) for name, value in statistics(model)}
        checkpoint['rank_state'] = {k: v for k, v in own.items() if v}

    def after_load_checkpoint(self, runner, checkpoint):
        own = checkpoint.pop('rank_state', {})
        if not runner._resume:
            return
        for name, p in unwrapped(runner.model).named_parameters():
            if name in own.get('gradients', {}):
                value = own['gradients'][name]
                p.grad = p.detach().clone().copy_(
                    value[get_rank()] if len(value) == get_world_size() else value.mean(0))
        for name, value in own.get('statistics', {}).items():
            if len(value) == get_world_size():
                checkpoint['state_dict'][name] = value[get_rank()]
        if 'gradients' in own:
            runner.logger.info('gradients of the unfinished accumulation came with the checkpoint; '
                               'none are lost, whatever mmengine says below')


def statistics(model):
    """(name, tensor) of the running means and variances that each process has for itself."""
    for prefix, module in model.named_modules():
        if isinstance(module, _BatchNorm) and not isinstance(module, SyncBatchNorm):
            for name, value in module.named_buffers(prefix, recurse=False):
                if value.is_floating_point():
                    yield name, value
