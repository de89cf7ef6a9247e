"""Hooks: pre-training progress, seeded steps, health of part learning."""
import json
from pathlib import Path

import torch
from mmengine.dist import all_reduce, gather, get_rank, get_world_size, is_main_process
from mmengine.hooks import Hook

from ..datasets.seeded import seed_everything
from ..files import write_atomically
from ..functional.parts import signs_of_collapse
from ..models.layers import unwrapped
from ..registry import HOOKS


def stack_ranks(value):
    """A tensor of all processes, (processes, ...) on the CPU of the first; None on the others."""
    values = gather(value.detach().contiguous())
    return torch.stack([v.cpu() for v in values]) if is_main_process() else None


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


@HOOKS.register_module()
class PartHealthHook(Hook):
    """Says at the end of each epoch of part learning whether the parts are alive.

    Means over the epoch and all processes go into ``work_dir/part_health.jsonl`` and the
    checkpoints' ``meta['part_health']``, with ``collapsed``: what is wrong, or an empty list
    (`functional.parts.signs_of_collapse`). A run that ends collapsed says so as its last words.
    """

    SIGNS = ('off_diagonal_cosine', 'largest_share', 'num_empty', 'entropy', 'logit_std',
             'explained')

    def __init__(self):
        self.sum, self.steps = None, 0  # of the epoch so far

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        values = torch.cat([torch.stack([outputs[k].float() for k in self.SIGNS]),
                            unwrapped(runner.model).coverage])
        self.sum = values if self.sum is None else self.sum + values  # stays on the device
        self.steps += 1

    def after_train_epoch(self, runner):
        total = torch.cat([self.sum, self.sum.new_tensor([self.steps])])
        all_reduce(total)
        *signs, steps = total.tolist()
        means = [value / steps for value in signs]
        health = dict(zip(self.SIGNS, means), coverage=means[len(self.SIGNS):])
        health['collapsed'] = signs_of_collapse(
            *(health[k] for k in ('coverage', 'off_diagonal_cosine', 'largest_share', 'explained')))
        self.health = health
        self.sum, self.steps = None, 0
        shares = ' '.join(f'{share:.0%}' for share in health['coverage'])
        runner.logger.info(f'parts cover {shares}')
        if is_main_process():
            path = Path(runner.work_dir) / 'part_health.jsonl'
            epoch = runner.epoch + 1
            before = [line for line in path.read_text().splitlines()
                      if json.loads(line)['epoch'] < epoch] if path.is_file() else []
            lines = [*before, json.dumps(dict(epoch=epoch, **health))]
            write_atomically(path, lambda f: f.write('\n'.join([*lines, '']).encode()))

    def after_load_checkpoint(self, runner, checkpoint):
        self.health = checkpoint.get('meta', {}).get('part_health') or {}
        so_far = checkpoint.pop('part_health_so_far', None)
        if so_far and runner._resume:  # of another number of processes: their mean, as good
            rows, self.steps = so_far['sum'], so_far['steps']
            self.sum = rows[get_rank()] if len(rows) == get_world_size() else rows.mean(0)

    def before_save_checkpoint(self, runner, checkpoint):
        checkpoint['meta']['part_health'] = getattr(self, 'health', None)
        if self.steps:
            checkpoint['part_health_so_far'] = dict(sum=stack_ranks(self.sum), steps=self.steps)

    def after_train(self, runner):
        said = getattr(self, 'health', {}).get('collapsed')
        if said and is_main_process():
            runner.logger.error(
                f'PART LEARNING HAS COLLAPSED OR FAILED: {"; ".join(said)}. Masks made of these '
                'parts mean nothing. What helped: no 1/sqrt(D) in the logits, a learning rate of '
                '4e-3, diversity_weight 0.03, or decoder=dict(type=\'semmae.PaintDecoder\')')
