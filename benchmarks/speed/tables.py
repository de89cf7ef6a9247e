"""Seconds from the results of many runs to Tables 1-7: what tools/make_tables.py does.

python benchmarks/speed/tables.py --out benchmarks/results/speed_tables.json

Each run has a work directory. The runs are spread over all rows of the paper's tables, with several
seeds per cell; their values are random, without stored predictions, so the bootstrap is not timed.
Sizes alternate in one process, also for the share of reading. Prints a Markdown table, also written
beside OUT; about a minute on two CPU cores.
"""
import contextlib
import io
import json
import random
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.speed.masking import alternate
from benchmarks.speed.record import exponent, parser, where, write
from semmae.commands.tables import main as make_tables
from semmae.reporting.cells import DATASETS
from semmae.reporting.tables import load_numbers
from semmae.results.mmengine_logs import read_everything
from semmae.results.protocol import fingerprint


def write_runs(root, count):
    """``count`` work directories below ``root``, each with the one line of a finished run."""
    rows = [row for row in load_numbers()['row'].unique() if '/' in row]
    draw, protocol = random.Random(0), dict(input_size=224, epochs=100)
    for i in range(count):
        row, seed = rows[i % len(rows)], i // len(rows)
        task, recipe = row.split('/', 1)
        record = dict(
            row=row, method='SemMAE' if 'semmae' in recipe else 'MAE', recipe=recipe, task=task,
            dataset=DATASETS.get(task, 'ImageNet-1k'), split='val', metric='accuracy/top1',
            value=60 + draw.random(), unit='%', seed=seed, protocol=protocol,
            fingerprint=fingerprint(protocol), config='c.py', checkpoint='c.pth',
            checkpoint_sha256=f'{i:064x}', reduced=False, status='ok',
            time='2025-01-01T00:00:00+00:00')
        folder = root / f'seed{seed}' / row
        folder.mkdir(parents=True)
        (folder / 'results.jsonl').write_text(json.dumps(record) + '\n')


def measure(sizes, repeats):
    """A row for each number of runs, and one for the part of it that is reading."""
    with tempfile.TemporaryDirectory() as folder:
        actions = {}
        for count in sizes:
            root, out = Path(folder) / str(count), Path(folder) / f'{count}.md'
            write_runs(root, count)

            def tables(root=root, out=out):
                if make_tables([str(root), '--out', str(out)]):
                    raise RuntimeError(f'no tables of {root}; what make_tables said is above')
            actions['results to tables', count] = tables
            actions['of it, reading', count] = lambda root=root: read_everything([str(root)])
        with contextlib.redirect_stdout(io.StringIO()):
            seconds = alternate(actions, repeats, warm_up=1)
    middle = {key: statistics.median(found) for key, found in seconds.items()}
    return [dict(what=what, runs=count, s=middle[what, count], lowest=min(found),
                 highest=max(found), repeats=repeats, times_first=middle[what, count] / middle[
                     what, sizes[0]], expected=count / sizes[0],
                 exponent=exponent(middle[what, count] / middle[what, sizes[0]],
                                   count / sizes[0]))
            for (what, count), found in seconds.items()]


def table(record):
    """The record as Markdown."""
    lines = ['| | runs | s, median | lowest to highest | times the first | expected | exponent |',
             '|---|---|---|---|---|---|---|']
    for row in sorted(record['rows'], key=lambda row: row['what'], reverse=True):
        power = '' if row['exponent'] is None else f'{row["exponent"]:.2f}'
        lines.append(f'| {row["what"]} | {row["runs"]:,} | {row["s"]:.2f} | {row["lowest"]:.2f} to '
                     f'{row["highest"]:.2f} | {row["times_first"]:.1f} | {row["expected"]:.0f} | '
                     f'{power} |')
    return '\n'.join([*lines, '', where(record)])


def main(arguments=None):
    options = parser(__doc__)
    options.add_argument('--runs', nargs='+', type=int, default=[100, 1000, 10_000])
    options.add_argument('--repeats', type=int, default=3)
    args = options.parse_args(arguments)
    write(args.out, __file__, arguments, table,
          rows=measure(args.runs, args.repeats))


if __name__ == '__main__':
    main()
