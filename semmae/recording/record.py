"""From a finished run to its line in results.jsonl, with everything a reader needs to trust it."""
import hashlib
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook, Hook

from ..checkpoints.load import listed, misfits
from ..checkpoints.read import local_file
from ..config.conditions import (
    changes,
    config_changes,
    model_facts,
    parts_behind,
    plain,
    probe_parts,
    protocol_of,
    protocol_of_test,
    run_identity,
    run_size,
    split_of,
    why_enlarged,
    why_reduced,
)
from ..config.identity import accumulated_steps, identity_of, origin_fields, training_fields
from ..config.preflight import require_consistent, require_evaluation
from ..config.recipes import differences, task_differences
from ..files import sha256
from ..models.layers import unwrapped
from ..registry import HOOKS
from ..results.predictions import recount
from ..results.protocol import metric_name
from ..results.results import append_result
from .predictions import Predictions


@HOOKS.register_module()
class ResultRecorder(Hook):
    """Writes ``work_dir/results.jsonl`` after the last validation of a training and after a test.

    Reads two dicts of the config:
      recipe = dict(id, method, full=dict(epochs=800, num_train=...))     of a pre-training
      result = dict(task, dataset, split, metric, tables, full=dict(...))  of an evaluation;
          several metrics give a line each
    ``full`` is the paper's size: a run with less is marked as reduced, with the reason.
    The recipe travels in the checkpoints' ``meta['semmae']``, so that a downstream run knows what
    it evaluates. ``result.recipe`` and ``result.method`` name foreign checkpoints.
    What was predicted for each image is kept beside the line (`Predictions`), and the metric is
    counted again from it: a number that does not follow from its predictions is refused.
    """

    priority = 'LOWEST'

    def __init__(self):
        self.meta = {}  # of the checkpoint that was loaded whole, if any
        self.start = ''  # sha256 of the weights that a training was told to start from
        self.differs = None  # from the recipe whose name it has
        self.task_differs = None  # from the shipped config of its task
        self.started = time.time()

    def before_run(self, runner):
        """A line that could not be written later is refused now."""
        for key in ('task', 'dataset', 'split', 'metric') if 'result' in runner.cfg else ():
            found = runner.cfg.result.get(key)
            if not isinstance(found, str) and not (key == 'metric' and found):
                raise ValueError(f'result.{key} is {found!r}, expected a text')

    def before_train(self, runner):
        loader = runner.train_dataloader
        if not len(loader):
            raise ValueError(
                f'{len(loader.dataset)} training images do not fill one batch of '
                f'{run_size(runner)["batch_size"]}; lower train_dataloader.batch_size, or repeat '
                'them: train_dataloader.dataset.min_length')
        require_consistent(runner)
        self.try_recording(runner)
        stated = runner.cfg.get('recipe') or runner.cfg.get('result') or {}
        wanted, found = stated.get('full', {}).get('batch_size'), run_size(runner)['batch_size']
        if wanted and found != wanted:
            runner.logger.info(f'global batch {found}, the recipe has {wanted}: results will be '
                               'marked (--keep-batch accumulates gradients to it)')

    def try_recording(self, runner):
        """What would fail at the first checkpoint or validation fails now."""
        counts = dict(epoch=runner.epoch, iter=runner.iter)
        self.before_save_checkpoint(runner, dict(meta=counts))
        if 'result' not in runner.cfg or runner.val_loop is None:
            return
        split_of(runner)
        self.kind_of(runner)
        require_evaluation(runner, names_of(runner.cfg.result.metric))

    # -- what a checkpoint says about itself
    def before_save_checkpoint(self, runner, checkpoint):
        if not is_main_process():  # called for what others gather; nothing is saved here
            return
        meta = checkpoint['meta']
        size = run_size(runner)
        done = dict(epochs=meta['epoch'], iters=meta['iter'] // accumulated_steps(runner.cfg))
        size.update({k: v for k, v in done.items() if k in size})  # not what is planned
        meta['semmae'] = self.describe(runner, size)
        if 'result' in runner.cfg:
            meta['semmae']['trained_on'] = runner.cfg.result.task
            meta['semmae_result'] = dict(
                size=size, kind=self.kind_of(runner), differs=self.of_the_task(runner),
                protocol=plain(protocol_of(runner, meta['semmae'], size)))
        meta['semmae_run'] = run_identity(runner)
        meta['semmae_config'] = training_fields(runner.cfg)

    def after_load_checkpoint(self, runner, checkpoint):
        meta = checkpoint.get('meta') or {}
        meta.pop('config', None)  # mmengine would execute it when it resumes
        self.meta = meta
        if runner._resume:
            known = (meta.get('semmae') or {}).get('identity') or {}
            self.start = known.get('start.weights', '')
        state = checkpoint.get('state_dict', {})
        if odd := misfits({k: v for k, v in state.items() if torch.is_tensor(v)},
                          unwrapped(runner.model).state_dict()):
            raise ValueError(
                f'the checkpoint does not fit this config: {len(odd)} tensors differ:'
                f'{listed(odd)}\nFor a backbone alone use model.backbone.init_cfg.checkpoint')
        if runner._resume and 'semmae_run' in meta:
            wrong = changes(meta['semmae_run'], run_identity(runner),
                            runner.cfg.get('allow_elastic'))
            wrong += config_changes(meta.get('semmae_config'), training_fields(runner.cfg))
            if wrong:
                raise ValueError(f'cannot resume: the run differs: {"; ".join(wrong)}. '
                                 'Restore them, or start in another --work-dir')
        elif not runner._resume and runner.cfg.get('load_from') and hasattr(
                getattr(runner, '_train_loop', None), 'dataloader'):
            self.start = sha256(local_file(runner.cfg.load_from))

    def describe(self, runner, size=None):
        """Plain data about the pre-training behind the weights of this run."""
        recipe = runner.cfg.get('recipe')
        if recipe:
            size, full = size or run_size(runner), recipe.get('full', {})
            fields = identity_of(runner, size)
            if self.start:
                fields['start.weights'] = self.start[:12]
            if self.differs is None:  # the same during a training; a reduced one differs anyway
                self.differs = {} if why_reduced(full, run_size(runner)) else differences(
                    fields, recipe.id)
            return dict(id=recipe.id, method=recipe.method + other_parts(recipe, fields, runner),
                        config=config_name(runner.cfg), seed=runner.seed,
                        reduced_why=why_reduced(full, size), enlarged_why=why_enlarged(full, size),
                        identity=plain(fields), differs=plain(self.differs),
                        parts=parts_behind(runner), encoder=encoder_behind(runner),
                        git_commit=git_commit(), **size)
        report = getattr(getattr(unwrapped(runner.model), 'backbone', None), 'load_report', None)
        stated = runner.cfg.get('result', {})
        if report is None:
            name = stated.get('recipe') or 'scratch'
            own = self.meta.get('semmae') or dict(
                id=name, method=stated.get('method') or (
                    name if name != 'scratch' else 'untrained'
                    if self.kind_of(runner) == 'frozen' else 'from scratch'), reduced_why='')
            if self.start:
                own = own | dict(identity={**(own.get('identity') or {}),
                                           'start.weights': self.start[:12]})
            own = {**own, **stated.get('stands_for', {}),
                   **{k: own[k] + v for k, v in stated.get('variant', {}).items()}}
            learner = unwrapped(runner.model)
            if getattr(learner, 'num_parts_out', None) != getattr(learner, 'num_parts', None):
                own['method'] += f' ({learner.num_parts_out} parts)'
            return own
        own = dict(report.get('recipe') or {})
        if own and stated.get('recipe') not in (None, own['id']):
            raise ValueError(f"result.recipe is '{stated.recipe}', but {report['path']} says that "
                             f"it was made by '{own['id']}'")
        stem = Path(report['path']).stem
        own = own or dict(id=stated.get('recipe') or f'file:{stem}', reduced_why='',
                          method=stated.get('method') or stated.get('recipe') or stem)
        own['identity'] = origin_fields(own, report['sha256'])
        task = own.pop('trained_on', None)
        if task:  # weights that were fine-tuned in between are no pre-training any more
            own.update(id=f'{own["id"]}+{task}', method=f'{own["method"]}, trained on {task}',
                       identity=dict(own['identity'], trained_on=task,
                                     weights=report['sha256'][:12]))
        return dict(own, load_report={k: v for k, v in report.items() if k != 'recipe'})

    def of_the_task(self, runner):
        """In what this run differs from the shipped config of its task; {} for a reduced one."""
        if self.task_differs is None:
            size = run_size(runner)
            full = runner.cfg.result.get('full', {})
            self.task_differs = {} if why_reduced(full, size) else plain(
                task_differences(runner.cfg, size) | other_sources(probe_parts(runner)))
        return self.task_differs

    def kind_of(self, runner):
        """'frozen', 'fine-tuned' or 'from scratch': what a training does with its backbone."""
        backbone = getattr(unwrapped(runner.model), 'backbone', None)
        if backbone is not None and not any(p.requires_grad for p in backbone.parameters()):
            return 'frozen'
        has_start = getattr(backbone, 'load_report', None) or self.start
        return 'fine-tuned' if has_start or init_of(runner.cfg) else 'from scratch'

    # -- the line
    def before_val_epoch(self, runner):
        is_wanted = 'result' in runner.cfg and is_last(runner)
        self.collect(runner, runner.val_dataloader if is_wanted else None)

    def before_test_epoch(self, runner):
        self.collect(runner, runner.test_dataloader if 'result' in runner.cfg else None)

    def collect(self, runner, loader):
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
                       self.meta.get('semmae_result'))

    def write(self, runner, metrics, checkpoint, trained=None):
        """Append the line; ``trained`` is what the checkpoint says of its training, for a test."""
        predictions, arrays = self.predictions.write()
        if not is_main_process():
            return
        cfg, result = runner.cfg, runner.cfg.result
        stated = names_of(result.metric)
        wanted = [metric for metric in stated if metric in metrics]
        if not wanted:
            raise ValueError(f'result.metric is {stated}, the evaluator gave {sorted(metrics)}')
        if wanted != stated:  # of several, some may have no meaning on a data set
            runner.logger.info(f'no value for {sorted(set(stated) - set(wanted))}')
        require_agreement({metric: metrics[metric] for metric in wanted}, arrays, predictions)
        weights = self.describe(runner)
        size = trained['size'] if trained else run_size(runner)
        protocol = protocol_of(runner, weights, size, is_test=bool(trained))
        if trained:
            protocol = protocol_of_test(trained['protocol'], protocol)
        protocol |= split_of(runner) | selection(cfg, checkpoint)
        full = result.get('full', {})
        reduced_why = both(weights.get('reduced_why'), why_reduced(full, size))
        path = Path(runner.work_dir) / 'results.jsonl'
        record = dict(
            row=f'{result.task}/{weights["id"]}', tables=list(result.get('tables', [])),
            method=weights['method'], recipe=weights['id'], task=result.task,
            dataset=result.dataset, split=result.split,
            seed=(self.meta.get('semmae_run') or {}).get('seed', runner.seed) if trained
            else runner.seed,
            epochs=size.get('epochs'), iters=size.get('iters'), protocol=plain(protocol),
            config=config_name(cfg),
            config_sha256=hashlib.sha256(cfg.pretty_text.encode()).hexdigest(),
            checkpoint=near(checkpoint) if checkpoint else None,
            checkpoint_sha256=sha256(checkpoint) if checkpoint else None,
            load_report=weights.get('load_report'), git_commit=git_commit(),
            pretraining={k: weights[k] for k in ('identity', 'differs') if weights.get(k)},
            model=model_facts(unwrapped(runner.model), cfg),
            kind=trained.get('kind') if trained else self.kind_of(runner),
            differs=trained.get('differs') if trained else self.of_the_task(runner),
            enlarged_why=both(weights.get('enlarged_why'), why_enlarged(full, size)),
            predictions=predictions, versions=versions(), device=device(),
            wall_time_s=round(time.time() - self.started, 1),
            reduced=bool(reduced_why), reduced_why=reduced_why)
        for metric in wanted:
            unit = '' if metric.endswith('parts_used') else '%'
            line = append_result(path, dict(record, metric=metric, unit=unit,
                                            value=float(metrics[metric])))
            runner.logger.info(f"result {line['row']}: {metric} {metrics[metric]:.2f} -> {path}")


def both(of_pretraining, of_task):
    """One text of what is said of a pre-training and of the task on it."""
    return '; '.join(text for text in (of_pretraining and f'pre-training: {of_pretraining}',
                                       of_task) if text)


def names_of(metric):
    return [metric] if isinstance(metric, str) else list(metric)


def init_of(cfg):
    """Whether a config starts a backbone from a file, whoever loads it."""
    backbone = cfg.model.get('backbone') or {}
    init = backbone.get('init_cfg') or {}
    return bool(backbone.get('pretrained') or cfg.model.get('pretrained') or (
        isinstance(init, dict) and init.get('type') == 'Pretrained'))


def other_parts(recipe, fields, runner):
    """'' or, where the parts are not of the kind that a recipe has, what they are."""
    source = fields.get('parts.source')
    wanted = (recipe.get('parts') or {}).get('source', 'learned')
    if source in (None, 'online', wanted):
        return ''
    return {'labels': ', true parts', 'heads': ', encoder heads as parts',
            'learned': ', learned parts'}.get(source, f', {source} parts')


def other_sources(fields):
    """{field: ['learned', source]} where a probe chooses patches by parts that are not learned."""
    return {key: ['learned', source] for key, source in fields.items()
            if key in ('train_parts.source', 'val_parts.source') and source != 'learned'}


def own_checkpoint(runner):
    """The file with the weights of a training: the last it saved, or what it was resumed from."""
    hook = next((h for h in runner.hooks if isinstance(h, CheckpointHook)), None)
    return hook and (hook.last_ckpt or runner.cfg.get('load_from'))


def selection(cfg, checkpoint):
    """{} for the last checkpoint; otherwise of how many a number is the best.

    ``result.selected_from`` says how many settings were tried; a file that mmengine's ``save_best``
    wrote is the best of the validations of its training.
    """
    texts = []
    if cfg.result.get('selected_from'):
        texts.append(f'best of {cfg.result.selected_from} settings')
    if checkpoint and Path(checkpoint).name.startswith('best_'):
        train = cfg.get('train_cfg') or {}
        length = train.get('max_epochs') or train.get('max_iters')
        num = length and -(-length // train.get('val_interval', 1))
        texts.append(f'best of {num or "several"} validations')
    return dict(selection=', '.join(texts)) if texts else {}


def require_agreement(metrics, arrays, source):
    """ValueError where a metric is not what its predictions say, to the two decimals of mmseg."""
    counted = {name.lower(): value for name, value in (recount(arrays) if arrays else {}).items()}
    for metric, value in metrics.items():
        again = counted.get(metric_name(metric))
        if again is not None and abs(again - value) > 0.0051:
            raise ValueError(f'the evaluator gives {metric} {value:.4f}, {source} says '
                             f'{again:.4f}; no result was written. Check the evaluator of the '
                             'config: both have to look at the same images and labels')


def near(path):
    """A path as seen from here, if it lies below; results travel to other machines."""
    path = Path(path).absolute()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def is_last(runner):
    """Whether the training that is being validated has reached its configured end."""
    loop = runner.train_loop
    if loop.__class__.__name__.startswith('Iter'):
        return loop.iter >= loop.max_iters
    return loop.epoch >= loop.max_epochs


def config_name(cfg):
    """The config's path below its project, as a user types it."""
    if not cfg.filename:
        return ''
    path = Path(cfg.filename).resolve()
    root = next((p for p in path.parents if (p / 'mm_configs').is_dir()), path.parent)
    return path.relative_to(root).as_posix()


def encoder_behind(runner):
    """What the frozen encoder of part learning is: its name and the hash of its file, or None."""
    report = getattr(getattr(unwrapped(runner.model), 'encoder', None), 'load_report', None)
    if report is None:
        return None
    name = (report.get('recipe') or {}).get('id') or Path(report['path']).stem
    return dict(name=name, sha256=report['sha256'])


def git_commit():
    """The project's commit, '-dirty' if tracked files differ from it; None outside a checkout."""
    def git(*command):
        return subprocess.run(['git', *command], cwd=Path(__file__).parent, text=True, timeout=10,
                              capture_output=True, check=True).stdout.strip()
    try:
        return git('rev-parse', 'HEAD') + (
            '-dirty' if git('status', '--porcelain', '--untracked-files=no') else '')
    except (OSError, subprocess.SubprocessError):
        return None


def versions():
    """Versions of what computes the numbers; None for what is not installed under this name."""
    def find(name):
        try:
            return version(name)
        except PackageNotFoundError:
            return None
    names = ('torch', 'torchvision', 'timm', 'numpy', 'pillow', 'opencv-python', 'onedl-mmengine',
             'onedl-mmcv', 'onedl-mmpretrain', 'onedl-mmsegmentation')
    return dict(python=platform.python_version(), **{n: find(n) for n in names})


def device():
    """The accelerator's name, or the CPU's."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f'cpu ({torch.get_num_threads()} threads)'
