"""The paper's Tables 1-7 with our results beside the printed numbers.

``build_tables`` places the results, `cells` decides which of them may fill a cell of the paper,
`comparison` which may be compared, and `render` writes the tables. A cell without a result is empty
and names the command that fills it.
"""

import re
import shlex
from collections import defaultdict
from pathlib import Path

import pandas as pd

from semmae.results import protocol

from .cells import obstacles, stands_apart
from .comparison import (
    mean,
    mixed_versions,
    protocol_marks,
    to_the_best,
    training_marks,
    training_name,
)
from .dense import dense_tables, is_dense
from .lines import Numbered, failures, lines_of, not_averaged, ours
from .names import DENSE, TITLES
from .page import OURS
from .provenance import origins

OTHER = 'other'  # key of the table of results outside the paper's cells
OTHER_TITLE = 'Other results (no cell of the paper)'
OWN = re.compile(r'((sem)?mae|simmim)_p\d')  # recipes of mm_configs; others need a checkpoint
TASKS = dict(linprobe='Linear probing', finetune='Fine-tuning', inat19='Fine-tuning',
             cub='Fine-tuning', cars='Fine-tuning', ade20k='UPerNet', knn='k-NN',
             linseg='Linear segmentation', segmenter='Segmenter', camvid='UPerNet',
             upernet_plain='UPerNet on a plain ViT')
COLUMNS = ['method', 'setting', 'paper', 'ours', 'difference', 'to the best', 'note', 'to fill']
OWN_COLUMNS = ['method', 'setting', 'ours', 'to the best', 'note']  # no paper column
REMARKS = {5: 'The paper prints no patch sizes here: 8x8 for SemMAE follows from its Section 4.2, '
              '16x16 for the other rows from their own papers.'}


def load_numbers() -> pd.DataFrame:
    """The paper's numbers with the columns of paper_numbers.csv, in table order.

    ``table`` and ``order`` are int, all other columns texts.
    """
    numbers = read_numbers('paper_numbers.csv')
    return numbers.astype({'table': int, 'order': int}).sort_values(['table', 'order'])


def read_numbers(name) -> pd.DataFrame:
    """The CSV file ``name`` of this folder, as texts."""
    return pd.read_csv(Path(__file__).with_name(name), dtype=str, keep_default_na=False)


def build_tables(records, tables=tuple(TITLES)) -> dict:
    """{table number: DataFrame with ``COLUMNS``}; more tables follow if all are asked for.

    records: as ``read_results`` returns them. A line holds the results that may be averaged. A
    result fills each cell of its row that it fits (`cells.obstacles`); otherwise it has a line
    below the cell, named by its difference. A row that the paper lacks follows the cells of the
    first of its ``tables``, or is in the table ``OTHER``. Reduced results and those of other data
    sets have a table for each task and data set, without numbers of the paper. Results whose
    ``tables`` has 'dense' are in the dense tables only (`dense_tables`), which are the last ones
    if 'dense' is among ``tables``, or if all are asked for and there are such results. Part
    quality has tables of its own (`part_tables`).
    ``frame.attrs`` holds title, legend (texts), bold (positions of significant bests), links
    (`protocol.anchor` of each line with a result, or '') and conflicts (a text for each difference
    in measurement).
    """
    numbers = load_numbers()
    if not set(tables) <= {*TITLES, DENSE}:
        raise ValueError(f'got tables {list(tables)}, expected some of {[*TITLES, DENSE]}')
    is_all = set(TITLES) <= set(tables)
    dense = [record for record in records if is_dense(record)]
    by_row: dict[str, list] = defaultdict(list)
    apart: dict[tuple, list] = defaultdict(list)
    for record in records:
        if not record['task'].startswith('parts') and not is_dense(record):
            (apart[record['task'], record['dataset']] if stands_apart(record)
             else by_row[record['row']]).append(record)
    lines: dict[int | str, list] = {OTHER: []} if is_all else {}
    for table in set(tables) - {DENSE}:
        cells = numbers[numbers['table'] == table].sort_values('order').to_dict('records')
        lines[table] = [line for cell in cells
                        for line in _cell_lines(by_row.get(cell['row'], []), cell)]
    for row in sorted(set(by_row) - set(numbers['row'])):
        home = min((t for record in by_row[row] for t in record.get('tables') or () if t in TITLES),
                   default=OTHER)
        if home in lines:
            method = min(record['method'] for record in by_row[row])
            lines[home] += lines_of(by_row[row], None, method, f'{row} (not in the paper)')
    frames = {table: _frame(lines[table], TITLES.get(table, OTHER_TITLE),
                            [REMARKS[table]] if table in REMARKS else [])
              for table in sorted(lines, key=lambda t: (t == OTHER, t))
              if lines[table] or table != OTHER}
    frames |= _tables_apart(apart, numbers) if is_all else {}
    return frames | dense_tables(dense) if DENSE in tables or is_all and dense else frames


def _tables_apart(apart, numbers):
    """{name: DataFrame} of results that cannot be compared with the paper's numbers."""
    order, frames = list(dict.fromkeys(numbers['row'])), {}
    for (task, dataset), records in sorted(apart.items()):
        by_row = defaultdict(list)
        for record in records:
            by_row[record['row']].append(record)
        rows = sorted(by_row, key=lambda r: (order.index(r) if r in order else len(order), r))
        lines = [line for row in rows for line in _named_lines(by_row[row])]
        # Comparable lines are adjacent.
        groups = [_conditions(line) for line in lines]
        lines = [line for _, line in sorted(
            zip(groups, lines), key=lambda pair: groups.index(pair[0]))]
        frame = _frame(lines, f'{TASKS.get(task, task)} on {dataset} (not comparable with the '
                              "paper's tables)")
        attrs = frame.attrs
        frame = frame[OWN_COLUMNS]
        frame.attrs = attrs
        name = re.sub(r'[^a-z0-9]+', '-', f'{task}-{dataset}'.lower()).strip('-')
        while name in frames:
            name += '-'
        frames[name] = frame
    return frames


def _conditions(line):
    return protocol.conditions((line['records'] or line['failed'])[0])


def _named_lines(records):
    """The lines of a row; the method names the pre-training where a row has several."""
    lines = lines_of(records, None, '', records[0]['row'])
    for line in lines:
        some = line['records'] or line['failed']
        told = training_name(some[0], [other['records'][0] for other in lines if other['records']])
        line['method'] = min(r['method'] for r in some) + (f' ({told})' if told else '')
    return lines


def _cell_lines(records, cell):
    """The lines of a cell: the cell with its result or empty, then the results that do not fit."""
    why = {id(record): obstacles(record, cell) for record in records}
    filling = [record for record in records if not why[id(record)]]
    lines = lines_of(filling, cell, cell['group'], _setting(cell))
    outside = defaultdict(list)
    for record in records:
        if why[id(record)]:
            outside[tuple(why[id(record)])].append(record)
    for texts in sorted(outside):
        shown = ', '.join(texts[:2]) + (f', {len(texts) - 2} more' if len(texts) > 2 else '')
        method = min(record['method'] for record in outside[texts])
        more = lines_of(outside[texts], None, f'{method} ({shown})',
                        f"{cell['row']}, not the cell")
        for line in more:
            line['outside'] = texts
        lines += more
    return lines


def measured(frames) -> dict:
    """The lines with a result of ours or a failed run; tables without such lines are left out."""
    kept = {}
    for table, frame in frames.items():
        if OURS not in frame:  # each line of a dense table has results
            if len(frame):
                kept[table] = frame.copy()
                kept[table].attrs = {**frame.attrs, 'commands': []}
            continue
        rows = [i for i, (ours, note) in enumerate(zip(frame['ours'], frame['note']))
                if ours or 'not averaged' in note]
        if rows:
            kept[table] = frame.iloc[rows].drop(columns='to fill', errors='ignore').reset_index(
                drop=True)
            notes = '; '.join(kept[table]['note']).split('; ')
            kept[table].attrs = dict(
                frame.attrs, bold=[rows.index(i) for i in frame.attrs['bold'] if i in rows],
                links=[frame.attrs['links'][i] for i in rows],
                legend=[text for text in frame.attrs['legend']
                        if not text.startswith('erratum') or text.split(':')[0] in notes])
    return kept


def conflicts(frames) -> list:
    """A text for each difference in measurement within one table; empty if there is none."""
    return [f"{frame.attrs['title']}: {text}" for frame in frames.values()
            for text in frame.attrs.get('conflicts', [])]


def _setting(cell):
    patches = f"{cell['patch_size']}x{cell['patch_size']} patches" if cell['patch_size'] else ''
    epochs = f"{cell['epochs']} epochs" if cell['epochs'] else ''
    data = f"pre-trained on {cell['pretrain_data']}" if cell.get('pretrain_data') else ''
    return ', '.join(part for part in (
        cell.get('section'), cell['column'], patches, data, epochs) if part)


def _frame(lines, title, remarks=()):
    marks, legend, conflicts = protocol_marks(lines)
    trained, *more = training_marks(lines)
    legend, conflicts = legend + more[0], conflicts + more[1]
    leads, bold = to_the_best(lines)
    numbered = Numbered('reduced', 'longer', 'outside', 'erratum')
    rows = []

    for line, mark, training, to_best in zip(lines, marks, trained, leads):
        cell, records, note = line['cell'], line['records'], numbered.size(line['records'])
        if len(line.get('outside', ())) > 2:
            note.append(numbered.mark('outside', ', '.join(line['outside'])))
        note += [f'protocol {mark}'] if mark else []
        note += [f'pre-training {training}'] if training else []
        note += _how_it_came_about(records) if records else []
        if cell and cell['erratum']:
            note.append(numbered.mark('erratum', cell['erratum']))
        note += failures(line['failed'])
        command = _command(cell) if cell and cell['row'] and not records else ''
        if cell and cell.get('recipe') and not records:
            note.append(cell['recipe'])
        rows.append([line['method'], line['setting'], cell['value'] if cell else '', ours(records),
                     _difference(records, cell), to_best, '; '.join(note), command])
    legend += [*numbered.legend(), *remarks, *not_averaged(lines)]
    frame = pd.DataFrame(rows, columns=COLUMNS, dtype=object)
    links = [protocol.anchor(line['records'][0]) if line['records'] else '' for line in lines]
    frame.attrs = dict(title=title, legend=legend, bold=bold, links=links, conflicts=conflicts)
    return frame


def _how_it_came_about(records):
    """Notes on the choice of a number, on the averaged runs and on their code."""
    chosen = records[0]['protocol'].get('selection')
    note = [str(chosen)] if chosen else []
    return note + mixed_versions(records) + origins(records)


def _command(cell):
    """The command that fills a cell, or ''; recipes of other papers need a checkpoint file."""
    if cell.get('recipe'):
        return ''
    row = cell['row']
    is_own = OWN.match(row.split('/')[-1]) or cell.get('kind') == 'from scratch'
    weights = '' if is_own else ' --checkpoint FILE'
    return f'python tools/run_suite.py paper --only {shlex.quote(row)}{weights}'


def _difference(records, cell):
    if not records or not cell:
        return ''
    return f"{mean(records) - float(cell['value']):+.2f}"
