"""From a finished run to its line in results.jsonl, with everything a reader needs to trust it."""
import hashlib
import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

import torch
from mmengine.dist import get_world_size, master_only
from mmengine.hooks import Hook

from ..datasets.seeded import Seeded
from ..evaluation.results import append_result
from ..registry import HOOKS
from .checkpoint import sha256
from .hooks import unwrapped


@HOOKS.register_module()
class ResultRecorder(Hook):
    """Writes ``work_dir/results.jsonl`` after the last validation of a training and after a test.

    Reads two dicts of the config:
      recipe = dict(id, method, full=dict(epochs=800, num_train=...))     of a pre-training
      result = dict(task, dataset, split, metric, tables, full=dict(...))  of an evaluation
    ``full`` is the paper's size: a run with less is marked as reduced, with the reason.
    The recipe travels in the checkpoints' ``meta['semmae']``, so that a downstream run knows what
    it evaluates. ``result.recipe`` and ``result.method`` name foreign checkpoints.
    """

    priority = 'LOWEST'

    def __init__(self):
        self.provenance = None  # of the pre-trained weights, from a checkpoint
        self.started = time.time()

    def before_run(self, runner):
        """A line that could not be written later is refused now."""
        for key in ('task', 'dataset', 'split', 'metric') if 'result' in runner.cfg else ():
            if not isinstance(runner.cfg.result.get(key), str):
                raise ValueError(f'result.{key} is {runner.cfg.result.get(key)!r}, expected a text')

    # -- what a checkpoint says about itself
    def before_save_checkpoint(self, runner, checkpoint):
        checkpoint['meta']['semmae'] = self.describe(runner)

    def after_load_checkpoint(self, runner, checkpoint):
        self.provenance = (checkpoint.get('meta') or {}).get('semmae')

    def describe(self, runner):
        """Plain data about the pre-training behind the weights of this run."""
        recipe = runner.cfg.get('recipe')
        if recipe:
            size = run_size(runner)
            return dict(id=recipe.id, method=recipe.method, config=config_name(runner.cfg),
                        seed=runner.seed, reduced_why=why_reduced(recipe.get('full', {}), size),
                        **size)
        report = getattr(getattr(unwrapped(runner.model), 'backbone', None), 'load_report', None)
        if report is None:
            return self.provenance or dict(id='scratch', method='from scratch', reduced_why='')
        own = report.get('recipe') or {}
        stated = runner.cfg.get('result', {})
        if own and stated.get('recipe') not in (None, own['id']):
            raise ValueError(f"result.recipe is '{stated.recipe}', but {report['path']} says that "
                             f"it was made by '{own['id']}'")
        return dict(own or dict(id=stated.get('recipe') or f"file:{Path(report['path']).stem}",
                                method=stated.get('method') or Path(report['path']).stem,
                                reduced_why=''),
                    load_report={k: v for k, v in report.items() if k != 'recipe'})

    # -- the line
    @master_only
    def after_val_epoch(self, runner, metrics=None):
        if 'result' not in runner.cfg or not is_last(runner):
            return
        last = Path(runner.work_dir) / 'last_checkpoint'
        self.write(runner, metrics, last.read_text().strip() if last.is_file() else None)

    @master_only
    def after_test_epoch(self, runner, metrics=None):
        if 'result' in runner.cfg:
            self.write(runner, metrics, runner.cfg.get('load_from'))

    def write(self, runner, metrics, checkpoint):
        cfg, result = runner.cfg, runner.cfg.result
        if result.metric not in metrics:
            raise ValueError(f"result.metric is '{result.metric}', the evaluator gave "
                             f'{sorted(metrics)}')
        weights = self.describe(runner)
        size = run_size(runner)
        protocol = protocol_of(runner, weights)
        why = [f'pre-training: {weights["reduced_why"]}' if weights.get('reduced_why') else '',
               why_reduced(result.get('full', {}), size)]
        reduced_why = '; '.join(w for w in why if w)
        text = Path(cfg.filename).read_text() if cfg.filename else cfg.pretty_text
        record = append_result(Path(runner.work_dir) / 'results.jsonl', dict(
            row=f'{result.task}/{weights["id"]}', tables=list(result.get('tables', [])),
            method=weights['method'], recipe=weights['id'], task=result.task,
            dataset=result.dataset, split=result.split, metric=result.metric,
            value=float(metrics[result.metric]), unit='%', seed=runner.seed,
            epochs=size.get('epochs'), iters=size.get('iters'), protocol=protocol,
            config=config_name(cfg), config_sha256=hashlib.sha256(text.encode()).hexdigest(),
            checkpoint=str(checkpoint) if checkpoint else None,
            checkpoint_sha256=sha256(checkpoint) if checkpoint else None,
            load_report=weights.get('load_report'), git_commit=git_commit(),
            versions=versions(), device=device(), wall_time_s=round(time.time() - self.started, 1),
            reduced=bool(reduced_why), reduced_why=reduced_why))
        runner.logger.info(f"result {record['row']}: {record['metric']} {record['value']:.2f} -> "
                           f"{Path(runner.work_dir) / 'results.jsonl'}")


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


def run_size(runner):
    """Epochs or iterations, image side, global batch and training images of a run."""
    cfg = runner.cfg
    loader = cfg.get('train_dataloader') or {}
    train = cfg.get('train_cfg') or {}
    size = dict(epochs=train.get('max_epochs'), iters=train.get('max_iters'))
    backbone = getattr(unwrapped(runner.model), 'backbone', None)
    if hasattr(backbone, 'img_size'):
        size['pixels'] = backbone.img_size[0]
    built = getattr(runner, '_train_loop', None)
    if hasattr(built, 'dataloader'):
        data = built.dataloader.dataset
        size['num_train'] = len(data.dataset if isinstance(data, Seeded) else data)
        size['batch_size'] = (loader.get('batch_size', 0) * get_world_size()
                              * cfg.optim_wrapper.get('accumulative_counts', 1))
    return {k: v for k, v in size.items() if v is not None}


def why_reduced(full, size):
    """'' or what is smaller than the paper's size, as '20 of 90 epochs, ...'."""
    names = dict(num_train='training images', iters='iterations', pixels='pixels a side')
    return ', '.join(f'{size[k]} of {v} {names.get(k, k)}' for k, v in full.items()
                     if k in size and size[k] < v)


def protocol_of(runner, weights):
    """Everything that must be equal for two numbers to be comparable, as plain data."""
    cfg, model = runner.cfg, runner.cfg.model
    optim = cfg.get('optim_wrapper') or {}
    optimizer = dict(optim.get('optimizer') or {})
    backbone = unwrapped(runner.model).backbone
    loop = getattr(runner, '_val_loop', None) or getattr(runner, '_test_loop', None)
    files = hashlib.sha256()
    dataset = getattr(getattr(loop, 'dataloader', None), 'dataset', None)
    for i in range(len(dataset) if dataset is not None else 0):
        files.update(Path(dataset.get_data_info(i)['img_path']).name.encode())
    kept = model.get('num_candidates')
    return dict(
        dataset=cfg.result.dataset, split=cfg.result.split, num_classes=model_classes(model),
        split_images=len(dataset) if dataset is not None else None,
        split_sha256=files.hexdigest()[:12], input_size=list(backbone.img_size),
        patch_size=backbone.patch_size,
        tokens=kept or backbone.patch_resolution[0] * backbone.patch_resolution[1],
        schedule=[short(s) for s in cfg.get('param_scheduler') or []],
        **{k: v for k, v in run_size(runner).items() if k not in ('num_train', 'pixels')},
        optimizer=optimizer.pop('type', None), **optimizer,
        layer_decay=(optim.get('paramwise_cfg') or {}).get('layer_decay_rate'),
        precision=optim.get('dtype', 'float32' if optim.get('type') == 'OptimWrapper' else 'amp'),
        clip_grad=optim.get('clip_grad'), drop_path=model.backbone.get('drop_path_rate', 0.),
        frozen=model.backbone.get('is_frozen', False),
        rel_pos_bias=model.backbone.get('rel_pos_bias', False),
        pooling=model.backbone.get('out_type'),
        augmentation=pipeline(cfg.get('train_dataloader')), batch_augments=model.get('train_cfg'),
        test_pipeline=pipeline(cfg.get('val_dataloader') or cfg.get('test_dataloader')),
        test_mode=model.get('test_cfg'),
        pretraining={k: weights.get(k) for k in ('epochs', 'num_train', 'batch_size')})


def model_classes(model):
    head = model.get('head') or model.get('decode_head') or {}
    return head.get('num_classes')


def pipeline(loader):
    """A data loader's transforms, one short text each, without paths and packing."""
    dataset = (loader or {}).get('dataset') or {}
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    steps = [s for s in dataset.get('pipeline') or []
             if not any(word in s['type'] for word in ('Pack', 'LoadImage', 'LoadAnnot'))]
    return [short({k: v for k, v in s.items() if k not in ('store', 'root')}) for s in steps]


def short(step):
    """``Resize(scale=(64, 64))`` of a config dict."""
    step = dict(step)
    kind = str(step.pop('type')).split('.')[-1]
    return f'{kind}({", ".join(f"{k}={v}" for k, v in sorted(step.items()))})'


def git_commit():
    """The project's commit, or None outside a checkout."""
    try:
        return subprocess.run(['git', 'rev-parse', 'HEAD'], cwd=Path(__file__).parent, text=True,
                              capture_output=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def versions():
    """Versions of what computes the numbers."""
    names = ('torch', 'torchvision', 'timm', 'numpy', 'pillow', 'opencv-python', 'onedl-mmengine',
             'onedl-mmcv', 'onedl-mmpretrain', 'onedl-mmsegmentation')
    return dict(python=platform.python_version(), **{n: version(n) for n in names})


def device():
    """The accelerator's name, or the CPU's."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f'cpu ({torch.get_num_threads()} threads)'
