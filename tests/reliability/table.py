"""Every failure case of this folder, tried on ours and on stock code, as one table.

    python -m tests.reliability.table --out benchmarks/results/reliability.md
    python -m tests.reliability.table --quick --rows save newest --verbose

A row survives if all its cases reach the required outcome; a case that raises has not. Controls
are cases with the mechanism switched off: a table whose cases cannot fail says nothing. The last
row is `fuzz`. Stock is mmengine, mmcv, mmseg, pandas or Python, whatever does the same there.

Exit status: 0, or 1 if a case of ours failed or a control passed.
"""
import argparse
import gc
import os
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import active_children, get_context
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.speed.record import where, write

from . import attacks, fuzz, images, resume, saving
from .case import outcome

MODULES = resume, saving, attacks, images
ROWS = {
    'resume': 'killed after any iteration, resumed: weights, optimiser, schedules bit-identical',
    'repeat': 'bit-identical without a kill; different without the mechanism',
    'order': 'every image once in each epoch, wherever it stops',
    'save': 'crash, full disk or file size limit in a save: a whole checkpoint at every instant',
    'newest': 'last_checkpoint wrong, newest file damaged, folder moved: the newest whole one',
    'signal': 'SIGTERM, SIGUSR1, SIGINT, SIGHUP in step, save, validation: saved, exit status',
    'one-run': 'two runs in one work directory; what a killed run leaves',
    'unwritable': 'a place that cannot be written: refused at the start',
    'other-run': 'resumed with another seed, batch, model or schedule: refused, naming it',
    'images': 'unusual images read correctly, damaged ones refused by name',
    'parts': 'part store that does not fit; one part for all patches',
    'ratio': 'exactly the ratio is masked, for any parts',
    'labels': 'labels out of range, of another size or format: refused by name',
    'malicious': 'damaged and malicious checkpoints and annotations: refused, nothing is executed',
    'nan': 'NaN or infinite loss or gradient: stops before the step, saves nothing from it',
    'torn': 'torn result files: whole lines are read, the others reported',
    'names': 'hostile names in tables: text in every format',
    'archives': 'archives that write outside or grow without end: refused',
    'optional': 'a missing optional package: off, or a line that says so',
    'install': 'installed from nothing, and mim test'}
# What a training cannot try on itself.
ELSEWHERE = {'install': '`bash tools/run_tests.sh` in a fresh clone'}
FUZZ = 'fuzz'


def entries(root, quick):
    """[(is_control, `Case`), ...] of all modules, the same in every process but for ``root``."""
    found = []
    for module in MODULES:
        for kind in ('cases', 'controls'):
            folder = Path(root, f'{module.__name__.split(".")[-1]}_{kind}')
            folder.mkdir()
            found += [(kind == 'controls', case)
                      for case in getattr(module, kind)(folder, quick=quick)]
    return found


def tasks(found, rows=None):
    """Lists of numbers of entries; the thousands of masks are one."""
    wanted = [i for i, (_, case) in enumerate(found) if not rows or case.row in rows]
    masks = [i for i in wanted if found[i][1].row == 'ratio' and not found[i][0]]
    return [[i] for i in wanted if i not in set(masks)] + [masks] * bool(masks)


def begin(folder, quick):
    """In a process that tries cases: its own files, and one thread."""
    global ENTRIES
    torch.set_num_threads(1)
    # What cases print is theirs; the progress is the first process's.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    ENTRIES = entries(tempfile.mkdtemp(dir=folder), quick)


def tried(numbers):
    """[dict(row, name, is_control, ours, why, stock, said), ...] of these entries.

    ours: whether the required outcome is reached; stock: the same, or None where there is none.
    """
    found = []
    for number in numbers:
        is_control, case = ENTRIES[number]
        ours, why = outcome(case.ours)
        stock, said = (None, '') if case.stock is None else outcome(case.stock)
        found.append(dict(row=case.row, name=case.name, is_control=is_control, ours=ours,
                          why='' if ours else why, stock=stock, said=said))
        for child in active_children():  # what a killed launch left; this process would wait for it
            child.kill()
    gc.collect()
    return found


def fuzzed(num_cases):
    """What `fuzz.table` shows."""
    start = time.perf_counter()
    found = fuzz.run(num_cases, seed=0)
    counts = {kind: dict(Counter(case['verdict'] for case in found if case['kind'] == kind))
              for kind in (*fuzz.KINDS, fuzz.GENERATED)}
    return dict(cases=len(found), seed=0, seconds=time.perf_counter() - start, counts=counts,
                failures=[case for case in found if case['verdict'] in fuzz.FAILURES])


def collect(quick=False, rows=None, num_fuzz=2500, jobs=1, verbose=False):
    """(list of what `tried` returns, what `fuzzed` returns or None)."""
    progress = Progress(TextColumn('{task.description:50.50}'), BarColumn(), MofNCompleteColumn(),
                        TimeElapsedColumn())
    found, files = [], None
    with (tempfile.TemporaryDirectory(prefix='reliability_') as folder, progress,
          ProcessPoolExecutor(jobs, get_context('fork'), begin, (folder, quick)) as pool):
        whole = tempfile.mkdtemp(dir=folder)
        waiting = [pool.submit(fuzzed, num_fuzz)] if num_fuzz and (not rows or FUZZ in rows) else []
        first = waiting[:1]
        waiting += [pool.submit(tried, numbers) for numbers in tasks(entries(whole, quick), rows)]
        bar = progress.add_task('', total=len(waiting))
        for done in as_completed(waiting):
            if done in first:
                files, name = done.result(), FUZZ
            else:
                found += done.result()
                name = f'{found[-1]["row"]} {found[-1]["name"]}'
                for case in done.result()[:1] if verbose else ():
                    progress.console.print(line(case), markup=False, highlight=False,
                                           soft_wrap=True)
            progress.update(bar, advance=1, description=name)
    return found, files


def line(case):
    """A case in one line."""
    kind = 'control' if case['is_control'] else 'case'
    ours = case['why'] or 'ok'
    return f'{case["row"]} {kind} {case["name"]} | ours: {ours} | stock: {case["said"] or "-"}'


def is_wrong(case):
    """A case that failed, or a control that did not."""
    return case['ours'] == case['is_control']


def summary(found, files=None, wanted=None):
    """dict: rows, wrong (cases), fuzz; what is written down. wanted: rows; None: all."""
    rows = []
    for row in wanted or ROWS:
        cases = [c for c in found if c['row'] == row and not c['is_control']]
        controls = [c for c in found if c['row'] == row and c['is_control']]
        stock = [c for c in cases if c['stock'] is not None]
        if row not in ELSEWHERE and not cases and not controls:
            continue
        said = Counter(short(c['said']) for c in stock if not c['stock'])
        rows.append(dict(
            row=row, what=ROWS[row], tried=len(cases), survived=sum(c['ours'] for c in cases),
            controls=len(controls), controls_failed=sum(not c['ours'] for c in controls),
            stock_tried=len(stock), stock_survived=sum(c['stock'] for c in stock),
            stock_said=[f'{text} ({n})' for text, n in said.most_common(3)]))
    wrong = [{k: c[k] for k in ('row', 'name', 'is_control', 'why')} for c in found if is_wrong(c)]
    return dict(rows=rows, wrong=wrong, fuzz=files)


def short(text):
    """The kind of an outcome, without its paths and numbers."""
    for mark in (':', ', expected', ' (', ' ['):
        text = text.partition(mark)[0] or text
    return text[:60]


def cell(text):
    return text.replace('|', '\\|').replace('\n', ' ')


def table(record):
    """Markdown: a row for each of resume to install, what went wrong, and the fuzz run by kind."""
    def of(part, whole):
        return f'{part:,} of {whole:,}' if whole else '-'
    text = ['| | what | survived | controls that failed | stock | what stock does instead |',
            '|---|---|---|---|---|---|']
    for row in record['rows']:
        survived = ELSEWHERE.get(row['row']) or of(row['survived'], row['tried'])
        text.append(f'| {row["row"]} | {row["what"]} | {survived} | '
                    f'{of(row["controls_failed"], row["controls"])} | '
                    f'{of(row["stock_survived"], row["stock_tried"])} | '
                    f'{cell("; ".join(row["stock_said"]))} |')
    files = record['fuzz']
    if files:
        text.append(f'| {FUZZ} | files damaged at random: refused, told, or without effect | '
                    f'{of(files["cases"] - len(files["failures"]), files["cases"])} | - | - | |')
    wrong = [f'- {case["row"]}, {"control " * case["is_control"]}{cell(case["name"])}: '
             + ('passed, and was to fail' if case['is_control'] else cell(case['why']))
             for case in record['wrong']]
    text += ['', *(wrong or ['Every case survived, and every control failed.'])]
    if files:
        text += ['', 'Damaged at random, by what reads it:', '', fuzz.table(files).rstrip()]
    if 'machine' in record:
        text += ['', f'{"Quick: not every kill point. " * record["quick"]}{where(record)}']
    return '\n'.join(text)


def failed(record):
    """Whether anything of ours failed, or a control passed."""
    return bool(record['wrong'] or (record['fuzz'] or {}).get('failures'))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('--out', type=Path, help='a .md file; the record goes beside it as .json')
    parser.add_argument('--quick', action='store_true', help='a few kill points of each kind')
    parser.add_argument('--rows', nargs='+', choices=[*ROWS, FUZZ], metavar='ROW')
    parser.add_argument('--fuzz', type=int, help='cases; 2500, or 200 with --quick; 0 for none')
    parser.add_argument('--jobs', type=int, default=min(2, os.cpu_count()))
    parser.add_argument('--verbose', action='store_true', help='a line for each case')
    args = parser.parse_args()
    if args.fuzz is None:
        args.fuzz = 200 if args.quick else 2500
    content = summary(*collect(args.quick, args.rows, args.fuzz, args.jobs, args.verbose),
                      args.rows and [row for row in args.rows if row != FUZZ])
    if args.out:
        write(args.out.with_suffix('.json'), '-m tests.reliability.table', None, table,
              quick=args.quick, **content)
    else:
        print(table(content))
    return int(failed(content))


if __name__ == '__main__':
    sys.exit(main())
