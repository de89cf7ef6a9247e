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
    is_alone: bool = False
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
    if any(c in str(work_dir) for c in ' ,') or any(c in str(images or '') for c in ' ,'):
        raise ValueError(f'{work_dir}, {images}: overrides of a config cannot carry spaces and '
                         'commas; choose other paths (--work-dir), or link to them')
    rows = {row.id: row for row in suite.rows}
    if checkpoint:
        found = tasks_on(suite, checkpoint, only)
        rows |= {row.id: row for row in found}
        only = [row.id for row in found]
    for name in only:
        if name not in rows:
            hint = ('it evaluates weights from elsewhere: give them with --checkpoint FILE'
                    if name.split('/')[-1] in suite.foreign else f'it has: {", ".join(rows)}')
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


def tasks_on(suite, checkpoint, only=()):
    """Rows for the tasks of the suite on one checkpoint, by its patch size, width and depth.

    only: row ids ``task/recipe``; the recipe names weights that do not name themselves.
    """
    from ..files import sha256
    from .checkpoint import anatomy, backbone_state, read_checkpoint
    content = read_checkpoint(checkpoint)
    state = backbone_state(content)
    weight = state.get('patch_embed.projection.weight')
    if weight is None:
        raise ValueError(f'{checkpoint} holds no ViT: patch_embed.projection.weight is missing')
    patch = weight.shape[-1]
    meta = content.get('meta')
    own = (meta.get('semmae') if isinstance(meta, dict) else None) or {}
    name = own.get('id') or Path(checkpoint).stem
    if only and own and any(n.split('/')[-1] != name for n in only):
        raise ValueError(f"{checkpoint} says that it is '{name}', --only asks for {list(only)}")
    wanted = [n.split('/', 1) for n in only] or [
        (task, name) for task, configs in suite.tasks.items() if patch in configs]
    row, found = type(suite.rows[0]), []
    for task, recipe in wanted:
        configs = suite.tasks.get(task)
        if not configs:
            raise ValueError(f"the suite has no task '{task}'; it has {', '.join(suite.tasks)}")
        # A config for the patch size, or that of 16x16 with the file's.
        near = patch if patch in configs else max(configs)
        options = {'model.backbone.init_cfg.checkpoint': str(checkpoint)}
        options |= {} if own else {'result.recipe': recipe, 'result.method': recipe}
        options |= {} if near == patch else {'model.backbone.patch_size': str(patch)}
        options |= sizes_of(configs[near], anatomy(state))
        found.append(suite.complete(row(f'{task}/{recipe}', 'results.jsonl', configs[near], options,
                                        home=f'{task}/{recipe}-{sha256(checkpoint)[:8]}')))
    return found


# {(width, depth): (arch of mmpretrain's ViT, the layers that UPerNet looks at (MAE, A.4))}.
ARCHS = {(192, 12): ('deit-tiny', None), (384, 12): ('deit-small', None),
         (1024, 24): ('large', (7, 11, 15, 23)), (1280, 32): ('huge', (7, 15, 23, 31))}
WIDTHS = ('model.neck.input_features', 'model.neck.embed_dim', 'model.head.in_channels',
          'model.decode_head.in_channels', 'model.auxiliary_head.in_channels')


def sizes_of(config, found):
    """Overrides that give a ViT-B config the arch of a checkpoint, {} for ViT-B and unknown ones.

    found: `checkpoint.anatomy`. Heads are not in a file: 64 (huge: 80) wide, as in DeiT and MAE.
    """
    from mmengine.config import Config
    arch, layers = ARCHS.get((found['width'], found['depth']), (None, None))
    if arch is None:
        return {}
    cfg = Config.fromfile(config)
    sizes = {'model.backbone.arch': arch}
    if layers and cfg.model.backbone.get('out_indices'):
        sizes['model.backbone.out_indices'] = str(list(layers)).replace(' ', '')
    for key in WIDTHS:
        node = cfg
        for part in key.split('.'):
            node = (node or {}).get(part)
        if node is not None:
            width = found['width']
            sizes[key] = (str([width] * len(node)).replace(' ', '')
                          if isinstance(node, (list, tuple)) else str(width))
    return sizes


def fill(rows, row, root, seed, images, gpus):
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

    if row.config:
        options = [f'{k}={expand(v)}' for k, v in row.options.items()]
        processes, steps = share(row.config, gpus) if gpus else (1, 1)
        start = (['bash', 'tools/dist_train.sh', row.config, str(processes)] if processes > 1
                 else [sys.executable, 'tools/train.py', row.config])
        command = [*start, '--work-dir', str(home(row)), '--seed', str(seed), '--resume',
                   *(['--keep-batch'] if steps > 1 else []),
                   *(['--cfg-options', *options] if options else [])]
    else:
        command = [sys.executable, *map(expand, row.command)]
    return Run(row.id, command, home(row), product(row),
               [product(rows[n]) for n in row.needs], row.is_alone)


def share(config, gpus):
    """(processes, accumulated steps) that give the recipe's global batch on at most ``gpus``."""
    from mmengine.config import Config
    cfg = Config.fromfile(config)
    each = cfg.train_dataloader.batch_size
    stated = cfg.get('recipe') or cfg.get('result') or {}
    batches = stated.get('full', {}).get('batch_size', each * gpus) // each
    processes = max(n for n in range(1, gpus + 1) if batches % n == 0)
    return processes, batches // processes


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
            first = next((r for r in ready if r.is_alone), None)
            if first:  # wait for the running ones, then run nothing beside it
                ready = [] if running else [first]
            if any(r.is_alone for r in running):
                ready = []
            for run in ready[:jobs - len(running)]:
                waiting.remove(run)
                launch(run, max(1, threads // min(jobs, len(running) + len(ready))))
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
