"""Several processes on this node for tools/train.py and tools/test.py, by torch's elastic agent.

What torchrun does, in the words of this project: a mistake that command, config or machine give
away is told before anything is started; of processes that fail one tells why, and the exit status
is that of the process and not torchrun's 1.
"""
import contextlib
import importlib.util
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

from .errors import FIRST_FAILURE

TOOLS = Path(__file__).resolve().parents[2] / 'tools'
FAILED = 'semmae/failed'  # key of the nodes' common store: the exit status of one that failed
GRACE = 5  # seconds for a node that is about to end by itself


@dataclass(frozen=True)
class Nodes:
    """The nodes of a run, from NNODES, NODE_RANK, MASTER_ADDR and PORT of the environment."""
    count: int = 1
    rank: int = 0
    address: str = '127.0.0.1'
    port: int = 0  # any free one

    @classmethod
    def of(cls, environ):
        """ValueError where a variable is missing or makes no sense."""
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
        """ValueError where node 0 cannot listen on the port that it was given."""
        if self.rank or not self.port:
            return
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(('', self.port))
            except OSError as error:
                raise ValueError(f'PORT {self.port} cannot be used: {error.strerror}. Give another '
                                 'PORT, the same on all nodes') from error


def positive(text):
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f'expected a number of processes on this node, found {text!r}')
    return int(text)


def require_devices(processes, available, nodes=1, tool='train'):
    """ValueError for more processes on a node than it has GPUs; any number where it has none."""
    if not available or processes <= available:
        return
    total, most = processes * nodes, f'{available} GPU{"s" if available > 1 else ""}'
    needed = -(-total // available)
    each = -(-total // needed)
    arguments = 'CONFIG' if tool == 'train' else 'CONFIG CHECKPOINT'
    fewer = f'; or {available} here' + (' with --keep-batch' if tool == 'train' else '')
    raise ValueError(
        f'this node has {most}, got {processes} processes for it: NNODES={needed} '
        f'tools/dist_{tool}.sh {arguments} {each} on each node, with NODE_RANK and '
        f'MASTER_ADDR{fewer}')


# ------------------------------------------------------------------ start and end
def launch(tool, processes, arguments, environ=os.environ):
    """Run ``tool`` ('train' or 'test') in processes; returns the exit status of all of them.

    processes: on this node, as text. Raises ValueError or FileNotFoundError for a mistake that can
    be told before they are started.
    """
    processes, nodes = positive(processes), Nodes.of(environ)
    arguments = [*arguments, '--launcher', 'pytorch']
    module = load(tool)
    args = module.parse(arguments)
    import torch
    require_devices(processes, torch.cuda.device_count(), nodes.count, tool)
    module.check(args, processes * nodes.count, nodes.count)
    nodes.require_free_port()
    with tempfile.TemporaryDirectory(prefix='semmae_') as folder:
        said = Path(folder, 'first_failure')
        os.environ[FIRST_FAILURE] = str(said)
        if processes > 1:  # torchrun's default
            os.environ.setdefault('OMP_NUM_THREADS', '1')
        return run(tool, processes, arguments, nodes, said)


def load(tool):
    """The module of tools/``tool``.py."""
    spec = importlib.util.spec_from_file_location(f'tools_{tool}', TOOLS / f'{tool}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(tool, processes, arguments, nodes, said):
    """The exit status of the processes; ``said`` is the file that the first failing one writes."""
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger('torch.distributed').setLevel(logging.CRITICAL)  # its reports of failures
    config = LaunchConfig(
        min_nodes=nodes.count, max_nodes=nodes.count, nproc_per_node=processes, run_id='semmae',
        rdzv_backend='static' if nodes.port else 'c10d',
        rdzv_endpoint=f'{nodes.address}:{nodes.port}',
        rdzv_configs=dict(rank=nodes.rank) if nodes.port else {}, max_restarts=0,
        signals_to_handle='SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1', logs_specs=DefaultLogsSpecs())
    others = OtherNodes(nodes)
    try:
        with others.watched():
            elastic_launch(config, sys.executable)('-u', str(TOOLS / f'{tool}.py'), *arguments)
    except ChildFailedError as error:
        status = status_of(error, said)
        others.tell(status)
        return status
    except SignalException as error:
        if others.status is not None:
            print('another node of this run ended first; its own output says why', file=sys.stderr)
            return others.status
        # SIGUSR1 is Slurm's warning, as in `guards.StopHook`.
        return 143 if error.sigval == signal.SIGUSR1 else 128 + error.sigval
    return 0


def status_of(error, said):
    """The exit status of the process that failed first; tells of one that could not."""
    if said.is_file() and (status := said.read_text()):
        return int(status)
    first = min(error.failures.values(), key=lambda failure: failure.timestamp)
    if first.exitcode < 0:
        print(f'process {first.local_rank} of this node was ended by '
              f'{signal.Signals(-first.exitcode).name}, from outside or for want of memory',
              file=sys.stderr)
        return 128 - first.exitcode
    return first.exitcode


class OtherNodes:
    """The end of one node is the end of all; they tell each other through the agents' store."""

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
            while not self.done.wait(1):
                if self.store.check([FAILED]):
                    self.end(int(self.store.get(FAILED)))
                    return
        except RuntimeError:  # node 0 is gone, and the store with it
            self.end(1)

    def end(self, status):
        if not self.done.wait(GRACE):
            self.status = status
            os.kill(os.getpid(), signal.SIGTERM)

    def tell(self, status):
        """Node 0 stays until the others can have read it."""
        if self.nodes.count > 1 and self.store is not None:
            with contextlib.suppress(RuntimeError):
                self.store.set(FAILED, str(status))
                if self.nodes.rank == 0:
                    time.sleep(2)
