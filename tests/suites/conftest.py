"""Small suites, and processes of them that are forked instead of started."""
import io
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys

import pytest
import torch
from rich.console import Console

from semmae.commands.train import parse
from semmae.config.options import read_config
from semmae.suites import execution
from semmae.suites.rows import Command, Suite

from ..tiny import REPO, tool

FORK = multiprocessing.get_context('fork')
WRITE = 'import pathlib, sys; pathlib.Path(sys.argv[1]).write_text(sys.argv[2])'


def little(*rows, tasks=()):
    return Suite(rows=rows, tasks=dict(tasks), images='images')


def command(name, *words, needs=(), **how):
    """A row ``python -c WORDS`` that should leave a file ``out``."""
    return Command(name, 'out', ('-c', *words), needs=needs, **how)


def writer(name, needs=(), text='x'):
    return command(name, WRITE, '{work_dir}/out', text, needs=needs)


def mae_on(toy, epochs=3):
    """Options of mini MAE: 16 images, a checkpoint after each epoch."""
    data = 'train_dataloader.dataset'
    return {f'{data}.dataset.data_root': str(toy / 'imagenet/train'), f'{data}.min_length': 0,
            'train_dataloader.batch_size': 8, 'train_cfg.max_epochs': epochs,
            'default_hooks.checkpoint.interval': 1}


def quiet():
    return Console(file=io.StringIO(), width=300)


def overridden(command):
    """The config that a command trains, read as tools/train.py does."""
    args = parse(command[command.index('tools/train.py') + 1:])
    return read_config(args.config, args.cfg_options)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Looks at running rows often."""
    monkeypatch.setattr(execution, 'POLL', .02)


class Forked:
    """Stands for the `subprocess.Popen` of a training; no interpreter is started."""

    def __init__(self, command, stdout, env, **_):
        self.process = FORK.Process(target=train_here, args=(command, stdout.fileno(), env))
        self.process.start()
        self.wait, self.terminate = self.process.join, self.process.terminate

    def poll(self):
        return self.process.exitcode

    returncode = property(poll)


def train_here(command, output, env):
    """Act as the command of a training; ``output`` is its file descriptor."""
    fresh(output)
    os.environ.update(env)
    if command[1] == 'tools/dist_train.sh':
        _, _, config, processes, *more = command
        done = tool('train', config, *more, processes=int(processes))
        print(done.stdout, done.stderr)
        sys.exit(done.returncode)
    sys.argv = command[1:]
    runpy.run_path(str(REPO / command[1]), run_name='__main__')


def fresh(output):
    """Make a forked process like a new one: signals, threads, standard output."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    torch.set_num_threads(1)
    for number in (1, 2):
        os.dup2(output, number)
    sys.stdout = sys.stderr = open(1, 'w', buffering=1, closefd=False)


@pytest.fixture
def forked(monkeypatch):
    """Trainings of rows are forked; other commands are started as they are."""
    real = subprocess.Popen

    def start(command, **kwargs):
        is_training = any('train' in str(word) for word in command[1:2])
        return (Forked if is_training else real)(command, **kwargs)
    monkeypatch.setattr(execution.subprocess, 'Popen', start)
