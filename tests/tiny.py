"""A training of a few numbers, in children of this process, so that nothing is imported again."""
import contextlib
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.runner import runner as mmengine_runner
from torch.utils.data import Dataset

from semmae.registry import DATA_SAMPLERS, DATASETS, HOOKS, LOOPS, METRICS, MODELS
from semmae.training.errors import fail_clearly
from semmae.training.run import train

REPO = Path(__file__).resolve().parents[1]
LENGTH = 6  # iterations of an epoch


@MODELS.register_module(force=True)
class TinyModel(BaseModel):
    """pause: seconds a step takes. nan_loss, nan_gradient: the forward, from 1 on, that has one."""

    def __init__(self, pause=0., nan_loss=0, nan_gradient=0):
        super().__init__()
        self.first, self.second = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
        self.pause, self.nan_loss, self.nan_gradient, self.count = (
            pause, nan_loss, nan_gradient, 0)

    def forward(self, inputs, mode='tensor'):
        time.sleep(self.pause)
        out = self.second(self.first(inputs))
        if mode != 'loss':  # 'predict' in a validation
            return list(out)
        self.count += 1
        if self.count == self.nan_gradient:
            out.register_hook(lambda grad: grad * float('nan'))
        good, other = out.square().mean(), out.abs().mean()
        return dict(loss_good=good, loss_other=other * (
            float('nan') if self.count == self.nan_loss else 1))


@DATASETS.register_module(force=True)
class TinyData(Dataset):
    metainfo = {}

    def __init__(self, length):
        self.length = length

    def full_init(self):
        pass

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return dict(inputs=torch.rand(4) + index)


@METRICS.register_module(force=True)
class TinyMetric(BaseMetric):
    """Better with each validation of a run; worse from ``best`` on."""

    def __init__(self, best=99, **kwargs):
        super().__init__(**kwargs)
        self.best, self.count = best, 0

    def process(self, data_batch, data_samples):
        self.results += [0] * len(data_samples)

    def compute_metrics(self, results):
        self.count += 1
        return dict(score=-abs(self.best - self.count))


CONFIG = '''
_base_ = [{base!r}]
model = dict(type='semmae.TinyModel')
train_dataloader = dict(
    batch_size=2, num_workers=0, collate_fn=dict(type='default_collate'),
    sampler=dict(type='semmae.SeededSampler'),
    dataset=dict(type='semmae.Seeded', dataset=dict(type='semmae.TinyData', length={length})))
train_cfg = dict(type='semmae.ResumableEpochLoop', max_epochs=3)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.01))
param_scheduler = []
default_hooks = dict(checkpoint=dict(max_keep_ckpts=-1))
custom_hooks = [dict(type='semmae.StepSeedHook'), dict(type='semmae.RankStateHook'),
                dict(type='semmae.FiniteHook'), dict(type='semmae.StopHook')]
visualizer = dict(type='mmengine.Visualizer', vis_backends=[])
log_level = 'ERROR'
'''
VALIDATION = '''
val_dataloader = dict(
    batch_size=2, num_workers=0, collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='semmae.TinyData', length=40))
val_cfg = dict()
val_evaluator = dict(type='semmae.TinyMetric')
'''
STOCK = '''
default_hooks.update(checkpoint=dict(_delete_=True, type='mmengine.CheckpointHook', interval=1))
'''


def config(folder, *more):
    """Path of the config; later lines change it."""
    path = Path(folder) / 'tiny.py'
    path.write_text(CONFIG.format(base=str(REPO / 'mm_configs/_base_/default_runtime.py'),
                                  length=2 * LENGTH) + '\n'.join(more))
    return str(path)


for registry in (HOOKS, LOOPS, DATA_SAMPLERS, METRICS, MODELS):
    registry.import_from_location()  # here, and not in each child


def fork(action, said):
    """Start a child that acts as a tool does and ends with its exit code; returns its pid.

    said: file that gets what it prints.
    """
    if child := os.fork():
        return child
    code = 1
    torch.set_num_threads(1)  # threads of the parent's pool are not there any more
    try:
        with open(said, 'w', buffering=1) as out:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
            sys.stdout = sys.stderr = out
            with fail_clearly():
                action()
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        with contextlib.suppress(OSError):
            Path(said).open('a').write(traceback.format_exc())
    finally:
        os._exit(code or 0)


def wait(child):
    """The exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def start_tool(name, arguments, out, error, cwd=REPO, env=None):
    """The pid of a child that runs ``tools/<name>.py``; out, error: files for what it prints."""
    if child := os.fork():
        return child
    code = 1
    try:
        torch.set_num_threads(1)
        for file, number in ((out, 1), (error, 2)):
            os.dup2(os.open(file, os.O_CREAT | os.O_WRONLY), number)
        sys.stdout, sys.stderr = (open(n, 'w', buffering=1, closefd=False) for n in (1, 2))
        os.chdir(cwd)
        os.environ.update(env or {})
        sys.argv = [f'tools/{name}.py', *map(str, arguments)]
        runpy.run_path(str(REPO / 'tools' / f'{name}.py'), run_name='__main__')
        code = 0
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        code = 0 if end.code is None else end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def tool(name, *arguments, cwd=REPO, env=None, processes=1):
    """A finished ``python tools/<name>.py`` in a child of this process; mm libraries are loaded.

    Returns a `subprocess.CompletedProcess` with text in stdout and stderr. For what only a new
    interpreter shows (its import time, sys.path, threads) start one. processes: of one launch, as
    torchrun starts them; then the highest exit status, the stdout of the first, the stderr of all.
    """
    env = dict(env or {})
    if processes > 1:
        with socket.socket() as s:
            s.bind(('127.0.0.1', 0))
            env |= dict(WORLD_SIZE=str(processes), LOCAL_WORLD_SIZE=str(processes),
                        MASTER_ADDR='127.0.0.1', MASTER_PORT=str(s.getsockname()[1]))
        arguments = [*arguments, '--launcher', 'pytorch']
    with tempfile.TemporaryDirectory() as folder:
        children = [start_tool(
            name, arguments, Path(folder, f'out{rank}'), Path(folder, f'error{rank}'), cwd,
            env | (dict(RANK=str(rank), LOCAL_RANK=str(rank)) if processes > 1 else {}))
            for rank in range(processes)]
        return subprocess.CompletedProcess(
            [name, *arguments], max(wait(child) for child in children),
            Path(folder, 'out0').read_text(),
            ''.join(Path(folder, f'error{rank}').read_text() for rank in range(processes)))


def start(folder, path, before=lambda: None, said='said.txt', **kwargs):
    """The pid of a child that trains in ``folder``/work; ``before`` is called in it first."""
    def action():
        # Both take longer than all iterations together.
        Config.pretty_text = ''
        mmengine_runner.collect_env = dict
        before()
        train(path, work_dir=str(Path(folder) / 'work'), **kwargs)
    return fork(action, Path(folder) / said)


def trained(folder, path, before=lambda: None, **kwargs):
    """(exit code, what was printed) of a training in ``folder``/work."""
    said = Path(folder) / 'said.txt'
    code = wait(start(folder, path, before, **kwargs))
    return code, said.read_text()
