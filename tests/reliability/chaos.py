"""A suite under kill -9 at random moments on random processes; then its results are compared.

    python tools/run_suite.py mini --jobs 2                                   (undisturbed)
    python -m tests.reliability.chaos mini --undisturbed work_dirs/mini \\
        --work-dir work_dirs/chaos --kills 60 --out benchmarks/results/chaos.json

A victim is drawn from all processes of the suite: the command, Snakemake, the processes that start
the rows, trainings, their loaders, extraction, evaluation. A killed suite is started again. After
the last kill the suite runs to its end. Exit status 1 if a value differs, a file is half, or a row
that was done ran again.
"""
import argparse
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil

from benchmarks.speed.record import where, write
from semmae.files import sha256
from semmae.results.results import read_results


def main():
    args = parse()
    start, drawn = time.time(), random.Random(args.seed)
    command = [sys.executable, 'tools/run_suite.py', args.suite, '--work-dir', str(args.work_dir),
               '--jobs', str(args.jobs), *(['--only', *args.only] if args.only else [])]
    suite, kills, restarts, waits = None, [], 0, []
    args.work_dir.mkdir(parents=True, exist_ok=True)
    with (args.work_dir / 'chaos.log').open('a') as log:
        while len(kills) < args.kills:
            if suite is None or suite.poll() is not None:
                restarts += suite is not None
                before = starts(args.work_dir)
                suite, begun = subprocess.Popen(command, stdout=log, stderr=log), time.time()
                while suite.poll() is None and starts(args.work_dir) == before:
                    time.sleep(.1)  # until a row starts
                if suite.poll() == 0:
                    break
                waits.append(time.time() - begun)
            time.sleep(drawn.expovariate(1 / args.every))
            victim = one_of(suite, drawn)
            if victim and (killed := kill(victim, args.work_dir, time.time() - start)):
                kills.append(killed)
                print(f'{len(kills):3} {kills[-1]["what"]}', flush=True)
        if suite.poll() is None:
            suite.wait()
        while subprocess.run(command, stdout=log, stderr=log).returncode:
            restarts += 1
    found = compare(args.undisturbed, args.work_dir) | dict(
        suite=args.suite, seed=args.seed, kills=len(kills), restarts=restarts,
        killed={what: sum(k['what'] == what for k in kills)
                for what in sorted({k['what'] for k in kills})},
        lost=round(sum(k['lost'] for k in kills), 1),
        longest_restart=round(max(waits), 1), time=round(time.time() - start))
    write(args.out, '-m tests.reliability.chaos', None, table, **found)
    sys.exit(bool(found['different'] or found['half'] or found['repeated']))


def table(record):
    """Markdown: what was killed, and what it cost."""
    rows = [('values compared', record['values']), ('values that differ', len(record['different'])),
            ('half files', len(record['half'])),
            ('rows that ran again after they were done', len(record['repeated'])),
            ('kills', record['kills']),
            *((f'of them: {what}', n) for what, n in record['killed'].items()),
            ('starts of the suite after a kill', record['restarts']),
            ('longest time from a start to the first row', f'{record["longest_restart"]} s'),
            ('lost work, in all', f'{record["lost"]} s'), ('time in all', f'{record["time"]} s')]
    return '| | |\n|---|---|\n' + ''.join(f'| {a} | {b} |\n' for a, b in rows) + (
        f'\nSuite {record["suite"]}. {where(record)}\n')


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('suite')
    parser.add_argument('--undisturbed', type=Path, required=True, help='its work directory')
    parser.add_argument('--work-dir', type=Path, required=True)
    parser.add_argument('--only', nargs='+', help='rows')
    parser.add_argument('--kills', type=int, default=60)
    parser.add_argument('--every', type=float, default=15., help='mean seconds between kills')
    parser.add_argument('--jobs', type=int, default=2)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', type=Path, required=True)
    return parser.parse_args()


def starts(work_dir):
    """How often rows were started so far."""
    return sum(log.read_text(errors='replace').count(' started ====')
               for log in work_dir.rglob('console.log'))


def one_of(suite, drawn):
    """A process of the suite, or None."""
    try:
        top = psutil.Process(suite.pid)
        return drawn.choice([top, *top.children(recursive=True)])
    except psutil.NoSuchProcess:
        return None


def kill(victim, work_dir, at):
    """Kill -9; what it was, when, and the seconds of work that the rows it ended lose. Or None."""
    text = ' '.join(words_of(victim))
    try:
        near = [victim, *victim.children(recursive=True), *victim.parents()]
        if 'run_suite.py' in text or '-m snakemake' in text:  # ends every row
            near = [p for p in psutil.process_iter() if str(work_dir) in ' '.join(words_of(p))]
        lost = sum(since_saved(p) for p in {p.pid: p for p in near if is_training(p)}.values())
        victim.kill()
    except psutil.NoSuchProcess:
        return None
    names = {'run_suite.py': 'command', '-m snakemake': 'Snakemake', 'start.py': 'start of a row',
             'train.py': 'training', 'extract_parts.py': 'extraction', 'test.py': 'evaluation',
             'part_quality.py': 'part quality', 'toy': 'toy data'}
    return dict(what=next((name for key, name in names.items() if key in text), 'helper'), at=at,
                lost=lost)


def words_of(process):
    """Its command line; empty if it has ended."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def is_training(process):
    """Whether it trains, or is a loader of a training."""
    words = words_of(process)
    return 'tools/train.py' in words and '--work-dir' in words and 'start.py' not in words


def since_saved(process):
    """Seconds since a training saved a checkpoint, or since it started."""
    words = words_of(process)
    folder = Path(words[words.index('--work-dir') + 1])
    saved = max((p.stat().st_mtime for p in folder.glob('*.pth')), default=0.)
    return time.time() - max(saved, process.create_time())


def compare(undisturbed, work_dir):
    """What differs between the values of two work directories, half files, repeated rows."""
    values = [{(r['row'], r['seed'], r['metric'], r['split']): r['value']
               for r in read_results([folder])[0]} for folder in (undisturbed, work_dir)]
    keys = {*values[0], *values[1]} if values[1].keys() >= values[0].keys() else {*values[0]}
    different = sorted(map(str, (k for k in keys if values[0].get(k) != values[1].get(k))))
    half = [str(path) for path in work_dir.rglob('*.pth')
            if (digest := path.with_name(path.name + '.sha256')).exists()
            and digest.read_text().split()[0] != sha256(path)]
    half += [line for line in map(str, work_dir.rglob('*.tmp*'))]
    repeated = [str(log) for log in work_dir.rglob('console.log') if re.search(
        ' done ====(.|\n)* started ====', log.read_text(errors='replace'))]
    return dict(values=len(values[0]), different=different, half=half, repeated=repeated)


if __name__ == '__main__':
    main()
