"""The state that differs between processes, in a checkpoint."""
import torch
from mmengine.dist import all_gather_object, gather, get_rank, get_world_size, is_main_process
from mmengine.hooks import Hook
from torch.nn import SyncBatchNorm
from torch.nn.modules.batchnorm import _BatchNorm  # also the base of mmengine's

from ..models.layers import unwrapped
from ..registry import HOOKS


def stack_ranks(value):
    """A tensor of all processes, (processes, ...) on the CPU of the first; None on the others."""
    values = gather(value.detach().contiguous())
    return torch.stack([v.cpu() for v in values]) if is_main_process() else None


@HOOKS.register_module()
class RankStateHook(Hook):
    """Saves the state that differs between processes, and restores it on resuming.

    It consists of the gradients accumulated since the last update of the weights (only in a
    checkpoint between two updates) and the statistics of batch norm that is not synchronised. The
    key is 'rank_state'; tensors are stacked over processes. With another number of processes each
    gets the mean of the gradients: the same update, up to rounding. Several processes need
    `semmae.CheckpointHook`: with mmengine's hook the first process would wait for the others.
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
                    f'{found}, expected the same: they see different files in {runner.work_dir}. '
                    'Wait until all nodes see the same files, and start again')

    def before_save_checkpoint(self, runner, checkpoint):
        if 'optimizer' not in checkpoint:
            return  # not for resuming
        model, own = unwrapped(runner.model), {}
        if not runner.optim_wrapper.should_update():
            own['gradients'] = {name: stack_ranks(p.grad) for name, p in model.named_parameters()
                                if p.grad is not None}
        if get_world_size() > 1:
            own['statistics'] = {name: stack_ranks(value) for name, value in statistics(model)}
        checkpoint['rank_state'] = {k: v for k, v in own.items() if v}

    def after_load_checkpoint(self, runner, checkpoint):
        own = checkpoint.pop('rank_state', {})
        if not runner.cfg.get('resume'):
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
            runner.logger.info('restored the gradients of an unfinished accumulation; ignore '
                               "mmengine's warning that they are lost")


def statistics(model):
    """(name, tensor) of the running means and variances of batch norm that is not synchronised."""
    for prefix, module in model.named_modules():
        if isinstance(module, _BatchNorm) and not isinstance(module, SyncBatchNorm):
            for name, value in module.named_buffers(prefix, recurse=False):
                if value.is_floating_point():
                    yield name, value
