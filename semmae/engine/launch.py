"""What tools/train.py and tools/test.py do: config in, mmengine runner out, errors in one line."""
import contextlib
import os
import sys
import warnings
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.runner import Runner

from .. import registry  # noqa: F401  registers everything, and checks the stack first
from .checkpoint import latest, load_whole, read_checkpoint
from .hooks import unwrapped

# How mmcv and mmpretrain begin what is a user's mistake and not theirs.
FOREIGN_MISTAKES = ('failed to load image', 'dataset is incorrectly organized')


@contextlib.contextmanager
def fail_clearly():
    """A user's mistake ends in one line on stderr and exit status 2; our own in a traceback."""
    try:
        yield
    except (ValueError, FileNotFoundError, RuntimeError, AssertionError) as error:
        known = isinstance(error, (ValueError, FileNotFoundError)) or any(
            text in str(error) for text in FOREIGN_MISTAKES)
        if os.environ.get('SEMMAE_TRACEBACK') or not known:
            raise
        print(f'{type(error).__name__}: {error}\n(SEMMAE_TRACEBACK=1 shows where)',
              file=sys.stderr)
        sys.exit(2)


def read_config(path, options=None):
    """A config with overrides; a key that it does not have is an error."""
    if not Path(path).is_file():
        raise FileNotFoundError(f'no config at {path}; the shipped ones are in mm_configs/')
    cfg = Config.fromfile(path)
    for key in options or {}:
        node = cfg._cfg_dict
        *parents, last = key.split('.')
        for part in parents:
            node = _step(node, part)
        if not _has(node, last) and key not in OPTIONAL:
            known = sorted(node) if isinstance(node, dict) else []
            raise ValueError(f'--cfg-options {key}: {path} has no such key; at that place it has '
                             f'{", ".join(known) or "no keys"}')
    cfg.merge_from_dict(dict(options or {}))
    return cfg


def _step(node, part):
    if isinstance(node, (list, tuple)) and part.isdigit() and int(part) < len(node):
        return node[int(part)]
    return node.get(part) if isinstance(node, dict) else None


def _has(node, key):
    if isinstance(node, (list, tuple)):
        return key.isdigit() and int(key) < len(node)
    return isinstance(node, dict) and key in node


# Keys that a config may leave out.
OPTIONAL = ('model.backbone.init_cfg', 'model.backbone.init_cfg.checkpoint', 'result.recipe',
            'result.method', 'optim_wrapper.accumulative_counts')


def prepare(config, work_dir=None, launcher='none', options=None):
    """The config as the runner takes it: work directory, launcher, CPU processes."""
    warnings.filterwarnings('ignore', category=UserWarning, module='mm.*')
    cfg = read_config(config, options)
    cfg.launcher = launcher
    cfg.work_dir = str(work_dir or cfg.get('work_dir') or Path('work_dirs') / Path(config).stem)
    if launcher != 'none' and not torch.cuda.is_available():
        # mmengine would ask for a GPU: start gloo first, and tell DDP that there is no device.
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group('gloo')
        cfg.model_wrapper_cfg = dict(type='MMDistributedDataParallel', device_ids=None,
                                     broadcast_buffers=False)
    return cfg


def train(config, work_dir=None, resume=False, amp=False, launcher='none', options=None,
          seed=None):
    """Train ``config``; returns the runner."""
    cfg = prepare(config, work_dir, launcher, options)
    cfg.resume = False
    if resume and latest(cfg.work_dir):
        # mmengine's last_checkpoint holds an absolute path, which a moved folder would betray.
        cfg.update(resume=True, load_from=str(latest(cfg.work_dir)))
    if seed is not None:
        cfg.randomness = dict(cfg.get('randomness', {}), seed=seed)
    if cfg.get('randomness', {}).get('seed') is None:
        raise ValueError(f'{config}: randomness.seed is not set; a run without a seed cannot be '
                         'resumed or repeated. Give --seed')
    if amp or cfg.optim_wrapper.type == 'AmpOptimWrapper':
        cfg.optim_wrapper = mixed_precision(cfg.optim_wrapper, asked=amp)

    def to_the_result(runner):
        model = runner.train()
        missing = ['result' in cfg and not (Path(runner.work_dir) / 'results.jsonl').is_file()]
        broadcast_object_list(missing)  # the first process wrote it, so it knows
        if missing[0]:
            runner.val_loop.run()  # it was stopped after the last step, before its evaluation
        return model
    return run(cfg, to_the_result)


def mixed_precision(optim_wrapper, asked):
    """AMP where there is a GPU; without one, an error if it was asked for, else full precision."""
    if torch.cuda.is_available():
        return dict(optim_wrapper, type='AmpOptimWrapper')
    if asked:
        raise ValueError('--amp needs a GPU, found none; leave it out to train in float32')
    print('no GPU: float32 instead of mixed precision', file=sys.stderr)
    return dict({k: v for k, v in optim_wrapper.items() if k not in ('dtype', 'loss_scale')},
                type='OptimWrapper')


def test(config, checkpoint, work_dir=None, launcher='none', options=None):
    """Evaluate ``checkpoint`` under ``config``; returns the metrics."""
    read_checkpoint(checkpoint)  # before anything is written
    cfg = prepare(config, work_dir, launcher, options)
    if not cfg.get('test_dataloader'):
        cure = ('tools/part_quality.py' if cfg.model.type == 'semmae.PartLearner' else
                'a downstream config, for example mm_configs/semmae_linprobe.py')
        raise ValueError(f'{config} has no test: it trains {cfg.model.type}. Evaluate its '
                         f'checkpoint with {cure}')
    if cfg.optim_wrapper.type == 'AmpOptimWrapper':
        cfg.optim_wrapper = mixed_precision(cfg.optim_wrapper, asked=False)

    return evaluate(cfg, checkpoint)


def evaluate(cfg, checkpoint):
    """Test a prepared config on a checkpoint that fills every tensor; returns the metrics."""
    content = read_checkpoint(checkpoint)

    def load_and_test(runner):
        load_whole(unwrapped(runner.model), checkpoint)
        runner.call_hook('after_load_checkpoint', checkpoint=content)
        runner._has_loaded = True
        runner.cfg.load_from = str(checkpoint)
        return runner.test()
    return run(cfg, load_and_test)


def run(cfg, action):
    """Build the runner and act; its dump of the config gets a name of its own.

    Runner writes ``work_dir/<name of the config>``, and mim looks for configs by that name.
    """
    filename = cfg.filename
    runner = Runner.from_cfg(cfg)
    copy = Path(runner.work_dir) / Path(filename).name
    if is_main_process() and copy.is_file() and copy.resolve() != Path(filename).resolve():
        copy.rename(copy.with_name('config.py'))
    return action(runner)
