"""A suite of runs in order: what is done is skipped, what was stopped goes on.

A suite is data (`benchmarks.suite`): rows with a config or a command, the rows that they need, and
the file that says that they are done.
"""
import os
import re
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

PROGRESS = re.compile(r'(?:Epoch|Iter)\(train\)\s+\[\s*(\d+)(?:/\d+)?\].*?eta: ([\d:, days]+)\s.*?'
                      r'loss: ([\d.naif]+)')


@dataclass
class Run:
    """A row with everything filled in."""
    id: str
    command: list
    work_dir: Path
    product: Path
    needs: list
    process: subprocess.Popen = None
    started: float = 0.
    note: str = ''
    seen: int = field(default=0, repr=False)

    @property
    def is_done(self):
        return self.product.exists()


def plan(suite, work_dir, only=(), checkpoint=None, seeds=(0,), images=None, gpus=0):
    """The runs of a suite in an order in which every one comes after what it needs.

    only: row ids; these and what they need. checkpoint: the suite's tasks on this file instead of
    its own pre-trainings. gpus: start trainings on this many GPUs.
    """
    rows = {row.id: row for row in suite.rows}
    if checkpoint:
        rows |= {row.id: row for row in tasks_on(suite, checkpoint)}
        only = [i for i in only if i in rows] or [r.id for r in tasks_on(suite, checkpoint)]
    for name in only:
        if name not in rows:
            recipe = name.split('/')[-1]
            hint = ('it evaluates weights from elsewhere: give them with --checkpoint FILE'
                    if recipe in suite.foreign else f'it has: {", ".join(rows)}')
            raise ValueError(f"the suite has no row '{name}'; {hint}")
    runs = {}
    for seed in seeds:
        for name in wanted(rows, only or list(rows)):
            run = fill(rows, rows[name], Path(work_dir), seed, images or suite.images, gpus)
            runs.setdefault((run.product, run.id), run)
    return list(runs.values())


def wanted(rows, names):
    """``names`` and everything that they need, needed ones first."""
    order = []

    def visit(name):
        for need in rows[name].needs:
            visit(need)
        if name not in order:
            order.append(name)
    for name in names:
        visit(name)
    return order


def tasks_on(suite, checkpoint):
    """Rows for every task of the suite on one checkpoint, by its patch size."""
    from .checkpoint import backbone_state, read_checkpoint
    content = read_checkpoint(checkpoint)
    weight = backbone_state(content).get('patch_embed.projection.weight')
    if weight is None:
        raise ValueError(f'{checkpoint} holds no ViT: patch_embed.projection.weight is missing')
    patch = weight.shape[-1]
    meta = content.get('meta')
    own = (meta.get('semmae') if isinstance(meta, dict) else None) or {}
    recipe = own.get('id') or Path(checkpoint).stem
    init = 'model.backbone.init_cfg.checkpoint'
    row = type(suite.rows[0])
    found = [row(f'{task}/{recipe}', 'results.jsonl', configs[patch],
                 {init: str(checkpoint), **({} if own else {'result.recipe': recipe,
                                                            'result.method': recipe})})
             for task, configs in suite.tasks.items() if patch in configs]
    if not found:
        raise ValueError(f'{checkpoint} has {patch}x{patch} patches; the suite has tasks for '
                         f'{sorted({p for c in suite.tasks.values() for p in c})}')
    return found


def fill(rows, row, root, seed, images, gpus):
    """A `Run` of ``row``: work directory, seed, products of other rows in place of their names."""
    def home(r):
        return root / f'seed{seed}' / r.id

    def product(r):
        return Path(r.product) if r.is_shared else home(r) / r.product

    values = dict(images=str(images), work_dir=str(home(row)),
                  seed_dir=str(root / f'seed{seed}'))
    for need in wanted(rows, [row.id]):
        path = product(rows[need])
        values[need] = str(path.parent if path.name == 'manifest.json' else path)

    def expand(text):
        return re.sub(r'\{([^{}]+)\}', lambda m: values[m[1]], text)

    if row.config:
        options = [f'{k}={expand(v)}' for k, v in row.options.items()]
        start = (['bash', 'tools/dist_train.sh', row.config, str(gpus)] if gpus > 1
                 else [sys.executable, 'tools/train.py', row.config])
        command = [*start, '--work-dir', str(home(row)), '--seed', str(seed), '--resume',
                   *(['--cfg-options', *options] if options else [])]
    else:
        command = [sys.executable, *map(expand, row.command)]
    return Run(row.id, command, home(row), product(row),
               [product(rows[n]) for n in row.needs])


def show(runs, console):
    """The plan as a table, nothing started."""
    table = Table('row', 'state', 'command', title=f'{len(runs)} runs')
    for run in runs:
        table.add_row(run.id, 'done' if run.is_done else 'to run', shlex.join(run.command))
    console.print(table)


def execute(runs, jobs=1, console=None, threads=None, poll=0.2, report_every=20.):
    """Run everything that is not done, at most ``jobs`` at a time; raises if one fails.

    threads: CPU cores to share among the running ones. Output goes to ``console.log`` in each work
    directory; a run that was stopped goes on from its last checkpoint.
    """
    console = console or Console(stderr=True)
    threads = threads or len(os.sched_getaffinity(0))
    waiting = [replace(run) for run in runs if not run.is_done]
    for run in runs:
        if run.is_done:
            console.print(f'[dim]done before: {run.id}[/]')
    running, told = [], time.time()
    try:
        while waiting or running:
            ready = [r for r in waiting if all(n.exists() for n in r.needs)]
            if not ready and not running:
                raise RuntimeError(f'{waiting[0].id} needs {waiting[0].needs}, which no run made')
            for run in ready[:jobs - len(running)]:
                waiting.remove(run)
                share = max(1, threads // min(jobs, len(running) + len(ready)))
                launch(run, share)
                running.append(run)
                console.print(f'[bold]start[/] {run.id} [dim]({run.work_dir}/console.log)[/]')
            for run in list(running):
                if run.process.poll() is not None:
                    running.remove(run)
                    finish(run, console)
            if time.time() - told > report_every and running:
                told = time.time()
                console.print('[dim]' + '; '.join(f'{r.id}: {progress(r)}' for r in running)
                              + '[/]')
            time.sleep(poll)
    finally:
        for run in running:
            run.process.terminate()


def launch(run, threads):
    """Start a run's process with its share of the cores."""
    run.work_dir.mkdir(parents=True, exist_ok=True)
    env = dict(os.environ, OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads),
               PYTHON=sys.executable, PYTHONUNBUFFERED='1', PYTHONWARNINGS='ignore', COLUMNS='100')
    run.started = time.time()
    with open(run.work_dir / 'console.log', 'ab') as log:
        run.seen = log.tell()
        run.process = subprocess.Popen(run.command, stdout=log, stderr=subprocess.STDOUT,
                                       env=env, stdin=subprocess.DEVNULL)


def progress(run):
    """The last training line of a run, in a few words."""
    with open(run.work_dir / 'console.log', 'rb') as log:
        log.seek(run.seen)
        found = PROGRESS.findall(log.read().decode(errors='replace'))
    if not found:
        return 'starting'
    step, eta, loss = found[-1]
    return f'step {step}, loss {loss}, {eta.strip()} left'


def finish(run, console):
    """Say that a run is done, or raise with the end of its log."""
    seconds = time.time() - run.started
    if run.process.returncode == 0 and run.is_done:
        console.print(f'[green]done[/]  {run.id} in {seconds:.0f} s')
        return
    lines = (run.work_dir / 'console.log').read_text(errors='replace').splitlines()[-12:]
    raise RuntimeError(
        f'{run.id} failed (exit {run.process.returncode}, {run.product} '
        f'{"exists" if run.is_done else "is missing"}). It ran: {shlex.join(run.command)}\n'
        + '\n'.join(lines))
