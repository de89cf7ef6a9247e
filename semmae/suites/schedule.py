"""The plan of a suite: its rows with everything filled in, in an order in which they can run."""
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..config.length import length_of
from ..config.lookup import full_size, kind, numbered
from ..config.options import config_of
from .commands import command_of, resources_of
from .rows import Extract, Row, Suite, Train
from .tasks import tasks_on


@dataclass(frozen=True)
class Run:
    """A row with everything filled in, and its command.

    needs: the products that it reads. processes, steps: of a training, and how many steps each
    accumulates. batch: the factors of its global batch, in words. length: its epochs or
    iterations, 0 if not known. resources: Snakemake's. is_remote: under Slurm.
    """
    row: Row
    command: list[str]
    work_dir: Path
    product: Path
    needs: list[Path]
    processes: int = 1
    steps: int = 1
    batch: str = ''
    length: int = 0
    is_remote: bool = False
    resources: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.row.id

    @property
    def is_done(self) -> bool:
        return self.product.exists()

    @property
    def log(self) -> Path:
        return self.work_dir / 'console.log'


def plan(suite: Suite, work_dir, only=None, checkpoint=None, seeds=(0,), gpus=0, launcher=None,
         offset=None) -> list[Run]:
    """The runs of a suite, each after the runs that it needs.

    only: ids of rows; these and what they need are planned; None: all rows.
    checkpoint: plans the suite's tasks on this file instead of its own pre-trainings.
    offset: how the positions of the file are resized (`tasks.tasks_on`).
    gpus: the most GPUs, or processes, for a training. Runs of a mini suite get one process.
    launcher: `commands.command_of`. Raises ValueError for rows that the suite does not have, for
    no rows or seeds, and for paths with spaces or commas.
    """
    if any(c in f'{work_dir}{suite.images}' for c in ' ,'):
        raise ValueError(f'{work_dir}, {suite.images}: overrides of a config cannot carry spaces '
                         'and commas; choose other paths (--work-dir), or link to them')
    rows = {row.id: row for row in suite.rows}
    for name in only or ():
        suite.require_available(name, bool(checkpoint))
    if checkpoint:
        found = {row.id: row for row in tasks_on(suite, checkpoint, only or (), offset)}
        rows = {name: row for name, row in rows.items() if name not in found} | found
        only = list(found)
    only = [name for name in rows if name not in suite.optional] if only is None else only
    if not only or not seeds:
        raise ValueError(f'nothing to run: got rows {list(only)} and seeds {list(seeds)}, expected '
                         'at least one of each')
    for name in only:
        if name not in rows:
            hint = ('it evaluates weights from elsewhere: give them with --checkpoint FILE'
                    if name.split('/')[-1] in suite.foreign else f'it has: {", ".join(rows)}')
            raise ValueError(f"the suite has no row '{name}'; {hint}")
    runs: dict[Path, Run] = {}
    for seed in seeds:
        for name in wanted(rows, only):
            run = run_of(rows, rows[name], Path(work_dir), seed, suite,
                         0 if suite.is_mini else gpus, launcher)
            runs.setdefault(run.product, run)
    return list(runs.values())


def wanted(rows: dict[str, Row], names) -> list[str]:
    """``names`` and everything that they need, in the order of the suite."""
    found, pending = set(), list(names)
    while pending:
        if (name := pending.pop()) not in found:
            found.add(name)
            pending += rows[name].needs
    return [name for name in rows if name in found]


def run_of(rows, row: Row, root: Path, seed, suite: Suite, gpus, launcher) -> Run:
    """The `Run` of a row with a seed below the folder ``root``."""
    def home(r: Row) -> Path:
        return root / f'seed{seed}' / (r.home or r.id)

    def product(r: Row) -> Path:
        return Path(r.product) if r.is_shared else home(r) / r.product

    paths = {name: product(rows[name]) for name in wanted(rows, [row.id])}
    # Commands name a part store by the folder of its manifest.
    named = {name: str(path.parent if path.name == 'manifest.json' else path)
             for name, path in paths.items()}
    row = row.filled(named | dict(images=str(suite.images), work_dir=str(home(row)),
                                  seed_dir=str(root / f'seed{seed}')))
    processes, steps, batch, length = 1, 1, '', 0
    if isinstance(row, Extract):
        row = replace(row, amp=suite.amp)
    if isinstance(row, Train):
        cfg = config_of(row.config)
        wrapper = cfg.optim_wrapper
        compiled = {'compile': True} if suite.compile and wrapper.optimizer.lr else {}
        row = replace(row, amp=suite.amp and 'Amp' in kind(wrapper),
                      options={numbered(cfg, k): v for k, v in row.options.items()} | compiled)
        each = row.options.get('train_dataloader.batch_size', cfg.train_dataloader.batch_size)
        whole = full_size(cfg).get('batch_size')
        if gpus or keeps_batch(row.config):
            processes, steps = share(each, whole, max(gpus, 1))
        batch = batch_in_words(each, whole, processes, steps)
        key, own = length_of(cfg)
        length = row.options.get(key, own) or 0
    return Run(row, command_of(row, home(row), seed, processes, steps, launcher), home(row),
               paths[row.id], [paths[name] for name in row.needs], processes, steps, batch,
               length, launcher == 'slurm', resources_of(processes, launcher))


def keeps_batch(config) -> bool:
    """Whether a pre-training is refused at another global batch than its recipe's."""
    recipe = config_of(config).get('recipe')
    return bool(recipe) and not recipe.get('own_batch')


def share(each, whole, gpus) -> tuple[int, int]:
    """(processes, accumulated steps) for a training on at most ``gpus``.

    each: images of one process. whole: the recipe's global batch, or None.
    """
    batches = max(1, (whole or each * gpus) // each)
    processes = max(n for n in range(1, gpus + 1) if batches % n == 0)
    return processes, batches // processes


def batch_in_words(each, whole, processes, steps) -> str:
    """The factors of a training's global batch, and whether it is the recipe's, in words."""
    found = each * processes * steps
    text = f'global batch {found} = {each} x {processes} process{"es" if processes > 1 else ""}'
    if steps > 1:
        text += f' x {steps} accumulated steps'
    if whole and found != whole:
        text += f', but the recipe has {whole}: results will be marked as reduced'
    return text
