"""The command line of a row: in one process, in several, or under Slurm."""
import os
import sys

from ..shipped import is_in_checkout, startable
from .rows import Row, Train, overrides


def command_of(row: Row, work_dir, seed, processes=1, steps=1, launcher=None) -> list[str]:
    """The command that runs a row with everything filled in.

    processes, steps: of a training, and how many steps each accumulates.
    launcher: 'pytorch' (tools/dist_train.sh), 'slurm' (tools/slurm_train.sh), or None, which starts
    dist_train.sh for more than one process.
    """
    if not isinstance(row, Train):
        start = slurm_task(row) if launcher == 'slurm' else []
        return [*start, sys.executable, *startable(row.arguments())]
    if launcher == 'slurm':
        if not is_in_checkout():
            raise ValueError('--launcher slurm starts tools/slurm_train.sh: run it from the folder '
                             'of a checkout')
        per_node = min(processes, int(os.environ.get('GPUS_PER_NODE', 8)))
        command = ['env', f'GPUS={processes}', f'GPUS_PER_NODE={per_node}', 'bash',
                   'tools/slurm_train.sh', partition(), job_name(row), row.config]
    elif launcher == 'pytorch' or processes > 1:
        command = (['bash', 'tools/dist_train.sh', row.config, str(processes)] if is_in_checkout()
                   else [sys.executable, '-m', 'semmae', 'launch', 'train', str(processes),
                         row.config])
    else:
        command = [sys.executable, *startable(row.arguments())]
    return [*command, '--work-dir', str(work_dir), '--seed', str(seed), '--resume',
            *(['--keep-batch'] if steps > 1 else []), *(['--amp'] if row.amp else []),
            *overrides(row.options)]


def slurm_task(row: Row) -> list[str]:
    """The first words of a command that is not a training: one task with one GPU."""
    return ['srun', '-p', partition(), '--job-name', job_name(row), '--gres', 'gpu:1', '--ntasks',
            '1', '--cpus-per-task', os.environ.get('CPUS_PER_TASK', '8'),
            *os.environ.get('SRUN_ARGS', '').split()]


def partition() -> str:
    """The Slurm partition of the environment. Raises ValueError if it is not set."""
    if not os.environ.get('PARTITION'):
        raise ValueError('--launcher slurm: PARTITION is not set in the environment, expected the '
                         'name of a Slurm partition. Run: PARTITION=NAME GPUS=8 python '
                         'tools/run_suite.py ... --launcher slurm')
    return os.environ['PARTITION']


def job_name(row: Row) -> str:
    """The row's id without slashes."""
    return row.id.replace('/', '-')
