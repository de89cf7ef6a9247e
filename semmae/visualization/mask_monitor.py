"""Monitors of a pre-training: masks, throughput and gradients in its log, and pictures.

B images, K candidate patches, P parts. A mask is 1 where a patch is removed.
"""
import contextlib
import importlib
import sys
import time
from typing import Any

import torch
from mmengine.dataset import default_collate
from mmengine.dist import get_world_size, master_only
from mmengine.hooks import Hook, LoggerHook
from mmengine.runner import EpochBasedTrainLoop
from torch.nn.utils import get_total_norm

from ..config.identity import accumulated_steps
from ..config.preflight import undrawn
from ..datasets.seeded import Seeded
from ..models.layers import unwrapped
from ..models.semmae import SemMAE
from ..registry import HOOKS

resource: Any = importlib.import_module('resource') if sys.platform != 'win32' else None


@HOOKS.register_module()
class MaskMonitorHook(Hook):
    """Adds values to each line of the training log of a `SemMAE`:

    masked_share_part0...: share of the candidates of each part that is masked, for the parts in
        this process's batch.
    visible_parts: number of parts with a visible patch, mean over the images of the same batch.
    images_per_second: of all processes since the last line, with pauses between epochs.
    grad_norm: L2 norm of all gradients at the last optimiser step, if the interval had one.
    memory_mb: peak resident memory where there is no GPU (mmengine logs a GPU's ``memory``).

    interval: in iterations; None: that of the run's LoggerHook, which prints the values.
    """

    def __init__(self, interval=None):
        if interval is not None and interval < 1:
            raise ValueError(f'interval is {interval}, expected at least 1 iteration, or None')
        self.interval = interval

    def before_train(self, runner):
        require_semmae(runner, self)
        self.every = self.interval or next(
            (hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)), 50)
        self.handle = self.norm = None
        self.since, self.images = 0., 0
        self.shown: list[str] = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        for key in self.shown:  # or LoggerHook prints them again with a shorter interval
            runner.message_hub.log_scalars.pop(key, None)
        self.shown = []
        self.since = self.since or time.perf_counter()
        if runner.optim_wrapper.clip_grad_kwargs:
            return  # mmengine itself logs the norm then, at every step and under the same name
        # The wrapper clears gradients after its step, so measure in the optimiser. With gradient
        # accumulation not every iteration steps, and the one that is due may not.
        if any(self.is_due(runner, batch_idx + k) for k in range(accumulated_steps(runner.cfg))):
            self.handle = runner.optim_wrapper.optimizer.register_step_pre_hook(self.measure)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.disarm()
        self.images += len(data_batch['inputs'])
        if not self.is_due(runner, batch_idx):
            return
        model = unwrapped(runner.model)
        candidates, mask = model.last_masks
        values = {}
        if candidates.part_ids is not None:
            values = part_scalars(candidates.part_ids, mask, model.num_parts)
        if self.norm is not None:
            values['grad_norm'] = self.norm.item()
        now = time.perf_counter()  # after .item() and .tolist(), which wait for the device
        values['images_per_second'] = self.images * get_world_size() / (now - self.since)
        if resource and not torch.cuda.is_available():
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            values['memory_mb'] = round(peak / 2 ** (20 if sys.platform == 'darwin' else 10))
        self.norm, self.images, self.since = None, 0, now
        self.shown = [f'train/{key}' for key in values]
        for key, value in zip(self.shown, values.values()):
            runner.message_hub.update_scalar(key, value, resumed=False)

    def after_train(self, runner):
        self.disarm()

    def is_due(self, runner, batch_idx):
        """Whether LoggerHook with this interval prints after this iteration."""
        loader = runner.train_dataloader
        return (self.every_n_inner_iters(batch_idx, self.every)
                or len(loader) <= self.every and self.end_of_epoch(loader, batch_idx))

    def measure(self, optimizer, args, kwargs):
        """Keep the norm of the gradients of the next step, on the device."""
        self.norm = get_total_norm([p.grad for group in optimizer.param_groups
                                    for p in group['params'] if p.grad is not None])
        # Set by GradScaler for a fused optimiser, which divides by it inside its kernel.
        scale = getattr(optimizer, 'grad_scale', None)
        if scale is not None:
            self.norm = self.norm / scale

    def disarm(self):
        if self.handle:
            self.handle.remove()
            self.handle = None


@HOOKS.register_module()
class PretrainPicturesHook(Hook):
    """Draws masks and reconstructions of ``num`` training images while a `SemMAE` trains.

    After every ``interval``-th epoch and the last one. The images are evenly spaced over the data
    set and always the same, with the flips and masks that the epoch trained with; a strategy that
    learns draws the masks of the end of the epoch. They go to the run's visualizer:
    ``vis_data/vis_image/masks_50.png``, and TensorBoard if it is on.
    """

    def __init__(self, interval=50, num=4):
        if interval < 1 or num < 1:
            raise ValueError(f'interval is {interval} and num is {num}, expected at least 1 each')
        self.interval, self.num = interval, num

    def before_train(self, runner):
        require_semmae(runner, self)
        for found, wanted in ((runner.train_loop, EpochBasedTrainLoop),
                              (runner.train_dataloader.dataset, Seeded)):
            if not isinstance(found, wanted):
                raise ValueError(f'PretrainPicturesHook replays the samples of an epoch: expected '
                                 f'{wanted.__name__}, got {type(found).__name__}; take the hook '
                                 'out of custom_hooks')

    @master_only
    def after_train_epoch(self, runner):
        from .pictures import draw_step, spaced  # matplotlib, which a training may not need
        epoch = runner.epoch + 1
        if epoch % self.interval and epoch < runner.max_epochs:
            return
        dataset, model = runner.train_dataloader.dataset, unwrapped(runner.model)
        with undrawn(), evaluating(model), torch.no_grad(), \
                runner.optim_wrapper.optim_context(runner.model):  # in the precision of training
            batch = default_collate([dataset[runner.epoch, i]
                                     for i in spaced(len(dataset.dataset), self.num)])
            masks, rebuilt = draw_step(model, batch, f'Epoch {epoch}. ')
        runner.visualizer.add_image('masks', masks, step=epoch)
        runner.visualizer.add_image('reconstructions', rebuilt, step=epoch)


def part_scalars(part_ids, mask, num_parts=None):
    """{'masked_share_part0': share, ..., 'visible_parts': mean over images}, absent parts left out.

    part_ids: (B, K) int. mask: (B, K) bool. num_parts: None for the highest id plus one.
    """
    num_parts = num_parts or int(part_ids.max()) + 1
    is_part = part_ids[..., None] == torch.arange(num_parts, device=part_ids.device)  # (B, K, P)
    is_masked = is_part & mask[..., None]
    visible = (is_part & ~mask[..., None]).any(1).sum()
    *counts, visible = torch.cat([is_masked.sum((0, 1)), is_part.sum((0, 1)),
                                  visible[None]]).tolist()  # one transfer
    shares = {f'masked_share_part{p}': masked / total for p, (masked, total) in enumerate(
        zip(counts[:num_parts], counts[num_parts:])) if total}
    return dict(shares, visible_parts=visible / len(mask))


def require_semmae(runner, hook):
    """Raises ValueError if the run does not train a `SemMAE`."""
    model = unwrapped(runner.model)
    if not isinstance(model, SemMAE):
        raise ValueError(f'{type(hook).__name__} watches a semmae.SemMAE, this run trains a '
                         f'{type(model).__name__}; take the hook out of custom_hooks')


@contextlib.contextmanager
def evaluating(model):
    """Sets evaluation mode, and restores the mode at the end."""
    was = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was)
