"""What tools/train.py and tools/test.py do: config in, mmengine runner out, errors in one line."""
import contextlib
import itertools
import os
import re
import shutil
import sys
import sysconfig
import warnings
from importlib.util import find_spec
from pathlib import Path
from types import MethodType

import torch
from mmengine.dist import broadcast_object_list, get_world_size, is_main_process
from mmengine.runner import Runner

from .. import registry  # noqa: F401  registers everything, and checks the stack first
from ..files import writable_folder
from .allocator import keep_freed_memory
from .checkpoint import latest, load_whole, read_checkpoint
from .config import read_config
from .guards import only_run, require_new, train_until_stopped, trained_by
from .hooks import unwrapped
from .optim import multiplies_bfloat16
from .sanity import built_from, require_numbers
from .saving import is_first_process

# How mmcv and mmpretrain begin what is a user's mistake and not theirs.
FOREIGN_MISTAKES = ('failed to load image', 'dataset is incorrectly organized',
                    'Found 0 files in subfolders of')
RUNS = itertools.count()  # of this process


@contextlib.contextmanager
def fail_clearly():
    """A user's mistake ends in one line on stderr and exit status 2; our own in a traceback."""
    try:
        yield
    except (ValueError, FileNotFoundError, FloatingPointError, RuntimeError,
            AssertionError) as error:
        known = isinstance(error, (ValueError, FileNotFoundError, FloatingPointError)) or any(
            text in str(error) for text in FOREIGN_MISTAKES)
        if os.environ.get('SEMMAE_TRACEBACK') or not known:
            raise
        print(f'{message_of(error)}\n(SEMMAE_TRACEBACK=1 shows where)', file=sys.stderr)
        sys.exit(2)


def message_of(error):
    """'ValueError: what is wrong'; of what a DataLoader's worker met, without its traceback.

    torch makes that traceback the text of an error of the same type.
    """
    name, text = type(error).__name__, str(error)
    if text.startswith(f'Caught {name} in '):
        text = re.split(rf'^(?:\w+\.)*{name}: ', text, flags=re.MULTILINE)[-1].strip()
    return f'{name}: {text}'


def prepare(config, work_dir=None, launcher='none', options=None):
    """The config as the runner takes it: work directory, launcher, CPU processes."""
    warnings.filterwarnings('ignore', category=UserWarning, module='mm.*')
    cfg = read_config(config, options)
    cfg.launcher = launcher
    cfg.work_dir = str(writable_folder(
        work_dir or cfg.get('work_dir') or Path('work_dirs') / Path(config).stem))
    if launcher != 'none' and not torch.cuda.is_available():
        # mmengine would ask for a GPU: start gloo first, and tell DDP that there is no device.
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group('gloo')
        wrapper = cfg.get('model_wrapper_cfg') or dict(type='MMDistributedDataParallel')
        cfg.model_wrapper_cfg = dict(wrapper, device_ids=None, broadcast_buffers=False)
    return cfg


def without_sync_bn(node):
    """SyncBN of a config becomes BN in place, which in a test is the same and needs no GPU."""
    if isinstance(node, dict):
        if node.get('type') == 'SyncBN':
            node['type'] = 'BN'
        node = list(node.values())
    for inner in node if isinstance(node, (list, tuple)) else ():
        without_sync_bn(inner)


def add_tensorboard(cfg):
    """Logs and pictures go to TensorBoard too, where it is installed and the config has a log.

    In the ``vis_data`` of the run: ``tensorboard --logdir work_dirs``. Imports nothing by itself.
    """
    backends = cfg.get('visualizer', {}).get('vis_backends') or ()
    types = [backend.type for backend in backends]
    if types and 'TensorboardVisBackend' not in types and find_spec('tensorboard'):
        cfg.visualizer.vis_backends = [*backends, dict(type='TensorboardVisBackend')]


def train(config, work_dir=None, resume=False, amp=False, launcher='none', options=None,
          seed=None, keep_batch=False, allow_elastic=False):
    """Train ``config``; returns the runner.

    keep_batch: accumulate gradients to the recipe's global batch.
    allow_elastic: resume on another number of processes with the same global batch.
    """
    cfg = prepare(config, work_dir, launcher, options)
    add_tensorboard(cfg)
    if launcher != 'none' and not torch.cuda.is_available() and 'SyncBN' in str(cfg.model):
        raise ValueError(f'{config} normalises over all processes (SyncBN), which needs GPUs; '
                         f'found none. Run one process: python tools/train.py {config}')
    if keep_batch:
        said = accumulate(cfg, world_size_of(launcher))
        if is_first_process(launcher):
            print(said, file=sys.stderr)
    if allow_elastic:
        cfg.allow_elastic = True  # `ResultRecorder` compares
    require_numbers(cfg)
    if seed is not None:
        cfg.randomness = dict(cfg.get('randomness', {}), seed=seed)
    if cfg.get('randomness', {}).get('seed') is None:
        raise ValueError(f'{config}: randomness.seed is not set; a run without a seed cannot be '
                         'resumed or repeated. Give --seed')
    if amp or cfg.optim_wrapper.type == 'AmpOptimWrapper':
        cfg.optim_wrapper = mixed_precision(cfg.optim_wrapper, asked=amp)

    # Ours, not mmengine's, which compiles the whole step, and again when the progress moves.
    how = cfg.get('compile') or cfg.get('compiled', False)  # the latter: of a work directory
    cfg.compile, cfg.compiled = False, how

    def to_the_result(runner):
        if how:
            compile_parts(runner, how)
        with built_from(cfg, lambda: getattr(runner, 'is_consistent', False)):
            model = train_until_stopped(runner)
        missing = ['result' in cfg and not (Path(runner.work_dir) / 'results.jsonl').is_file()]
        broadcast_object_list(missing)  # the first process wrote it, so it knows
        if missing[0]:
            runner.val_loop.run()  # it was stopped after the last step, before its evaluation
        return model
    with only_run(cfg.work_dir, launcher):
        cfg.resume = False
        if not resume:
            require_new(cfg.work_dir)
        elif newest := latest(cfg.work_dir, launcher):
            # mmengine's last_checkpoint holds an absolute path, which a moved folder would betray.
            cfg.update(resume=True, load_from=str(newest))
        elif is_first_process(launcher):
            print(f'--resume: no checkpoint in {cfg.work_dir}, starting anew', file=sys.stderr)
        return run(cfg, to_the_result)


def compile_parts(runner, how):
    """torch.compile a model in place; names in checkpoints stay. how: True or options.

    Of `SemMAE` all that comes after the mask, as one graph: nothing in it depends on the progress.
    Of other models encoder and decoder.
    """
    if how is not True and not isinstance(how, dict):
        raise ValueError(f'compile is {how!r}, expected True, False or a dict of options of '
                         'torch.compile (in a config: dict(_delete_=True, ...))')
    model, options = unwrapped(runner.model), {} if how is True else how
    needs_compiler = (options.get('backend', 'inductor') == 'inductor'
                      and next(model.parameters()).device.type == 'cpu')
    if needs_compiler and (missing := missing_of_compiler()):
        raise ValueError(f'compile={how} on a CPU needs a C++ compiler and the headers of Python, '
                         f'found no {missing}: install it (Debian, Ubuntu: apt install g++ '
                         'python3-dev; CXX names another compiler), or leave compile out')
    if hasattr(model, 'pixel_loss'):
        # A method of this object, so that a copy of it computes with its own tensors.
        model.pixel_loss = MethodType(torch.compile(type(model).pixel_loss, **options), model)
    else:
        for name, part in model.named_children():
            if name in ('backbone', 'encoder', 'decoder'):
                part.compile(**options)
    runner.logger.info('compiled; the first iterations take longer')


def missing_of_compiler():
    """What torch.compile would need on a CPU and does not find here, or ''."""
    compiler = os.environ.get('CXX', 'g++')
    header = Path(sysconfig.get_path('include'), 'Python.h')
    return next((str(name) for name, is_there in (
        (compiler, shutil.which(compiler)), (header, header.is_file())) if not is_there), '')


def world_size_of(launcher):
    """Processes that ``launcher`` started, before they are connected."""
    if launcher == 'none':
        return get_world_size()
    return int(os.environ['SLURM_NTASKS' if launcher == 'slurm' else 'WORLD_SIZE'])


def accumulate(cfg, processes):
    """Set the accumulated steps that give the recipe's global batch on ``processes``.

    Where training is counted in iterations, which mmengine counts before accumulation, lengths and
    schedules grow with it. Returns one line that says what the batch is made of.
    """
    each = cfg.train_dataloader.batch_size
    stated = cfg.get('recipe') or cfg.get('result') or {}
    wanted = stated.get('full', {}).get('batch_size')
    if not wanted:
        raise ValueError('--keep-batch: the config states no global batch, expected '
                         'full.batch_size in recipe or result; leave --keep-batch out')
    steps, rest = divmod(wanted, each * processes)
    if rest:
        raise ValueError(
            f'--keep-batch: found {each} images x {processes} processes = {each * processes}, '
            f'expected a divisor of the global batch {wanted} of the recipe; change '
            'train_dataloader.batch_size or the number of processes')
    cfg.optim_wrapper.accumulative_counts = steps
    norm = '' if 'BN' not in str(cfg.model) or steps == 1 else (
        f'; batch norm sees {each * (processes if "SyncBN" in str(cfg.model) else 1)} of them')
    if cfg.train_cfg.get('max_iters'):
        scale(cfg.train_cfg, steps, 'max_iters', 'val_interval')
        for schedule in cfg.param_scheduler:
            scale(schedule, steps, 'begin', 'end', 'T_max', 'milestones')
        scale(cfg.default_hooks.checkpoint, steps, 'interval')
    return (f'global batch {wanted} = {each} x {processes} processes x {steps} accumulated steps'
            f'{norm}')


def scale(node, steps, *keys):
    """Multiply these counts by ``steps``; what is none (-1: never) stays."""
    for key in keys:
        value = node.get(key)
        if isinstance(value, (list, tuple)):
            node[key] = [v * steps for v in value]
        elif value and value > 0:
            node[key] = value * steps


def mixed_precision(optim_wrapper, asked):
    """AMP where there is a GPU; without one bfloat16 if it was asked for, else float32."""
    dtype, loss_scale = optim_wrapper.get('dtype'), optim_wrapper.get('loss_scale', 'dynamic')
    if dtype not in (None, 'bfloat16', 'float16'):
        raise ValueError(f'optim_wrapper.dtype is {dtype!r}, expected bfloat16 or float16; for '
                         'float32 set optim_wrapper.type=OptimWrapper')
    if dtype == 'float16' and loss_scale == 1:
        raise ValueError('optim_wrapper.loss_scale is 1 with float16, where small gradients become '
                         '0; expected optim_wrapper.loss_scale=dynamic')
    if torch.cuda.is_available():
        return dict(optim_wrapper, type='AmpOptimWrapper')
    if asked:
        if dtype == 'float16' or not multiplies_bfloat16():
            raise ValueError('--amp needs a GPU, or for bfloat16 a CPU that multiplies it '
                             '(AVX512-BF16, AMX); found neither. Leave it out to train in float32')
        return dict({k: v for k, v in optim_wrapper.items() if k != 'loss_scale'},
                    type='semmae.CPUAmpOptimWrapper', dtype='bfloat16')
    print('no GPU: float32 instead of mixed precision', file=sys.stderr)
    return dict({k: v for k, v in optim_wrapper.items() if k not in ('dtype', 'loss_scale')},
                type='OptimWrapper')


def test(config, checkpoint, work_dir=None, launcher='none', options=None):
    """Evaluate ``checkpoint`` under ``config``; returns the metrics."""
    content = read_checkpoint(checkpoint)  # before anything is written
    cfg = prepare(config, work_dir, launcher, options)
    if not cfg.get('test_dataloader'):
        if 'result' in cfg:
            raise ValueError(f'{config} has no test of its own: it trains nothing and evaluates at '
                             f'once. Run: python tools/train.py {config} --cfg-options '
                             f'model.backbone.init_cfg.checkpoint={checkpoint}')
        cure = ('tools/part_quality.py' if cfg.model.type == 'semmae.PartLearner' else
                'a downstream config, for example mm_configs/semmae_linprobe.py')
        raise ValueError(f'{config} has no test: it trains {cfg.model.type}. Evaluate its '
                         f'checkpoint with {cure}')
    if cfg.optim_wrapper.type == 'AmpOptimWrapper':
        cfg.optim_wrapper = mixed_precision(cfg.optim_wrapper, asked=False)
    if launcher != 'none' and not torch.cuda.is_available():
        without_sync_bn(cfg.model)

    if is_first_process(launcher) and (who := trained_by(cfg.work_dir)):
        print(f'{cfg.work_dir} is in use by {who}; this test writes its line beside',
              file=sys.stderr)
    return evaluate(cfg, checkpoint, content)


def evaluate(cfg, checkpoint, content=None):
    """Test a prepared config on a checkpoint that fills every tensor; returns the metrics.

    content: of the checkpoint, where it was read already.
    """
    content = content or read_checkpoint(checkpoint)

    def load_and_test(runner):
        load_whole(unwrapped(runner.model), checkpoint, content)
        runner.call_hook('after_load_checkpoint', checkpoint=content)
        runner._has_loaded = True
        runner.cfg.load_from = str(checkpoint)
        return runner.test()
    return run(cfg, load_and_test)


def run(cfg, action):
    """Build the runner and act; its dump of the config gets a name of its own.

    Runner writes ``work_dir/<name of the config>``, and mim looks for configs by that name.
    """
    keep_freed_memory()
    filename = cfg.filename
    # mmengine keeps log, scalars and pictures of a run under its name and the second of its start:
    # the next run of a process within that second would write into the folder of the one before.
    cfg.experiment_name = f'{Path(filename).stem}_{next(RUNS)}'
    with built_from(cfg):
        runner = Runner.from_cfg(cfg)
    copy = Path(runner.work_dir) / Path(filename).name
    if is_main_process() and copy.is_file() and copy.resolve() != Path(filename).resolve():
        copy.rename(copy.with_name('config.py'))
    return action(runner)
