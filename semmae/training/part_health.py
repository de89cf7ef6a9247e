"""Whether the parts collapse while they are learned."""
import json
from pathlib import Path

import torch
from mmengine.dist import all_reduce, get_rank, get_world_size, is_main_process
from mmengine.hooks import Hook

from ..files import write_atomically
from ..functional.parts import signs_of_collapse
from ..models.layers import unwrapped
from ..registry import HOOKS
from .rank_state import stack_ranks


@HOOKS.register_module()
class PartHealthHook(Hook):
    """Records at the end of each epoch of part learning whether the parts collapsed.

    Means over the epoch and all processes go into ``work_dir/part_health.jsonl`` and the
    checkpoints' ``meta['part_health']``, with ``collapsed``: what is wrong, or an empty list
    (`functional.parts.signs_of_collapse`). A run that ends collapsed logs an error.
    """

    SIGNS = ('off_diagonal_cosine', 'largest_share', 'num_empty', 'entropy', 'logit_std',
             'explained')

    def __init__(self):
        self.health = None  # of the last complete epoch
        self.sum, self.steps = None, 0  # of the current epoch

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        values = torch.cat([torch.stack([outputs[k].float() for k in self.SIGNS]),
                            unwrapped(runner.model).coverage])
        self.sum = values if self.sum is None else self.sum + values  # stays on the device
        self.steps += 1

    def after_train_epoch(self, runner):
        total = torch.nn.functional.pad(self.sum, (0, 1), value=self.steps)
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
        self.health = checkpoint.get('meta', {}).get('part_health')
        so_far = checkpoint.pop('part_health_so_far', None)
        if so_far and runner.cfg.get('resume'):
            rows, self.steps = so_far['sum'], so_far['steps']
            # With another number of processes each takes the mean; the total mean is the same.
            self.sum = rows[get_rank()] if len(rows) == get_world_size() else rows.mean(0)

    def before_save_checkpoint(self, runner, checkpoint):
        checkpoint['meta']['part_health'] = self.health
        if self.steps:
            checkpoint['part_health_so_far'] = dict(sum=stack_ranks(self.sum), steps=self.steps)

    def after_train(self, runner):
        signs = (self.health or {}).get('collapsed')
        if signs and is_main_process():
            runner.logger.error(
                f'PART LEARNING HAS COLLAPSED OR FAILED: {"; ".join(signs)}. Masks made of these '
                'parts are useless. These helped: no 1/sqrt(D) in the logits, a learning rate '
                'of 4e-3, diversity_weight 0.03, or decoder=dict(type=\'semmae.PaintDecoder\')')
