"""The command line of a row: in one process, in several, or under Slurm; what it asks Slurm for."""
import os
import sys
from typing import Any

from ..shipped import is_in_checkout, startable
from .rows import Row, Train, overrides


def command_of(row: Row, work_dir, seed, processes=1, steps=1, launcher=None) -> list[str]:
    """The command that runs a row with everything filled in.

    processes, steps: of a training, and how many steps each accumulates.
    launcher: 'pytorch' (tools/dist_train.sh), 'slurm' (srun, inside the job of the row), or None,
    which starts dist_train.sh for more than one process.
    """
    if not isinstance(row, Train):
        return [sys.executable, *startable(row.arguments())]
    more = []
    if launcher == 'slurm' and processes > 1:
        command = ['srun', '--ntasks', str(processes), '--kill-on-bad-exit=1', sys.executable,
                   *startable(row.arguments())]
        more = ['--launcher', 'slurm']
    elif launcher == 'pytorch' or processes > 1:
        command = (['bash', 'tools/dist_train.sh', row.config, str(processes)] if is_in_checkout()
                   else [sys.executable, '-m', 'semmae', 'launch', 'train', str(processes),
                         row.config])
    else:
        command = [sys.executable, *startable(row.arguments())]
    return [*command, '--work-dir', str(work_dir), '--seed', str(seed), '--resume',
            *(['--keep-batch'] if steps > 1 else []), *(['--amp'] if row.amp else []), *more,
            *overrides(row.options)]


def resources_of(processes, launcher=None) -> dict[str, Any]:
    """Snakemake's resources of a row: under Slurm a task with a GPU for each process.

    GPUS_PER_NODE (8; 0: no GPUs) and CPUS_PER_TASK (8) come from the environment.
    """
    if launcher != 'slurm':
        return {}
    per_node = int(os.environ.get('GPUS_PER_NODE', 8))
    found = dict(slurm_partition=partition(), cpus_per_task=int(os.environ.get('CPUS_PER_TASK', 8)))
    if per_node:
        found |= dict(gpu=processes, tasks_per_gpu=1, nodes=-(-processes // per_node))
    if processes > 1:  # the command starts its own tasks
        found |= dict(mpi='srun', tasks=processes)
    return found


def partition() -> str:
    """The Slurm partition of the environment. Raises ValueError if it is not set."""
    if not os.environ.get('PARTITION'):
        raise ValueError('--launcher slurm: PARTITION is not set in the environment, expected the '
                         'name of a Slurm partition. Run: PARTITION=NAME GPUS=8 python '
                         'tools/run_suite.py ... --launcher slurm')
    return os.environ['PARTITION']
