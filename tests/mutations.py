"""Deliberate faults in the code, each of which a test has to catch.

    python -m tests.mutations            every fault
    python -m tests.mutations NAME ...   these; --list prints the names

A fault replaces one text in one file of a copy of the repository. Its tests are run there and have
to fail. Exit status 1: a fault that no test caught.
"""
import argparse
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

REPO = Path(__file__).resolve().parents[1]
COPIED = 'semmae', 'tests', 'tools', 'benchmarks', 'mm_configs', 'setup.cfg', 'README.md', 'docs'


class Fault(NamedTuple):
    """``old`` becomes ``new`` in ``file``; ``tests`` (arguments of pytest) have to fail."""

    file: str
    old: str
    new: str
    tests: str


FAULTS = {
    'Eq. 1: gate without the sigmoid': Fault(
        'semmae/functional/parts.py', 'hidden).sigmoid()', 'hidden)',
        'tests/functional/test_parts.py'),
    'Eq. 2: weights not transposed': Fault(
        'semmae/functional/parts.py', 'part_tokens @ wp.T', 'part_tokens @ wp',
        'tests/functional/test_parts.py'),
    'Eq. 3: variance with Bessel\'s correction': Fault(
        'semmae/functional/parts.py', 'correction=0', 'correction=1',
        'tests/functional/test_parts.py'),
    'Eq. 6: sign swapped': Fault(
        'semmae/functional/losses.py', 'return off_diagonal_cosines(maps)',
        'return -off_diagonal_cosines(maps)', 'tests/functional/test_losses.py'),
    'Eq. 6: over P instead of P squared': Fault(
        'semmae/functional/losses.py', 'maps.shape[1] ** 2', 'maps.shape[1]',
        'tests/functional/test_losses.py'),
    'Eq. 7: weight on the wrong term': Fault(
        'semmae/functional/losses.py', '+ weight * diversity_loss(maps))',
        '* weight + diversity_loss(maps))', 'tests/functional/test_losses.py'),
    'Algorithm 1, line 7: weight off by one power': Fault(
        'semmae/functional/masking.py', 'progress ** gamma', 'progress ** (gamma + 1)',
        'tests/functional/test_masking.py'),
    'Algorithm 1, line 8: alpha reversed': Fault(
        'semmae/functional/masking.py', '(1 - alpha) * num_mask1 + alpha * num_mask2',
        'alpha * num_mask1 + (1 - alpha) * num_mask2', 'tests/functional/test_masking.py'),
    'rounding: no random offset': Fault(
        'semmae/functional/masking.py', 'left = _sum_before(length) + offset',
        'left = _sum_before(length)', 'tests/functional/test_masking.py'),
    'budget: one patch too many': Fault(
        'semmae/functional/masking.py', 'return length - int(length * (1 - mask_ratio))',
        'return length - int(length * (1 - mask_ratio)) + 1', 'tests/functional/test_masking.py'),
    'alpha: progress is one epoch ahead': Fault(
        'semmae/training/progress.py', 'done / total', '(done + 1) / total',
        'tests/visualization/test_mask_monitor.py tests/models/test_semmae.py'),
    'checkpoints: the digest is not compared': Fault(
        'semmae/checkpoints/read.py', 'check_digest(path)\n', 'pass\n',
        'tests/training/test_checkpointing.py tests/checkpoints -k "damaged or changed or digest"'),
    'checkpoints: CRC-32 of a record is not checked': Fault(
        'semmae/checkpoints/read.py', 'if damaged := records.testzip():',
        'if damaged := None:', 'tests/reliability/test_attacks.py -k every_attack'),
    'checkpoints: unpickled without weights_only': Fault(
        'semmae/checkpoints/read.py', 'map_location=map_location, weights_only=True',
        'map_location=map_location, weights_only=False', 'tests/checkpoints/test_load.py'),
    'part store: the hash is not verified': Fault(
        'semmae/datasets/part_store.py', 'def verify(self):', 'def verify(self):\n        return\n',
        'tests/datasets/test_part_store.py'),
    'samples: the epoch is not part of the seed': Fault(
        'semmae/datasets/seeded.py', 'seed_cpu(self.seed, epoch, index)',
        'seed_cpu(self.seed, 0, index)', 'tests/datasets/test_seeded.py'),
    'steps: the iteration is not part of the seed': Fault(
        'semmae/training/progress.py', 'seed_everything(runner.seed, runner.iter, get_rank())',
        'seed_everything(runner.seed, 0, get_rank())',
        'tests/training/test_progress.py'),
    'results: the checksum of a line is ignored': Fault(
        'semmae/results/results.py', '!= checksum(record)', '!= checksum(record) and False',
        'tests/results/test_results.py'),
    'tables: population instead of sample deviation': Fault(
        'semmae/reporting/lines.py', 'statistics.stdev(values)', 'statistics.pstdev(values)',
        'tests/reporting/test_tables.py'),
    'tables: a field of the protocol does not count': Fault(
        'semmae/results/protocol.py', 'flat[prefix] = _canonical(value)',
        'flat[prefix] = _canonical(value) if prefix != "input_size" else None',
        'tests/results tests/reporting/test_tables.py'),
    'identity: the mask ratio is let through': Fault(
        'semmae/config/identity.py', "(r'randomness\\.seed$'",
        "(r'(randomness\\.seed|.*mask_ratio)$'",
        'tests/config/test_identity.py'),
    'batch: accumulated steps do not count': Fault(
        'semmae/training/global_batch.py',
        'cfg.train_dataloader.batch_size * processes * accumulated_steps(cfg)',
        'cfg.train_dataloader.batch_size * processes', 'tests/training -k "batch"'),
    'NaN: a loss that is not finite goes on': Fault(
        'semmae/training/finite.py', 'for value in values]).isfinite()',
        'for value in values]).isfinite().logical_or(torch.tensor(True))',
        'tests/training -k "nan or finite or infinite"'),
    'SIGTERM: another exit status': Fault(
        'semmae/training/stopping.py', 'number: 128 + number', 'number: 127 + number',
        'tests/training/test_stopping.py'),
    'LARS: the trust ratio is upside down': Fault(
        'semmae/training/lars.py', '* weight / length', '* length / weight',
        'tests/training/test_lars.py'),
    'k-NN: votes without temperature': Fault(
        'semmae/functional/knn.py', '(similarity.double() / temperature)',
        '(similarity.double() * temperature)', 'tests/functional/test_knn.py'),
    'flips: the part map is not flipped with its image': Fault(
        'semmae/datasets/transforms.py', 'results[key][:, ::-1]', 'results[key][:, :]',
        'tests/datasets/test_joint_geometry.py'),
}


@functools.cache
def status(tests, copy, fault=''):
    """The exit status of pytest in ``copy``; fault: the name of the fault that is in it."""
    done = subprocess.run(
        f'{sys.executable} -m pytest -q -x -p no:cacheprovider {tests}', shell=True, cwd=copy,
        capture_output=True, text=True,
        env=dict(os.environ, PYTHONPATH=str(copy), OMP_NUM_THREADS='1'))
    if done.returncode not in (0, 1):  # no test was selected, or one could not be collected
        raise RuntimeError(done.stdout[-2000:])
    return done.returncode


def caught(name, copy):
    """Whether the tests of a fault pass without it and fail with it, in ``copy`` of the repo."""
    fault = FAULTS[name]
    path = copy / fault.file
    text = path.read_text()
    if status(fault.tests, copy):
        raise RuntimeError(f'the tests fail without a fault: {fault.tests}')
    path.write_text(text.replace(fault.old, fault.new))
    try:
        return status(fault.tests, copy, name) == 1
    finally:
        path.write_text(text)


def main():
    """Try the faults that are asked for, or all."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('names', nargs='*', metavar='NAME', help='quoted; default: all')
    parser.add_argument('--list', action='store_true', help='print the names')
    args = parser.parse_args()
    if args.list:
        print('\n'.join(FAULTS))
        return 0
    if unknown := sorted({*args.names} - {*FAULTS}):
        parser.error(f'no fault is named {unknown[0]!r}; --list prints the names')
    names = args.names or FAULTS
    with tempfile.TemporaryDirectory() as folder:
        for name in COPIED:
            source = REPO / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, Path(folder, name))
        found = {}
        for name in names:
            found[name] = caught(name, Path(folder))
            print(f'{"caught" if found[name] else "NOT CAUGHT":10} {name}', flush=True)
    print(f'{sum(found.values())} of {len(found)} faults caught')
    return int(not all(found.values()))


if __name__ == '__main__':
    sys.exit(main())
