"""The checkpoints in a work directory, and the newest complete one."""
import os
import sys
from pathlib import Path

import torch

from ..files import check_digest
from .read import SAFE, read_checkpoint


def checkpoints(work_dir):
    """The checkpoints in a work directory, complete or not, oldest first."""
    found = {kind: [p for p in Path(work_dir).glob(f'{kind}_*.pth')
                    if p.stem.split('_')[1].isdigit()] for kind in ('epoch', 'iter')}

    def place(path):
        # Folders with epoch_ and iter_ files: read the iteration; unreadable files come last.
        return iterations(path) if all(found.values()) else int(path.stem.split('_')[1])
    return sorted(sum(found.values(), []), key=place)


def latest(work_dir, launcher='none'):
    """The newest complete checkpoint in a work directory, or None without any checkpoint.

    Looks at the files, not at ``last_checkpoint``. Skips a damaged file; the first process of a
    launch names it on stderr. ValueError if all are damaged.
    """
    passed = []
    for path in reversed(checkpoints(work_dir)):
        try:
            check_digest(path) or read_checkpoint(path)
        except ValueError as error:
            passed.append(f'{path.name}: {error}')
        else:
            if passed and is_first_process(launcher):
                print('\n'.join(f'skipped damaged {line}' for line in passed)
                      + f'\ncontinuing from {path}', file=sys.stderr)
            return path
    if passed:
        raise ValueError(f'{work_dir} has checkpoints, and all are damaged. Restore one, or start '
                         'anew in another --work-dir:\n' + '\n'.join(passed))
    return None


def iterations(path):
    """The iteration of a checkpoint, without reading its tensors; inf if it is unreadable."""
    try:
        with torch.serialization.safe_globals(SAFE):
            content = torch.load(path, map_location='cpu', weights_only=True, mmap=True)
        return int(content['meta']['iter'])
    except Exception:  # as in `read_checkpoint`, which says why
        return float('inf')


def is_first_process(launcher):
    """Whether this is the first process of a launch; works before processes are connected.

    launcher: with 'none' each process is a run of its own, also under srun.
    """
    name = dict(slurm='SLURM_PROCID', pytorch='RANK').get(launcher)
    return os.environ.get(name, '0') == '0' if name else True
