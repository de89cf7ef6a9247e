"""Hooks: pre-training progress, seeded steps."""
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from ..datasets.seeded import seed_everything
from ..registry import HOOKS


def unwrapped(model):
    """The model itself, with or without DistributedDataParallel around it."""
    return model.module if is_model_wrapper(model) else model


@HOOKS.register_module()
class ProgressHook(Hook):
    """Tells a pre-training model how far it is, for the alpha of Algorithm 1, line 7.

    by_epoch: epoch / total epochs, as the algorithm says; else iteration / total iterations, as
    the paper's prose says. The first epoch has progress 0; the total is the configured one.
    """

    def __init__(self, by_epoch=True):
        self.by_epoch = by_epoch

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        done, total = ((runner.epoch, runner.max_epochs) if self.by_epoch
                       else (runner.iter, runner.max_iters))
        unwrapped(runner.model).progress = done / total


@HOOKS.register_module()
class StepSeedHook(Hook):
    """Numbers drawn in the model (drop path, mixup) are a function of (seed, iteration, rank)."""

    priority = 'VERY_HIGH'

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        seed_everything(runner.seed, runner.iter, get_rank())
