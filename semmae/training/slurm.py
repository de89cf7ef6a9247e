"""The address of a training's first process and the place of this one, from Slurm's variables."""
import re
import subprocess

FIRST_PORT, PORTS = 15000, 15000  # below the ports that systems give to outgoing connections


def join_tasks(environ):
    """Set torch.distributed's variables in ``environ`` for a task of srun, where they are missing.

    MASTER_ADDR: the address of the first node as Slurm knows it. MASTER_PORT: follows from job and
    step, so that jobs on one node do not meet. Raises ValueError outside of srun, or without an
    answer of scontrol.
    """
    missing = [name for name in ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID')
               if name not in environ]
    if missing:
        raise ValueError(f'--launcher slurm: {", ".join(missing)} is not set, expected a task of '
                         'srun. Run: tools/slurm_train.sh PARTITION JOB CONFIG')
    for name, source in dict(RANK='SLURM_PROCID', WORLD_SIZE='SLURM_NTASKS',
                             LOCAL_RANK='SLURM_LOCALID').items():
        environ.setdefault(name, environ[source])
    if 'MASTER_ADDR' not in environ:
        environ['MASTER_ADDR'] = address_of_first_node(environ['SLURM_STEP_NODELIST'])
    if 'MASTER_PORT' not in environ:
        step = 31 * int(environ['SLURM_JOB_ID']) + int(environ['SLURM_STEP_ID'])
        environ['MASTER_PORT'] = str(FIRST_PORT + step % PORTS)


def address_of_first_node(nodes) -> str:
    """The address of the first of Slurm's list of nodes, as ``n[1-2]``."""
    first = said('show', 'hostnames', nodes).split()[0]
    found = re.search(r'\bNodeAddr=(\S+)', said('show', 'node', first, '--oneliner'))
    return found[1] if found else first


def said(*words) -> str:
    """What ``scontrol`` prints. Raises ValueError if it fails."""
    try:
        return subprocess.run(['scontrol', *words], check=True, capture_output=True,
                              text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise ValueError(f'scontrol {" ".join(words)} failed, which names the first node: {error}. '
                         'Set MASTER_ADDR to its address') from error
