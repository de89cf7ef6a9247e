"""The dense table: backbones as rows, (task, data set, metric) as columns.

It compares backbones on classification, segmentation and depth. A result stands in it, and in no
other table, if its ``tables`` has 'dense'.
"""
import shlex
from collections import defaultdict
from typing import Any, NamedTuple

import pandas as pd

from semmae.results import protocol
from semmae.results.statistics import METRICS

from .comparison import mixed_versions, protocol_marks, to_the_best, training_marks
from .lines import Numbered, failures, lines_of, not_averaged, ours
from .names import DENSE
from .page import visible
from .provenance import origins
from .render import BOLD, INTERVALS

TITLE = 'Dense table. Backbones on classification, segmentation and depth'
BACKBONE = 'backbone'  # the first column
WIDTH = .14  # of a column in LaTeX, as a share of the line
TASKS = {
    'knn': 'k-NN', 'linear': 'linear', 'attentive': 'attentive probe',
    'logistic': 'logistic regression', 'linear_1pct': 'linear, 1 % of the training images',
    'linear_10pct': 'linear, 10 % of the training images',
    'logistic_1pct': 'logistic regression, 1 % of the training images',
    'logistic_10pct': 'logistic regression, 10 % of the training images',
    'seg_linear': 'linear segmentation', 'seg_logistic': 'logistic segmentation',
    'seg_knn': 'k-NN segmentation', 'seg_hummingbird': 'Hummingbird segmentation',
    'seg_upernet': 'UPerNet segmentation', 'depth_linear': 'linear depth'}
GROUPS = ('seg_', 'depth_')  # beginnings of tasks; classification has none and comes first
LEGEND = (
    'Cells: mean ± sample standard deviation (n runs); one run has no spread. Different protocols '
    'or pre-trainings are never averaged; they have rows of their own.',
    f'bold: the best of its column and protocol, {BOLD}')
OF_DIFFERENCES = (
    'Cells: the backbone minus the best backbone of the column under the same protocol, with 95 % '
    f'confidence intervals. {INTERVALS}')


class Column(NamedTuple):
    """What a column measures; the order of the fields is that of the columns."""

    group: int
    place: int
    task: str
    dataset: str
    metric: str
    unit: str

    @property
    def header(self):
        """'k-NN, CUB-25' or 'linear segmentation, CamVid (mIoU)'."""
        name, in_percent = METRICS.get(self.metric, self.metric), self.unit == '%'
        shown = '' if name == 'top1' and in_percent else (
            f' ({name})' if in_percent or not self.unit else f' ({name} in {self.unit})')
        return f'{TASKS.get(self.task, self.task)}, {self.dataset}{shown}'


class Row(NamedTuple):
    """A row: its backbone, a line for each column, the columns to fill, and its results."""

    label: str
    lines: dict[Column, dict[str, Any]]
    to_fill: list[Column]
    records: list[dict[str, Any]]


def is_dense(record):
    """Whether a result belongs in the dense table."""
    return DENSE in (record.get('tables') or ())


def dense_tables(records) -> dict:
    """{'dense': DataFrame, 'dense-differences': DataFrame of differences to the best of a column}.

    The second is left out if no column has two comparable backbones. Cells are texts; a cell
    without a result is empty. ``frame.attrs`` is as in `tables.build_tables`, except: bold is a
    list of (position, column), links has {column: anchor} for each row, commands has (what it
    measures, command) for the empty cells, and measures the (data set, metric, unit) of columns.
    """
    columns = sorted({_column(record) for record in records})
    names = _names(columns)
    rows = _rows(records, columns)
    numbered = Numbered('reduced', 'longer')
    cells: list[dict[str, str]] = [{BACKBONE: row.label} for row in rows]
    differences: list[dict[str, str]] = [{BACKBONE: row.label} for row in rows]
    links: list[dict[str, str]] = [{} for _ in rows]
    legend, conflicts, bold = [], [], []
    for column, name in names.items():
        lines = [row.lines[column] for row in rows]
        marks, texts, unfair = protocol_marks(lines)
        leads, best = to_the_best(lines)
        legend += [_measured_how(name, lines, marks), *texts]
        conflicts += unfair
        bold += [(position, name) for position in best]
        for position, (line, mark, lead) in enumerate(zip(lines, marks, leads)):
            found = [mark] * bool(mark) + numbered.size(line['records'])
            cells[position][name] = ours(line['records']) + (
                f" [{', '.join(found)}]" if found else '')
            differences[position][name] = lead
            if line['records']:
                links[position][name] = protocol.anchor(line['records'][0])
    trained, texts, unfair = training_marks([
        dict(records=[{**row.records[0], 'row': row.label}]) for row in rows])
    for row, cell, training in zip(rows, cells, trained):
        cell['note'] = '; '.join(_notes(row, training))
    legend = [*LEGEND, *_lower(names), *legend, *texts, *numbered.legend(),
              *not_averaged([line for row in rows for line in row.lines.values()])]
    notes = ['note'] if any(cell['note'] for cell in cells) else []
    frame = pd.DataFrame(cells, dtype=object, columns=[BACKBONE, *names.values(), *notes])
    frame.attrs = dict(
        title=TITLE, width=WIDTH, legend=list(dict.fromkeys(legend)), bold=bold,
        links=links, conflicts=list(dict.fromkeys([*conflicts, *unfair])),
        commands=_commands(rows, trained, records),
        measures={(column.dataset, column.metric, column.unit) for column in columns})
    return {DENSE: frame} | _differences(differences, names)


def _differences(rows, names):
    """{'dense-differences': DataFrame} of the columns with a difference, or {}."""
    shown = {column: name for column, name in names.items() if any(row[name] for row in rows)}
    if not shown:
        return {}
    frame = pd.DataFrame(rows, dtype=object)[[BACKBONE, *shown.values()]]
    frame.attrs = dict(title='Dense table: differences to the best of each column',
                       width=WIDTH, legend=[OF_DIFFERENCES, *_lower(shown)], bold=[])
    return {f'{DENSE}-differences': frame}


def _column(record):
    task = record['task']
    group = next((k for k, start in enumerate(GROUPS, 1) if task.startswith(start)), 0)
    return Column(group, [*TASKS, task].index(task), task, record['dataset'],
                  protocol.metric_name(record['metric']),
                  '%' if protocol.is_percent(record) else record['unit'])


def _names(columns):
    """{column: its header}; all differ."""
    names: dict[Column, str] = {}
    for column in columns:
        name = visible(column.header)
        while name in names.values():
            name += ' (another)'
        names[column] = name
    return names


def _rows(records, columns):
    """The rows: one for each backbone and pre-training, more where results differ in protocol."""
    backbones: dict[tuple, dict[Column, list]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        training = protocol.may_be_averaged(record)[1]
        key = record['recipe'], record.get('kind') == 'untrained', training
        backbones[key][_column(record)].append(record)
    methods = {key: min(record['method'] for found in by_column.values() for record in found)
               for key, by_column in backbones.items()}
    rows = []
    for key in sorted(backbones, key=lambda key: (methods[key], key)):
        by_column, (recipe, is_untrained, _) = backbones[key], key
        others = {other[0] for other, method in methods.items() if method == methods[key]}
        label = methods[key] + (f' [{recipe}]' if len(others) > 1 else '')
        label += ', untrained' if is_untrained and 'untrained' not in label else ''
        lines = {column: lines_of(by_column.get(column, []), None, label, '')
                 for column in columns}
        nothing = lines_of([], None, label, '')[0]
        for k in range(max(map(len, lines.values()))):
            own = {column: found[k] if k < len(found) else nothing
                   for column, found in lines.items()}
            to_fill = [] if k else [column for column in columns if not own[column]['records']]
            of_row = [r for line in own.values() for r in (*line['records'], *line['failed'])]
            rows.append(Row(label, own, to_fill, of_row))
    return rows


def _measured_how(name, lines, marks):
    """'k-NN, CUB-25: test split, protocol a 0123456789ab, best of 52 settings.' of a column."""
    texts = []
    for line, mark in zip(lines, marks):
        for record in line['records'][:1]:
            selection = record['protocol'].get('selection')
            tried = (record.get('chosen') or {}).get('tried')
            selection = f'{selection}, {tried} tried' if selection and tried else selection
            texts.append(f"{record['split']} split, protocol {f'{mark} ' if mark else ''}"
                         f"{record['fingerprint']}{f', {selection}' if selection else ''}")
    return f"{name}: {'; '.join(dict.fromkeys(texts)) or 'no result'}."


def _notes(row, training):
    """The texts of the last column."""
    versions = [text for line in row.lines.values() for text in mixed_versions(line['records'])]
    failed = [record for line in row.lines.values() for record in line['failed']]
    return [*([f'pre-training {training}'] if training else []), *dict.fromkeys(versions),
            *origins([record for record in row.records if record['status'] == 'ok']),
            *failures(failed)]


def _lower(names):
    """A text that names the columns in which lower is better, in a list."""
    lower = [name for column, name in names.items() if protocol.direction(column.metric) < 0]
    return [f"Lower is better: {'; '.join(lower)}."] if lower else []


def _start(record):
    """The row of the dense suite that gives a result: 'cub/knn', or 'upernet_ade20k'.

    For a config that the suite does not have, its path.
    """
    folder, _, name = record['config'].rpartition('/dense_')
    if folder != 'mm_configs/dense':
        return record['config']
    name = name.removesuffix('.py')
    return name if name.startswith('upernet') else f"{name}/{record['task']}"


def _commands(rows, trained, records):
    """[(what it measures, command)] for each row with empty cells; one for a table without rows."""
    starts = {_column(record): _start(record)
              for record in sorted(records, key=lambda record: record['row'], reverse=True)
              if not record['config'].endswith('/config.py')}  # a run that has not finished
    found = []
    for row, training in zip(rows, trained):
        name = protocol.identity(row.records[0]).get('model.backbone.model_name')
        is_untrained = 'untrained' in row.label
        weights = ' '.join([f'--timm {shlex.quote(str(name))}'] * bool(name) + [
            '--untrained' if is_untrained else '--checkpoint FILE'])
        wanted = dict.fromkeys(starts[column] for column in row.to_fill if column in starts)
        mark = f' ({training})' if training else ''
        only = [shlex.quote(name) for name in wanted if not name.endswith('.py')]
        commands = [f"python tools/run_suite.py dense {weights} --only {' '.join(only)}"] * bool(
            only) + [f'python tools/train.py {shlex.quote(name)}' for name in wanted
                     if name.endswith('.py')]
        found += [(f'the empty cells of {row.label}{mark}', command) for command in commands]
    return found if rows else [('it', 'python tools/run_suite.py dense --checkpoint FILE')]
