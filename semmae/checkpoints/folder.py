"""The checkpoints in a work directory: which there are, and the newest that is whole."""
import os
import sys
from pathlib import Path

import torch

from ..files import check_digest
from .read import SAFE, read_checkpoint


def checkpoints(work_dir):
    """The checkpoints of a run in its work directory, whole or not, from the oldest on."""
    found = {kind: [p for p in Path(work_dir).glob(f'{kind}_*.pth')
                    if p.stem.split('_')[1].isdigit()] for kind in ('epoch', 'iter')}

    def place(path):
        # Epochs and iterations are compared by what the files say; the unreadable come last.
        return iterations(path) if all(found.values()) else int(path.stem.split('_')[1])
    return sorted(sum(found.values(), []), key=place)


def latest(work_dir, launcher='none'):
    """The newest checkpoint in a work directory that is whole, or None if there is none at all.

    Only what lies there counts, whatever path ``last_checkpoint`` names. A damaged one is named on
    stderr, by the first process of a launch, and passed over; ValueError if all are.
    """
    passed = []
    for path in reversed(checkpoints(work_dir)):
        try:
            check_digest(path) or read_checkpoint(path)
        except ValueError as error:
            passed.append(f'{path.name}: {error}')
        else:
            if passed and is_first_process(launcher):
                print('\n'.join(f'passed over {line}' for line in passed)
                      + f'\ngoing on from {path}', file=sys.stderr)
            return path
    if passed:
        raise ValueError(f'{work_dir} has checkpoints, and none is whole. Restore one, or start '
                         'anew in another --work-dir:\n' + '\n'.join(passed))
    return None


def iterations(path):
    """How many iterations are in a checkpoint, without reading its tensors; inf if unreadable."""
    try:
        with torch.serialization.safe_globals(SAFE):
            content = torch.load(path, map_location='cpu', weights_only=True, mmap=True)
        return int(content['meta']['iter'])
    except Exception:  # as in `read_checkpoint`, which will say why
        return float('inf')


def is_first_process(launcher):
    """Whether this is the first process of a launch; also before they are connected.

    launcher: 'none' makes each process a run of its own, whatever else started it (srun).
    """
    name = dict(slurm='SLURM_PROCID', pytorch='RANK').get(launcher)
    return os.environ.get(name, '0') == '0' if name else True
