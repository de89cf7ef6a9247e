"""The rows of a suite as data: the inputs of a run, its product, and its command line.

Texts may hold ``{images}``, ``{work_dir}``, ``{seed_dir}`` (the work directories of a seed) and
``{ID}``, the product of a row that is needed directly or by a needed row. `suites.schedule.plan`
fills them in.
"""
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from typing import Any

INIT = 'model.backbone.init_cfg.checkpoint'


@dataclass(frozen=True)
class Row:
    """One run. A row named ``task/recipe`` fills the table cells of that name.

    product: the file that a finished run leaves, relative to its work directory unless
        ``is_shared``.
    needs: ids of rows that come before. home: the name of the work directory, by default the id.
    is_alone: gets all cores, because many rows need it.
    """
    id: str
    product: str
    _: KW_ONLY
    needs: tuple[str, ...] = ()
    is_shared: bool = False
    home: str = ''
    is_alone: bool = False

    def filled(self, values: dict[str, str]) -> 'Row':
        """A copy with ``values`` in place of their names in braces."""
        def fill(value):
            if isinstance(value, dict):
                return {key: fill(v) for key, v in value.items()}
            if isinstance(value, tuple):
                return tuple(map(fill, value))
            return value.format_map(values) if isinstance(value, str) else value
        return replace(self, **{f.name: fill(getattr(self, f.name)) for f in fields(self)})

    def arguments(self) -> list[str]:
        """The command line after ``python``."""
        raise NotImplementedError


@dataclass(frozen=True)
class Train(Row):
    """A training, and the evaluation that ends it.

    options: overrides of the config. A key may name a step of a list by its type, as
        ``val_dataloader.dataset.pipeline.LoadParts.store``.
    amp: mixed precision also without a GPU.
    """
    config: str
    options: dict[str, Any] = field(default_factory=dict)
    amp: bool = False

    def arguments(self):
        return ['tools/train.py', self.config]


@dataclass(frozen=True)
class Extract(Row):
    """A part store of a folder of images, from a part learner or from label maps."""
    config: str
    images: str
    grid: int
    _: KW_ONLY
    checkpoint: str = ''
    source: str = 'learned'
    labels: str = ''
    out: str = '{work_dir}'
    options: dict[str, Any] = field(default_factory=dict)
    amp: bool = False

    def arguments(self):
        made_from = ['--labels', self.labels] if self.labels else [self.checkpoint]
        source = [] if self.labels else ['--source', self.source]
        return ['tools/extract_parts.py', self.config, *made_from, '--images', self.images,
                '--out', self.out, '--grid', str(self.grid), *source,
                *(['--amp'] if self.amp and not self.labels else []), *overrides(self.options)]


@dataclass(frozen=True)
class ToyData(Row):
    """The toy data sets. counts: dict(num_cub=(training images, test images)); else the default."""
    out: str
    counts: dict[str, tuple[int, int]] = field(default_factory=dict)

    def arguments(self):
        words = ['-m', 'semmae.datasets.toy', '--out', self.out]
        for name, (train, test) in self.counts.items():
            words += [f'--{name.replace("_", "-")}', str(train), str(test)]
        return words


@dataclass(frozen=True)
class Command(Row):
    """Another command, ``words`` after ``python``."""
    words: tuple[str, ...]

    def arguments(self):
        return list(self.words)


def overrides(options: dict[str, Any]) -> list[str]:
    """``--cfg-options KEY=VALUE ...``, or nothing."""
    texts = [f'{key}={str(value).replace(" ", "") if isinstance(value, list) else value}'
             for key, value in options.items()]
    return ['--cfg-options', *texts] if texts else []


@dataclass(frozen=True)
class Suite:
    """rows: everything that can be run, each after the rows that it needs.

    tasks: {task: {patch size: config}} for any checkpoint. complete: adds to a row of these the
        part stores that its config reads.
    foreign: recipes of the tables whose weights are not ours (--checkpoint).
    unavailable: {row id of a table: why no command of ours fills its cell}.
    max_images: of a user's own folder (--data) at most this many are used; 0 is all.
    is_mini: the configs have batches of their own; one process each, without accumulation.
    is_dense: its tasks run on one backbone (`suites.dense`); it has no rows of its own.
    amp: mixed precision also without a GPU, in part stores and trainings whose config has it.
    compile: torch.compile in rows whose config trains with a learning rate above 0.
    optional: rows, or tasks of the dense suite, that run only if they are named or needed.
    """
    rows: tuple[Row, ...]
    tasks: dict[str, dict[int, str]]
    images: str
    foreign: tuple[str, ...] = ()
    unavailable: dict[str, str] = field(default_factory=dict)
    max_images: int = 0
    is_mini: bool = False
    is_dense: bool = False
    optional: tuple[str, ...] = ()
    amp: bool = False
    compile: bool = False
    complete: Callable[[Train], Train] = lambda row: row

    def require_available(self, name: str, has_checkpoint: bool) -> None:
        """Raises ValueError for a row that cannot fill its table cell."""
        if name in self.unavailable:
            raise ValueError(f'{name} cannot be filled: {self.unavailable[name]}. To evaluate a '
                             f'file of it, give it another name: --only {name}_file --checkpoint '
                             'FILE')
        own = next((row for row in self.rows if row.id == name and '/' in name), None)
        if has_checkpoint and isinstance(own, Train) and INIT not in own.options:
            raise ValueError(f'{name} is trained from scratch, got --checkpoint. Leave it out, or '
                             f'give the file another name: --only {name}_file')
