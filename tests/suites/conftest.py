"""Small suites, and processes of them that are forked instead of started."""
import io
import multiprocessing
import os
import signal
import sys

import pytest
import torch
from rich.console import Console

from semmae.commands.train import parse
from semmae.config.options import read_config
from semmae.suites import counts as kept
from semmae.suites.rows import Command, Suite

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


def fresh(output):
    """Make a forked process like a new one: signals, threads, standard output."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored below nohup
    torch.set_num_threads(1)
    for number in (1, 2):
        os.dup2(output, number)
    sys.stdout = sys.stderr = open(1, 'w', buffering=1, closefd=False)


@pytest.fixture(autouse=True, scope='session')
def counts(tmp_path_factory):
    """The folder in which counts of steps are kept during the tests."""
    folder = tmp_path_factory.mktemp('counts')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept, 'cache_folder', lambda: folder)
        yield folder
