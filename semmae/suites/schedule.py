"""A suite of runs in order: what is done is skipped, what was stopped goes on.

A suite is data (`benchmarks.suite`): rows with a config or a command, the rows that they need, and
the file that says that they are done.
"""
import fcntl
import functools
import os
import re
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape

PROGRESS = re.compile(r'(?:Epoch|Iter)\(train\)\s+\[\s*(\d+)(?:/\d+)?\].*?eta: ([\d:, days]+)\s.*?'
                      r'loss: ([\d.naif]+)')
ENTRY = re.compile(r'^==== \S+ \S+ (\w+)(.*) ====$', re.M)  # written by `write_entry`


@dataclass
class Run:
    """A row with everything filled in. config: of a training; ``processes`` share its batch."""
    id: str
    command: list
    work_dir: Path
    product: Path
    needs: list
    is_alone: bool = False
    config: str = ''
    processes: int = 1
    steps: int = 1  # accumulated
    batch: str = ''  # what the global batch is made of, in words
    is_remote: bool = False  # this machine's cores are not the run's
    process: subprocess.Popen = None
    started: float = 0.
    seen: int = field(default=0, repr=False)

    @property
    def is_done(self):
        return self.product.exists()

    @property
    def log(self):
        return self.work_dir / 'console.log'


def plan(suite, work_dir, only=None, checkpoint=None, seeds=(0,), images=None, gpus=0,
         launcher=None, offset=None):
    """The runs of a suite in an order in which every one comes after what it needs.

    only: row ids; these and what they need; None: all rows. An empty selection is a ValueError.
    checkpoint: the suite's tasks on this file instead of its own pre-trainings; offset: how its
    positions are resized (`tasks.tasks_on`).
    gpus: start trainings on at most this many GPUs, or processes.
    launcher: 'pytorch' (tools/dist_train.sh), 'slurm' (tools/slurm_train.sh), or None:
    dist_train.sh where a training gets more than one process. The runs of a mini suite have
    batches of their own and get one process each.
    """
    if any(c in str(work_dir) for c in ' ,') or any(c in str(images or '') for c in ' ,'):
        raise ValueError(f'{work_dir}, {images}: overrides of a config cannot carry spaces and '
                         'commas; choose other paths (--work-dir), or link to them')
    rows = {row.id: row for row in suite.rows}
    for name in only or ():
        suite.require_available(name, bool(checkpoint))
    if checkpoint:
        from .tasks import tasks_on
        found = tasks_on(suite, checkpoint, only or (), offset)
        rows |= {row.id: row for row in found}
        only = [row.id for row in found]
    only = list(rows) if only is None else only
    if not only or not seeds:
        raise ValueError(f'nothing to run: got rows {list(only)} and seeds {list(seeds)}, expected '
                         'at least one of each')
    for name in only:
        if name not in rows:
            hint = ('it evaluates weights from elsewhere: give them with --checkpoint FILE'
                    if name.split('/')[-1] in suite.foreign else f'it has: {", ".join(rows)}')
            raise ValueError(f"the suite has no row '{name}'; {hint}")
    runs = {}
    for seed in seeds:
        for name in wanted(rows, only):
            run = fill(rows, rows[name], Path(work_dir), seed, images or suite.images,
                       0 if suite.is_mini else gpus, launcher)
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


def fill(rows, row, root, seed, images, gpus, launcher=None):
    """A `Run` of ``row``: work directory, seed, products of other rows in place of their names."""
    def home(r):
        return root / f'seed{seed}' / (r.home or r.id)

    def product(r):
        return Path(r.product) if r.is_shared else home(r) / r.product

    values = dict(images=str(images), work_dir=str(home(row)),
                  seed_dir=str(root / f'seed{seed}'))
    for need in wanted(rows, [row.id]):
        path = product(rows[need])
        values[need] = str(path.parent if path.name == 'manifest.json' else path)

    def expand(text):
        return re.sub(r'\{([^{}]+)\}', lambda m: values[m[1]], text)

    run = Run(row.id, [], home(row), product(row), [product(rows[n]) for n in row.needs],
              row.is_alone, row.config, is_remote=launcher == 'slurm')
    if row.config:
        options = [f'{k}={expand(v)}' for k, v in row.options.items()]
        own_batch = row.options.get('train_dataloader.batch_size')
        if gpus or keeps_batch(row.config):
            run.processes, run.steps = share(row.config, max(gpus, 1), own_batch)
        run.batch = batch_in_words(row.config, run.processes, run.steps, own_batch)
        run.command = [*start(row, run.processes, launcher),
                       '--work-dir', str(home(row)), '--seed', str(seed), '--resume',
                       *(['--keep-batch'] if run.steps > 1 else []),
                       *(['--cfg-options', *options] if options else [])]
    else:
        run.command = [*(slurm_task(row) if launcher == 'slurm' else []), sys.executable,
                       *map(expand, row.command)]
    return run


def start(row, processes, launcher):
    """How the command of a training begins."""
    if launcher == 'slurm':
        per_node = min(processes, int(os.environ.get('GPUS_PER_NODE', 8)))
        return ['env', f'GPUS={processes}', f'GPUS_PER_NODE={per_node}', 'bash',
                'tools/slurm_train.sh', partition(), job_name(row), row.config]
    if launcher == 'pytorch' or processes > 1:
        return ['bash', 'tools/dist_train.sh', row.config, str(processes)]
    return [sys.executable, 'tools/train.py', row.config]


def slurm_task(row):
    """What a command that is no training is started with: one task with one GPU."""
    return ['srun', '-p', partition(), '--job-name', job_name(row), '--gres', 'gpu:1', '--ntasks',
            '1', '--cpus-per-task', os.environ.get('CPUS_PER_TASK', '8'),
            *os.environ.get('SRUN_ARGS', '').split()]


def partition():
    """The Slurm partition that the environment names, or ValueError."""
    if not os.environ.get('PARTITION'):
        raise ValueError('--launcher slurm: PARTITION is not set in the environment, expected the '
                         'name of a Slurm partition. Run: PARTITION=NAME GPUS=8 python '
                         'tools/run_suite.py ... --launcher slurm')
    return os.environ['PARTITION']


def job_name(row):
    return row.id.replace('/', '-')


@functools.cache
def config_of(path):
    from mmengine.config import Config
    return Config.fromfile(path)


def keeps_batch(config):
    """Whether a pre-training is refused at another global batch than its recipe's."""
    recipe = config_of(config).get('recipe')
    return bool(recipe) and not recipe.get('own_batch')


def batch_of(config, own=None):
    """(images of one process, global batch of the recipe or None). own: of an override."""
    cfg = config_of(config)
    stated = cfg.get('recipe') or cfg.get('result') or {}
    return int(own or cfg.train_dataloader.batch_size), stated.get('full', {}).get('batch_size')


def share(config, gpus, own=None):
    """(processes, accumulated steps) that give the recipe's global batch on at most ``gpus``."""
    each, whole = batch_of(config, own)
    batches = max(1, (whole or each * gpus) // each)
    processes = max(n for n in range(1, gpus + 1) if batches % n == 0)
    return processes, batches // processes


def batch_in_words(config, processes, steps, own=None):
    """What the global batch of a training is made of, and whether it is the recipe's."""
    each, whole = batch_of(config, own)
    found = each * processes * steps
    text = f'global batch {found} = {each} x {processes} process{"es" if processes > 1 else ""}'
    if steps > 1:
        text += f' x {steps} accumulated steps'
    if whole and found != whole:
        text += f', but the recipe has {whole}: results will be marked as reduced'
    return text


def execute(runs, jobs=1, console=None, threads=None, poll=0.2, report_every=20.,
            keep_going=False):
    """Run everything that is not done, at most ``jobs`` at a time; raises if one fails.

    threads: CPU cores to share among the running ones. Output goes to ``console.log`` in each work
    directory; a run that was stopped goes on from its last checkpoint. keep_going: after a failure
    still run what does not need the failed one, and raise at the end. Nothing is tried twice.
    """
    console = console or Console(stderr=True)
    threads = threads or len(os.sched_getaffinity(0))
    waiting = [replace(run) for run in runs if not run.is_done]
    for run in runs:
        if run.is_done:
            console.print(f'[dim]done before: {run.id}[/]')
    tell_batches(waiting, console)
    running, failures, told = [], [], time.time()
    try:
        while waiting or running:
            ready = [r for r in waiting if all(n.exists() for n in r.needs)]
            if not ready and not running:
                if failures:
                    break
                raise RuntimeError(f'{waiting[0].id} needs {waiting[0].needs}, which no run made')
            first = next((r for r in ready if r.is_alone), None)
            if first:  # wait for the running ones, then run nothing beside it
                ready = [] if running else [first]
            if any(r.is_alone for r in running):
                ready = []
            for run in ready[:jobs - len(running)]:
                waiting.remove(run)
                past = history(run)
                launch(run, max(1, threads // min(jobs, len(running) + len(ready))))
                running.append(run)
                console.print(f'[bold]start[/] {run.id} [dim]({run.log})[/]'
                              + (f' [yellow]again: {past}[/]' if past else ''))
            for run in list(running):
                if run.process.poll() is not None:
                    running.remove(run)
                    try:
                        finish(run, console)
                    except RuntimeError as error:
                        if not keep_going:
                            raise
                        failures.append(run.id)
                        console.print(f'[red]{escape(str(error))}[/]')
            if time.time() - told > report_every and running:
                told = time.time()
                console.print('[dim]' + '; '.join(f'{r.id}: {progress(r)}' for r in running)
                              + '[/]')
            time.sleep(poll)
    finally:
        stop(running)
    if failures:
        raise RuntimeError(
            f'{len(failures)} failed: {", ".join(failures)}' + (
                f'; not run, because they need them: {", ".join(r.id for r in waiting)}'
                if waiting else '') + '. Their console.log says why; start the same command again')


def tell_batches(runs, console):
    """Print what the global batches are made of, once for all runs that share one."""
    sharing = {}
    for run in runs:
        if run.batch:
            sharing.setdefault(run.batch, {})[run.id] = None
    for batch, ids in sharing.items():
        console.print(f'[{"yellow" if "recipe" in batch else "dim"}]{", ".join(ids)}: {batch}[/]')


def stop(running, patience=60.):
    """End the processes of ``running``, and wait for that: a run has its folder for itself."""
    for run in running:
        run.process.terminate()
    for run in running:
        try:
            run.process.wait(patience)
        except subprocess.TimeoutExpired:
            run.process.kill()


def launch(run, threads):
    """Start a run's process with its share of the cores.

    The process holds a lock on its console.log, through which a run that outlived its suite is
    noticed: RuntimeError.
    """
    run.work_dir.mkdir(parents=True, exist_ok=True)
    env = dict(os.environ, PYTHON=sys.executable, PYTHONUNBUFFERED='1', PYTHONWARNINGS='ignore',
               COLUMNS='100')
    if not run.is_remote:
        cores = str(max(1, threads // run.processes))
        env.update(OMP_NUM_THREADS=cores, MKL_NUM_THREADS=cores)
    run.started = time.time()
    with open(run.log, 'ab') as log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(f'{run.id} is running already: another process writes {run.log}. '
                               'Wait for it, or end it, and start again') from None
        write_entry(log, 'started')
        run.seen = log.tell()
        run.process = subprocess.Popen(run.command, stdout=log, stderr=subprocess.STDOUT,
                                       env=env, stdin=subprocess.DEVNULL)


def write_entry(log, what):
    """A separator line between what the starts of a run print."""
    log.write(f'==== {time.strftime("%Y-%m-%d %H:%M:%S")} {what} ====\n'.encode())
    log.flush()


def history(run):
    """How the last start of a run that is not done ended and what is left of it, or ''."""
    if not run.log.is_file():
        return ''
    entries = ENTRY.findall(run.log.read_text(errors='replace'))
    if not entries:
        return ''
    word, detail = entries[-1]
    saved = max(run.work_dir.glob('*_[0-9]*.pth'), key=lambda p: p.stat().st_mtime, default=None)
    how = {'failed': f'failed before{detail}', 'started': 'was stopped before'}.get(word, 'ran')
    return f'{how}, {f"goes on from {saved.name}" if saved else "begins again"}'


def progress(run):
    """The last training line of a run, in a few words."""
    with open(run.log, 'rb') as log:
        log.seek(run.seen)
        found = PROGRESS.findall(log.read().decode(errors='replace'))
    if not found:
        return 'starting'
    step, eta, loss = found[-1]
    return f'step {step}, loss {loss}, {eta.strip()} left'


def finish(run, console):
    """Say that a run is done, or raise with the end of its log."""
    seconds, status = time.time() - run.started, run.process.returncode
    is_good = status == 0 and run.is_done
    lines = run.log.read_text(errors='replace').splitlines()[-12:]
    with open(run.log, 'ab') as log:
        write_entry(log, 'done' if is_good else
                    f'failed (exit {status}{"" if run.is_done else f", no {run.product.name}"})')
    if is_good:
        console.print(f'[green]done[/]  {run.id} in {seconds:.0f} s')
        return
    raise RuntimeError(
        f'{run.id} failed (exit {status}, {run.product} '
        f'{"exists" if run.is_done else "is missing"}). It ran: {shlex.join(run.command)}\n'
        + '\n'.join(lines))
