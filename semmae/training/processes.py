"""Starts several processes on this node for tools/train.py and tools/test.py, as torchrun does.

Mistakes in the command, the config and the environment are reported before a process starts. One of
the failing processes prints its message, and its exit status is returned (torchrun returns 1).
"""
import contextlib
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from ..config.reading import require_config
from ..shipped import IS_CHECKOUT, TOOLS
from .errors import FIRST_FAILURE

FAILED = 'semmae/failed'  # key in the store of all nodes: the exit status of a node that failed
GRACE = 5  # seconds in which a node may end by itself


@dataclass(frozen=True)
class Nodes:
    """The nodes of a run, from NNODES, NODE_RANK, MASTER_ADDR and PORT of the environment."""
    count: int = 1
    rank: int = 0
    address: str = '127.0.0.1'
    port: int = 0  # 0: any free one

    @classmethod
    def of(cls, environ):
        """The nodes that ``environ`` names; ValueError for a missing or impossible variable."""
        def number(name, default, least, most):
            value = environ.get(name) or default
            if not str(value).isdecimal() or not least <= int(value) <= most:
                raise ValueError(f'{name} is {value!r}, expected a whole number from {least} to '
                                 f'{most}')
            return int(value)
        count = number('NNODES', 1, 1, 10 ** 6)
        if count == 1:
            return cls(address=environ.get('MASTER_ADDR') or '127.0.0.1',
                       port=number('PORT', 0, 0, 65535))
        for name, what in dict(NODE_RANK=f'0 to {count - 1}, another on each node',
                               MASTER_ADDR='the name or address of node 0, on all nodes').items():
            if not environ.get(name):
                raise ValueError(f'NNODES is {count} and {name} is not set: expected {what}')
        return cls(count, number('NODE_RANK', 0, 0, count - 1), environ['MASTER_ADDR'],
                   number('PORT', 29500, 1, 65535))

    def require_free_port(self):
        """ValueError if node 0 cannot listen on the given port."""
        if self.rank or not self.port:
            return
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(('', self.port))
            except OSError as error:
                raise ValueError(f'PORT {self.port} cannot be used: {error.strerror}. Give another '
                                 'PORT, the same on all nodes') from error


def require_devices(processes, available, nodes=1, tool='train'):
    """ValueError for more processes on a node than GPUs; without a GPU any number is allowed."""
    if not available or processes <= available:
        return
    total, most = processes * nodes, f'{available} GPU{"s" if available > 1 else ""}'
    needed = -(-total // available)
    each = -(-total // needed)
    arguments = 'CONFIG' if tool == 'train' else 'CONFIG CHECKPOINT'
    fewer = f'; or {available} here' + (' with --keep-batch' if tool == 'train' else '')
    raise ValueError(
        f'this node has {most}, got {processes} processes for it. Run: NNODES={needed} '
        f'tools/dist_{tool}.sh {arguments} {each} on each node, with NODE_RANK and '
        f'MASTER_ADDR{fewer}')


def launch(module, processes, arguments, environ=os.environ):
    """Run a command in processes; returns their common exit status.

    module: `semmae.commands.train` or `semmae.commands.test`. processes: on this node, as text.
    Raises ValueError or FileNotFoundError, before a process starts, for a mistake in the command,
    the config or the environment.
    """
    if not processes.isdecimal() or int(processes) < 1:
        raise ValueError(f'got {processes!r} processes on this node, expected a number above 0')
    count, nodes = int(processes), Nodes.of(environ)
    arguments = [*arguments, '--launcher', 'pytorch']
    tool = module.__name__.rsplit('.', 1)[-1]
    args = module.parse(arguments)
    require_config(args.config)
    import torch
    require_devices(count, torch.cuda.device_count(), nodes.count, tool)
    module.check(args, count * nodes.count, nodes.count)
    nodes.require_free_port()
    with tempfile.TemporaryDirectory(prefix='semmae_') as folder:
        note = Path(folder, 'first_failure')
        os.environ[FIRST_FAILURE] = str(note)
        if count > 1:  # torchrun's default
            os.environ.setdefault('OMP_NUM_THREADS', '1')
        return run(tool, count, arguments, nodes, note)


def run(tool, processes, arguments, nodes, note):
    """The exit status of the processes. note: the file that the first failing one writes."""
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger('torch.distributed').setLevel(logging.CRITICAL)  # no reports of failures
    config = LaunchConfig(
        min_nodes=nodes.count, max_nodes=nodes.count, nproc_per_node=processes, run_id='semmae',
        rdzv_backend='static' if nodes.port else 'c10d',
        rdzv_endpoint=f'{nodes.address}:{nodes.port}',
        rdzv_configs=dict(rank=nodes.rank) if nodes.port else {}, max_restarts=0,
        signals_to_handle='SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1', logs_specs=DefaultLogsSpecs())
    others = OtherNodes(nodes)
    start = [str(TOOLS / f'{tool}.py')] if IS_CHECKOUT else ['-m', 'semmae', tool]
    try:
        with others.watched():
            elastic_launch(config, sys.executable)('-u', *start, *arguments)
    except ChildFailedError as error:
        status = status_of(error, note)
        others.tell(status)
        return status
    except SignalException as error:
        if others.status is not None:
            print('another node of this run ended first; see its output for the reason',
                  file=sys.stderr)
            return others.status
        # SIGUSR1 is Slurm's warning, as in `stopping.StopHook`.
        return 143 if error.sigval == signal.SIGUSR1 else 128 + error.sigval
    return 0


def status_of(error, note):
    """The exit status of the process that failed first; prints which one a signal killed."""
    if note.is_file() and (status := note.read_text()):
        return int(status)
    first = min(error.failures.values(), key=lambda failure: failure.timestamp)
    if first.exitcode < 0:
        print(f'process {first.local_rank} of this node was killed by '
              f'{signal.Signals(-first.exitcode).name}: by hand, or because memory ran out',
              file=sys.stderr)
        return 128 - first.exitcode
    return first.exitcode


class OtherNodes:
    """Ends this node when another one fails. Nodes share exit statuses in the agents' store."""

    def __init__(self, nodes):
        self.nodes, self.status, self.done, self.store = nodes, None, threading.Event(), None

    @contextlib.contextmanager
    def watched(self):
        if self.nodes.count > 1:
            threading.Thread(target=self.watch, daemon=True).start()
        try:
            yield
        finally:
            self.done.set()

    def watch(self):
        from torch.distributed import TCPStore
        try:
            self.store = TCPStore(self.nodes.address, self.nodes.port, is_master=False)
            while not self.store.check([FAILED]):
                if self.done.wait(1):
                    return
            status = int(self.store.get(FAILED))
        except RuntimeError:  # node 0 has ended, and its store with it
            status = 1
        if not self.done.wait(GRACE):
            self.status = status
            os.kill(os.getpid(), signal.SIGTERM)

    def tell(self, status):
        """Share an exit status. Node 0, which holds the store, waits until the others read it."""
        if self.store is not None:
            with contextlib.suppress(RuntimeError):
                self.store.set(FAILED, str(status))
                if self.nodes.rank == 0:
                    time.sleep(2)
