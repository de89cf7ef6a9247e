"""Sets the training progress and seeds random numbers before each iteration."""
from mmengine.dist import get_rank
from mmengine.hooks import Hook

from ..datasets.seeded import seed_everything
from ..models.layers import unwrapped
from ..registry import HOOKS


@HOOKS.register_module()
class ProgressHook(Hook):
    """Sets ``progress`` of a pre-training model, for the alpha of Algorithm 1, line 7.

    by_epoch: epoch / total epochs, as in the algorithm; else iteration / total iterations, as in
    the paper's text. The first epoch has progress 0; the total is the configured one.
    """

    def __init__(self, by_epoch=True):
        self.by_epoch = by_epoch

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        done, total = ((runner.epoch, runner.max_epochs) if self.by_epoch
                       else (runner.iter, runner.max_iters))
        unwrapped(runner.model).progress = done / total


@HOOKS.register_module()
class StepSeedHook(Hook):
    """Seeds the random numbers of the model (drop path, mixup) with (seed, iteration, rank)."""

    priority = 'VERY_HIGH'

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        seed_everything(runner.seed, runner.iter, get_rank())
