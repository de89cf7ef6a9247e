"""The hook that calls the rest of this folder during a training or a test."""
import time
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook

from ..config.lookup import full_size
from ..config.preflight import require_consistent, require_evaluation
from ..config.protocol import split_of
from ..config.size import run_size
from ..registry import HOOKS
from ..results.results import append_result
from .checkpoint import require_fit, write_facts
from .line import line_of, own_checkpoint, require_agreement, require_result
from .predictions import Predictions
from .weights import Weights


@HOOKS.register_module()
class ResultRecorder(Hook):
    """Writes ``work_dir/results.jsonl`` after the last validation of a training and after a test.

    Reads two dicts of the config:
      recipe = dict(id, method, full=dict(epochs=800, num_train=...))     of a pre-training
      result = dict(task, dataset, split, metric, tables, full=dict(...))  of an evaluation;
          several metrics give a line each
    ``full`` is the paper's size: a smaller run is marked as reduced, with the reason.
    The recipe travels in the checkpoints' ``meta['semmae']``, so that a downstream run knows what
    it evaluates. ``result.recipe`` and ``result.method`` name foreign checkpoints.
    `Predictions` stores the prediction for each image next to the line. The metric is recomputed
    from them; a difference is an error.
    """

    priority = 'LOWEST'

    def __init__(self):
        self.weights = Weights()
        self.predictions: Any = None
        self.started = time.time()

    def before_run(self, runner):
        require_result(runner.cfg)

    def before_train(self, runner):
        loader = runner.train_dataloader
        if not len(loader):
            raise ValueError(
                f'{len(loader.dataset)} training images do not fill one batch of '
                f'{run_size(runner)["batch_size"]}; lower train_dataloader.batch_size, or repeat '
                'them: train_dataloader.dataset.min_length')
        require_consistent(runner)
        # Find errors now that would otherwise occur at the first checkpoint or validation.
        self.before_save_checkpoint(runner, dict(meta=dict(epoch=runner.epoch, iter=runner.iter)))
        if 'result' in runner.cfg and runner.val_loop is not None:
            split_of(runner)
            self.weights.kind(runner)
            require_evaluation(runner, names_of(runner.cfg.result.metric))
        wanted, batch = full_size(runner.cfg).get('batch_size'), run_size(runner)['batch_size']
        if wanted and batch != wanted:
            runner.logger.info(f'global batch {batch}, the recipe has {wanted}: results will be '
                               'marked (--keep-batch accumulates gradients to it)')

    def before_save_checkpoint(self, runner, checkpoint):
        if is_main_process():  # all processes call it, the first one saves
            write_facts(checkpoint['meta'], runner, self.weights)

    def after_load_checkpoint(self, runner, checkpoint):
        meta = checkpoint.get('meta') or {}
        meta.pop('config', None)  # mmengine would execute it when it resumes
        require_fit(checkpoint, runner)
        self.weights.load(meta, runner)

    def before_val_epoch(self, runner):
        is_wanted = 'result' in runner.cfg and runner.iter >= runner.max_iters  # the last one
        self.collect(runner, runner.val_dataloader if is_wanted else None)

    def before_test_epoch(self, runner):
        self.collect(runner, runner.test_dataloader if 'result' in runner.cfg else None)

    def collect(self, runner, loader):
        """Collect the predictions of an evaluation; loader: None where none are kept."""
        self.predictions = loader and Predictions(
            runner.work_dir, loader.dataset, runner.log_dir)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if self.predictions:
            self.predictions.add(outputs)

    after_test_iter = after_val_iter

    def after_val_epoch(self, runner, metrics=None):
        if self.predictions:
            self.write(runner, metrics, own_checkpoint(runner))

    def after_test_epoch(self, runner, metrics=None):
        if self.predictions:
            self.write(runner, metrics, runner.cfg.get('load_from'),
                       self.weights.loaded.get('semmae_result'))

    def write(self, runner, metrics, checkpoint, trained=None):
        """Append a line for each metric; checkpoint and trained as in `line_of`."""
        predictions, arrays = self.predictions.write()
        if not is_main_process():
            return
        stated = names_of(runner.cfg.result.metric)
        wanted = [metric for metric in stated if metric in metrics]
        if not wanted:
            raise ValueError(f'result.metric is {stated}, expected some of {sorted(metrics)}')
        if wanted != stated:  # a data set may not have every metric
            runner.logger.info(f'no value for {sorted(set(stated) - set(wanted))}')
        require_agreement({metric: metrics[metric] for metric in wanted}, arrays, predictions)
        record = dict(line_of(runner, self.weights, checkpoint, trained), predictions=predictions,
                      wall_time_s=round(time.time() - self.started, 1))
        path = Path(runner.work_dir) / 'results.jsonl'
        for metric in wanted:
            line = append_result(path, dict(record, metric=metric, unit=unit_of(metric),
                                            value=float(metrics[metric])))
            runner.logger.info(f"result {line['row']}: {metric} {metrics[metric]:.2f} -> {path}")


def names_of(metric):
    """The names of ``result.metric``, a text or a list of texts."""
    return [metric] if isinstance(metric, str) else list(metric)


UNITS = {'rmse': 'm', 'abs_rel': '', 'd1': '', 'd2': '', 'd3': ''}  # others are percent


def unit_of(metric):
    """The unit of a metric: '%', 'm' for metres, or ''."""
    name = metric.rsplit('/', 1)[-1]
    return '' if name.endswith('parts_used') else UNITS.get(name, '%')
