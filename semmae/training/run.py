"""Trains and tests configs with mmengine's runner, for tools/train.py and tools/test.py."""
import contextlib
import itertools
import logging
import os
import re
import sys
import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from .. import registry  # noqa: F401  registers everything, and checks the stack first
from ..checkpoints.folder import is_first_process
from ..checkpoints.load import load_whole
from ..checkpoints.read import read_checkpoint
from ..config.lookup import kind
from ..config.options import read_config
from ..config.preflight import built_from, require_numbers
from ..files import writable_folder
from ..mmengine_patches import install
from ..models.layers import unwrapped
from ..needs import run_of, with_needs
from .allocator import keep_freed_memory
from .compile import compile_parts, take_compile
from .errors import announce, is_foreign_mistake, message_of, show_output
from .global_batch import made_of, nodes_of, require_batch, world_size_of
from .precision import mixed_precision
from .resume import set_start
from .run_lock import only_run, trained_by
from .slurm import join_tasks
from .stopping import train_until_stopped

RUNS = itertools.count()  # of this process


@dataclass(frozen=True)
class TrainArguments:
    """The arguments of tools/train.py besides the config.

    options: --cfg-options. amp: mixed precision also if the config has none.
    keep_batch: accumulate gradients to the recipe's global batch.
    accept_batch: pre-train at another global batch; the results are marked.
    allow_elastic: resume on another number of processes with the same global batch.
    """
    work_dir: str | Path | None = None
    resume: bool = False
    amp: bool = False
    launcher: str = 'none'
    options: dict | None = None
    seed: int | None = None
    keep_batch: bool = False
    accept_batch: bool = False
    allow_elastic: bool = False


# ------------------------------------------------------------------ train
def train(config, **arguments):
    """Train ``config``; returns the trained model. arguments: fields of `TrainArguments`."""
    given = TrainArguments(**arguments)
    cfg = training_config(config, given)
    how = take_compile(cfg)

    def to_the_result(runner):
        compile_parts(runner.model, how)
        if how:
            runner.logger.info('compiled; the first iterations take longer')
        with built_from(cfg, lambda: getattr(runner, 'is_consistent', False)):
            model = train_until_stopped(runner)
        missing = ['result' in cfg and not (Path(runner.work_dir) / 'results.jsonl').is_file()]
        broadcast_object_list(missing)  # the first process writes the file
        if missing[0]:
            runner.val_loop.run()  # the run was stopped between its last step and its evaluation
        return model
    with naming_needs(config), only_run(cfg.work_dir, given.launcher):
        set_start(cfg, given.resume, given.launcher)
        return run(cfg, to_the_result)


def training_config(config, given):
    """The config of a training with all `TrainArguments` in it.

    Raises ValueError, before anything is written, for a config that cannot be trained.
    """
    cfg = read_config(config, given.options)
    if given.launcher != 'none' and not torch.cuda.is_available() and 'SyncBN' in str(cfg.model):
        raise ValueError(f'{config} has batch norm over all processes (SyncBN), which needs GPUs; '
                         f'got none. Run one process: python tools/train.py {config}')
    require_numbers(cfg)
    processes = world_size_of(given.launcher)
    accumulation = require_batch(cfg, processes, config, given.keep_batch, given.accept_batch,
                                 nodes_of(processes))
    if given.seed is not None:
        cfg.randomness = dict(cfg.get('randomness', {}), seed=given.seed)
    if cfg.get('randomness', {}).get('seed') is None:
        raise ValueError(f'{config}: randomness.seed is not set; a run without a seed cannot be '
                         'resumed or repeated. Give --seed')
    if given.allow_elastic:
        cfg.allow_elastic = True  # `ResultRecorder` compares
    placed(cfg, config, given.work_dir, given.launcher)
    add_tensorboard(cfg)
    if given.amp or 'Amp' in kind(cfg.optim_wrapper):
        cfg.optim_wrapper = mixed_precision(cfg.optim_wrapper, asked=given.amp)
    if is_first_process(given.launcher):
        if accumulation:
            print(accumulation, file=sys.stderr)
        announce(f'{config}: {made_of(cfg, processes, nodes_of(processes))} -> {cfg.work_dir}')
    return cfg


def add_tensorboard(cfg):
    """Log to TensorBoard too, if it is installed and the config has a log.

    In the ``vis_data`` of the run: ``tensorboard --logdir work_dirs``.
    """
    backends = cfg.get('visualizer', {}).get('vis_backends') or ()
    types = [backend.type for backend in backends]
    if types and 'TensorboardVisBackend' not in types and find_spec('tensorboard'):
        cfg.visualizer.vis_backends = [*backends, dict(type='TensorboardVisBackend')]


# ------------------------------------------------------------------ test
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
    if 'Amp' in kind(cfg.optim_wrapper):
        cfg.optim_wrapper = mixed_precision(cfg.optim_wrapper, asked=False)
    if launcher != 'none' and not torch.cuda.is_available():
        without_sync_bn(cfg.model)

    if is_first_process(launcher):
        if holder := trained_by(cfg.work_dir):
            print(f'{cfg.work_dir} is in use by {holder}; this test adds its line to the same '
                  'results.jsonl', file=sys.stderr)
        announce(f'{config} on {checkpoint} -> {cfg.work_dir}')
    with naming_needs(config):
        return evaluate(cfg, checkpoint, content)


def without_sync_bn(node):
    """Replace SyncBN by BN in a config; in a test they are the same, and BN needs no GPU."""
    if isinstance(node, dict):
        if node.get('type') == 'SyncBN':
            node['type'] = 'BN'
        node = list(node.values())
    for inner in node if isinstance(node, (list, tuple)) else ():
        without_sync_bn(inner)


def evaluate(cfg, checkpoint, content=None):
    """Test a prepared config on a checkpoint that fills every tensor; returns the metrics.

    content: of the checkpoint, if it was read already.
    """
    content = content or read_checkpoint(checkpoint)
    cfg.update(resume=False, load_from=None)  # mmengine loads nothing

    def load_and_test(runner):
        load_whole(unwrapped(runner.model), checkpoint, content)
        runner.call_hook('after_load_checkpoint', checkpoint=content)
        runner.cfg.load_from = str(checkpoint)
        return runner.test()
    return run(cfg, load_and_test)


# ------------------------------------------------------------------ both
@contextlib.contextmanager
def naming_needs(config):
    """If a file is missing in a run of ``config``, the error says what the config needs."""
    with run_of(config):
        try:
            yield
        except Exception as error:
            if isinstance(error, FileNotFoundError) or is_foreign_mistake(error):
                message = with_needs(message_of(error).partition(': ')[2])
                raise FileNotFoundError(message) from error
            raise


def prepare(config, work_dir=None, launcher='none', options=None):
    """The config of a run: read, with its work directory, launcher and CPU processes set."""
    return placed(read_config(config, options), config, work_dir, launcher)


def placed(cfg, config, work_dir=None, launcher='none'):
    """Set and make the work directory of ``cfg``, set its launcher, connect CPU processes."""
    warnings.filterwarnings('ignore', category=UserWarning, module='mm.*')
    warnings.filterwarnings('ignore', 'This DataLoader will create')  # more workers than cores
    cfg.launcher = launcher
    cfg.work_dir = str(writable_folder(
        work_dir or cfg.get('work_dir') or Path('work_dirs') / Path(config).stem))
    if launcher == 'slurm':
        join_tasks(os.environ)
    if launcher != 'none' and not torch.cuda.is_available():
        # mmengine would ask for a GPU: start gloo first, and tell DDP that there is no device.
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group('gloo')
        wrapper = cfg.get('model_wrapper_cfg') or dict(type='MMDistributedDataParallel')
        cfg.model_wrapper_cfg = dict(wrapper, device_ids=None, broadcast_buffers=False)
    return cfg


class TerseRunner(Runner):
    """mmengine's runner; its environment, config and hooks are in the log file only."""

    ONLY_IN_FILE = re.compile(
        r'\n-+\nSystem environment:|Config:\n|Hooks will be executed in the|Exp name: |'
        r'Distributed training is not used|"(FileClient|HardDiskBackend)" ')

    def build_logger(self, *args, **kwargs):
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(lambda record: not self.ONLY_IN_FILE.match(record.getMessage()))
        return logger


class ShowOutputHook(Hook):
    """Shows the output that was held back, when the first batch has been read."""

    def before_train(self, runner):
        if not isinstance(runner.train_loop, (EpochBasedTrainLoop, IterBasedTrainLoop)):
            show_output()  # k-NN, which reads images at once

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        show_output()

    before_val_iter = before_test_iter = before_train_iter


def run(cfg, action):
    """Build the runner and return ``action(runner)``; renames the runner's dump of the config.

    Runner writes ``work_dir/<name of the config>``, and mim looks for configs by that name.
    """
    install()
    keep_freed_memory()
    filename = cfg.filename
    # mmengine names log, scalars and pictures after the second of the start. The counter keeps two
    # runs of one process within a second apart.
    cfg.experiment_name = f'{Path(filename).stem}_{next(RUNS)}'
    with built_from(cfg):
        runner = TerseRunner.from_cfg(cfg)
    runner.register_hook(ShowOutputHook(), 'LOWEST')
    copy = Path(runner.work_dir) / Path(filename).name
    if is_main_process() and copy.is_file() and copy.resolve() != Path(filename).resolve():
        copy.rename(copy.with_name('config.py'))
    return action(runner)
