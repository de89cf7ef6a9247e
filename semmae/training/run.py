"""What tools/train.py and tools/test.py do: config in, mmengine runner out, errors in one line."""
import contextlib
import itertools
import os
import shutil
import sys
import sysconfig
import warnings
from importlib.util import find_spec
from pathlib import Path
from types import MethodType

import torch
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from .. import registry  # noqa: F401  registers everything, and checks the stack first
from ..checkpoints.folder import is_first_process, latest
from ..checkpoints.load import load_whole
from ..checkpoints.read import read_checkpoint
from ..config.identity import kind
from ..config.options import read_config
from ..config.preflight import built_from, require_numbers
from ..files import writable_folder
from ..mmengine_patches import install
from ..models.layers import unwrapped
from ..needs import run_of, with_needs
from .allocator import keep_freed_memory
from .errors import announce, fail_clearly, is_foreign_mistake, message_of, speak  # noqa: F401
from .global_batch import accumulate, made_of, nodes_of, require_batch, world_size_of  # noqa: F401
from .optim import multiplies_bfloat16
from .stopping import only_run, require_new, train_until_stopped, trained_by

RUNS = itertools.count()  # of this process


@contextlib.contextmanager
def naming_needs(config):
    """A file that is missing in a run of ``config`` is told with what the config needs."""
    with run_of(config):
        try:
            yield
        except Exception as error:
            if isinstance(error, FileNotFoundError) or is_foreign_mistake(error):
                message = with_needs(message_of(error).partition(': ')[2])
                raise FileNotFoundError(message) from error
            raise


def prepare(config, work_dir=None, launcher='none', options=None, check=lambda cfg: None):
    """The config as the runner takes it: work directory, launcher, CPU processes.

    check: called with it before anything is written.
    """
    warnings.filterwarnings('ignore', category=UserWarning, module='mm.*')
    cfg = read_config(config, options)
    check(cfg)
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
          seed=None, keep_batch=False, accept_batch=False, allow_elastic=False):
    """Train ``config``; returns the trained model.

    keep_batch: accumulate gradients to the recipe's global batch.
    accept_batch: pre-train at another global batch; the results are marked.
    allow_elastic: resume on another number of processes with the same global batch.
    """
    processes, said = 0, ''

    def check(cfg):
        nonlocal processes, said
        if launcher != 'none' and not torch.cuda.is_available() and 'SyncBN' in str(cfg.model):
            raise ValueError(f'{config} normalises over all processes (SyncBN), which needs GPUs; '
                             f'found none. Run one process: python tools/train.py {config}')
        processes = world_size_of(launcher)
        require_numbers(cfg)
        said = require_batch(
            cfg, processes, config, keep_batch, accept_batch, nodes_of(processes))
    cfg = prepare(config, work_dir, launcher, options, check)
    add_tensorboard(cfg)
    if said and is_first_process(launcher):
        print(said, file=sys.stderr)
    if allow_elastic:
        cfg.allow_elastic = True  # `ResultRecorder` compares
    if seed is not None:
        cfg.randomness = dict(cfg.get('randomness', {}), seed=seed)
    if cfg.get('randomness', {}).get('seed') is None:
        raise ValueError(f'{config}: randomness.seed is not set; a run without a seed cannot be '
                         'resumed or repeated. Give --seed')
    if amp or 'Amp' in kind(cfg.optim_wrapper):
        cfg.optim_wrapper = mixed_precision(cfg.optim_wrapper, asked=amp)
    if is_first_process(launcher):
        announce(f'{config}: {made_of(cfg, processes, nodes_of(processes))} -> {cfg.work_dir}')

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
    with naming_needs(config), only_run(cfg.work_dir, launcher):
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


def mixed_precision(optim_wrapper, asked):
    """AMP where there is a GPU; without one bfloat16 if it was asked for, else float32.

    The type is stated in what comes back, bfloat16 unless the config has float16, and the scale of
    the loss goes with it: bfloat16 has the range of float32 and needs none.
    """
    dtype, loss_scale = optim_wrapper.get('dtype'), optim_wrapper.get('loss_scale')
    if dtype not in (None, 'bfloat16', 'float16'):
        raise ValueError(f'optim_wrapper.dtype is {dtype!r}, expected bfloat16 or float16; for '
                         'float32 set optim_wrapper.type=OptimWrapper')
    if dtype == 'float16' and loss_scale == 1:
        raise ValueError('optim_wrapper.loss_scale is 1 with float16, where small gradients become '
                         '0; expected optim_wrapper.loss_scale=dynamic')
    plain = {k: v for k, v in optim_wrapper.items() if k not in ('dtype', 'loss_scale')}
    if torch.cuda.is_available():
        if dtype == 'float16':
            return dict(plain, type='AmpOptimWrapper', dtype=dtype,
                        loss_scale='dynamic' if loss_scale is None else loss_scale)
        return dict(plain, type='AmpOptimWrapper', dtype='bfloat16', loss_scale=1.0)
    if asked or kind(optim_wrapper) == 'CPUAmpOptimWrapper':
        if dtype == 'float16' or asked and not multiplies_bfloat16():
            raise ValueError('--amp needs a GPU, or for bfloat16 a CPU that multiplies it '
                             '(AVX512-BF16, AMX); found neither. Leave it out to train in float32')
        return dict(plain, type='semmae.CPUAmpOptimWrapper', dtype='bfloat16')
    if is_main_process():
        print('no GPU: float32 instead of mixed precision', file=sys.stderr)
    return dict(plain, type='OptimWrapper')


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
        if who := trained_by(cfg.work_dir):
            print(f'{cfg.work_dir} is in use by {who}; this test writes its line beside',
                  file=sys.stderr)
        announce(f'{config} on {checkpoint} -> {cfg.work_dir}')
    with naming_needs(config):
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


class SpeaksHook(Hook):
    """Shows what was held back for the case of a mistake: with its first batch a run is under way.
    """

    def before_train(self, runner):
        if not isinstance(runner.train_loop, (EpochBasedTrainLoop, IterBasedTrainLoop)):
            speak()  # k-NN, which reads images at once

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        speak()

    before_val_iter = before_test_iter = before_train_iter


def run(cfg, action):
    """Build the runner and act; its dump of the config gets a name of its own.

    Runner writes ``work_dir/<name of the config>``, and mim looks for configs by that name.
    """
    install()
    keep_freed_memory()
    filename = cfg.filename
    # mmengine keeps log, scalars and pictures of a run under its name and the second of its start:
    # the next run of a process within that second would write into the folder of the one before.
    cfg.experiment_name = f'{Path(filename).stem}_{next(RUNS)}'
    with built_from(cfg):
        runner = Runner.from_cfg(cfg)
    runner.register_hook(SpeaksHook(), 'LOWEST')
    copy = Path(runner.work_dir) / Path(filename).name
    if is_main_process() and copy.is_file() and copy.resolve() != Path(filename).resolve():
        copy.rename(copy.with_name('config.py'))
    return action(runner)
