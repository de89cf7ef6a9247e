"""The paper's Tables 1-7 with our results beside the printed numbers.

``build_tables`` decides what stands where, `comparison` what may be compared, and `render` writes
it down. A cell that was not measured stays empty and names the command that fills it.
"""

import json
import re
import shlex
import statistics
from collections import Counter, defaultdict
from pathlib import Path

import pandas as pd

from semmae.evaluation import protocol

from .comparison import mixed_versions, pretrainings, protocol_marks, to_the_best

TITLES = {
    1: 'Table 1. Integrating semantic information into MAE: linear probing on ImageNet-1k',
    2: 'Table 2. Patch size of different models: fine-tuning on ImageNet-1k',
    3: 'Table 3. Masking strategies: linear probing on ImageNet-1k, 8x8 patches',
    4: 'Table 4. Semantic parts used for masking: linear probing on ImageNet-1k',
    5: 'Table 5. System-level comparison on ImageNet-1k, ViT-Base',
    6: 'Table 6. Fine-tuning on fine-grained datasets',
    7: 'Table 7. Semantic segmentation on ADE20K, 160k iterations',
}
OTHER = 'other'  # key of the table of results that are no cell of the paper
OTHER_TITLE = 'Other results (no cell of the paper)'
OWN = re.compile(r'((sem)?mae|simmim)_p\d')  # recipes of mm_configs; the others come as checkpoints
DATASETS = dict(linprobe='ImageNet-1k', finetune='ImageNet-1k', inat19='iNaturalist 2019',
                cub='CUB-200-2011', cars='Stanford Cars', ade20k='ADE20K')
COLUMNS = ['method', 'setting', 'paper', 'ours', 'difference', 'to the best', 'note', 'to fill']
REMARKS = {5: 'The paper prints no patch sizes here: 8x8 for SemMAE follows from its Section 4.2, '
              '16x16 for the other rows from their own papers.'}


def load_numbers(path=None) -> pd.DataFrame:
    """The paper's numbers, every column as printed text except the integers table and order."""
    path = Path(path or Path(__file__).parents[2] / 'benchmarks' / 'paper_numbers.csv')
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: the paper's numbers are part of the repository, not of the "
            'package. Install with `pip install -e .` from a checkout.')
    numbers = pd.read_csv(path, dtype=str, keep_default_na=False)
    return numbers.astype({'table': int, 'order': int}).sort_values(['table', 'order'])


def build_tables(records, numbers=None, tables=tuple(TITLES)) -> dict:
    """{table number: DataFrame with ``COLUMNS``}; ``OTHER`` last, if all tables are asked for.

    records: as ``read_results`` returns them. A record stands in every table that has its row; one
    that the paper does not have stands below the cells of the first of its ``tables``, or under
    ``OTHER``. One cell is one line, or several where its results must not be averaged. Part quality
    has tables of its own (`part_tables`).
    ``frame.attrs`` holds title, legend (texts), bold (positions of bests beyond doubt), links
    (`protocol.anchor` of each line with a result, or '') and conflicts (texts: what should not
    stand in one table).
    """
    numbers = load_numbers() if numbers is None else numbers
    if not set(tables) <= set(TITLES):
        raise ValueError(f'tables {list(tables)}; expected some of {list(TITLES)}')
    by_row = defaultdict(list)
    for record in records:
        if not record['task'].startswith('parts'):
            by_row[record['row']].append(record)
    lines = {OTHER: []} if set(tables) == set(TITLES) else {}
    for table in set(tables):
        cells = numbers[numbers['table'] == table].sort_values('order').to_dict('records')
        lines[table] = [line for cell in cells for line in
                        _lines(by_row.get(cell['row'], []), cell, cell['group'], _setting(cell))]
    for row in sorted(set(by_row) - set(numbers['row'])):
        home = min((t for record in by_row[row] for t in record.get('tables') or () if t in TITLES),
                   default=OTHER)
        if home in lines:
            method = min(record['method'] for record in by_row[row])
            lines[home] += _lines(by_row[row], None, method, f'{row} (not in the paper)')
    return {table: _frame(lines[table], TITLES.get(table, OTHER_TITLE),
                          [REMARKS[table]] if table in REMARKS else [])
            for table in sorted(lines, key=lambda t: (t == OTHER, t))
            if lines[table] or table != OTHER}


def measured(frames) -> dict:
    """The lines that hold a result of ours, or a run that failed; other tables are left out."""
    kept = {}
    for table, frame in frames.items():
        rows = [i for i, (ours, note) in enumerate(zip(frame['ours'], frame['note']))
                if ours or 'not averaged' in note]
        if rows:
            kept[table] = frame.iloc[rows].drop(columns='to fill').reset_index(drop=True)
            notes = '; '.join(kept[table]['note']).split('; ')
            kept[table].attrs = dict(
                frame.attrs, bold=[rows.index(i) for i in frame.attrs['bold'] if i in rows],
                links=[frame.attrs['links'][i] for i in rows],
                legend=[text for text in frame.attrs['legend']
                        if not text.startswith('erratum') or text.split(':')[0] in notes])
    return kept


def conflicts(frames) -> list:
    """What was measured differently within one table, a text for each; empty if all is fair."""
    return [f"{frame.attrs['title']}: {text}" for frame in frames.values()
            for text in frame.attrs.get('conflicts', [])]


def _setting(cell):
    patches = f"{cell['patch_size']}x{cell['patch_size']} patches" if cell['patch_size'] else ''
    epochs = f"{cell['epochs']} epochs" if cell['epochs'] else ''
    return ', '.join(part for part in (cell['column'], patches, epochs) if part)


def _lines(records, cell, method, setting):
    """The lines of one row: one for each set of results that may be averaged, at least one."""
    def in_reading_order(group):
        return (cell is not None and not protocol.same_quantity(group._asdict(), cell), group)

    groups = defaultdict(list)
    for record in records:
        if record['status'] == 'ok':
            groups[protocol.conditions(record)].append(record)
    lines = [dict(method=method, setting=setting, cell=cell, records=groups[group], failed=[])
             for group in sorted(groups, key=in_reading_order)]
    lines = lines or [dict(method=method, setting=setting, cell=cell, records=[], failed=[])]
    lines[0]['failed'] = sorted(
        (record for record in records if record['status'] != 'ok'),
        key=lambda record: json.dumps({**record, 'source': ''}, sort_keys=True))
    return lines


def _frame(lines, title, remarks):
    marks, legend, conflicts = protocol_marks(lines)
    leads, bold = to_the_best(lines)
    errata, reductions, rows = {}, {}, []
    measured = {(record['task'], record['dataset']) for line in lines for record in line['records']}
    datasets = Counter(task for task, _ in measured)
    for line, mark, to_best in zip(lines, marks, leads):
        cell, records, note = line['cell'], line['records'], []
        if records and records[0]['reduced']:
            why = records[0].get('reduced_why') or 'not said in what'
            note.append(f'reduced {reductions.setdefault(why, len(reductions) + 1)}')
        note += _what_was_measured(records[0], cell, datasets) if records else []
        note += [f'protocol {mark}'] if mark else []
        note += _how_it_came_about(records) if records else []
        if cell and cell['erratum']:
            note.append(f"erratum {errata.setdefault(cell['erratum'], len(errata) + 1)}")
        failed = Counter(record['status'] for record in line['failed'])
        note += [f"{times} run{'s' if times > 1 else ''} {status}, not averaged"
                 for status, times in sorted(failed.items())]
        command = _command(cell['row']) if cell and cell['row'] and not records else ''
        rows.append([line['method'], line['setting'], cell['value'] if cell else '', _ours(records),
                     _difference(records, cell), to_best, '; '.join(note), command])
    legend += [f'reduced {number}: {text}.' for text, number in reductions.items()]
    legend += [f'erratum {number}: {text}.' for text, number in errata.items()] + remarks
    legend += [f"Not averaged: {record['row']}, seed {record['seed']}: {_why(record)}, "
               f"{record['metric']}, {record['time']}, checkpoint {record['checkpoint'] or 'none'}."
               for line in lines for record in line['failed']]
    frame = pd.DataFrame(rows, columns=COLUMNS, dtype=object)
    links = [protocol.anchor(line['records'][0]) if line['records'] else '' for line in lines]
    frame.attrs = dict(title=title, legend=legend, bold=bold, links=links, conflicts=conflicts)
    return frame


def _why(record):
    return record['status'] + (f" ({record['why']})" if record.get('why') else '')


def _how_it_came_about(records):
    """What a reader should know of the choice of a number, and of runs that are averaged."""
    chosen = records[0]['protocol'].get('selection')
    note = [str(chosen)] if chosen else []
    return note + mixed_versions(records)


def _command(row):
    """What fills a cell; recipes that are not trained here need their weights."""
    weights = '' if OWN.match(row.split('/')[-1]) else ' --checkpoint FILE'
    return f'python tools/run_suite.py paper --only {shlex.quote(row)}{weights}'


def _what_was_measured(record, cell, datasets):
    """What keeps a result from being read as the paper's cell: dataset, metric, unit."""
    note = []
    if datasets[record['task']] > 1 or record['dataset'] != DATASETS.get(record['task']):
        note.append(f"on {record['dataset']}")
    if cell is None or not protocol.same_quantity(record, cell):
        note.append(f"metric {record['metric']} in {record['unit'] or 'no unit'}")
    return note + (_other_setting(record, cell) if cell else [])


def _other_setting(record, cell):
    """What of the cell's setting a result does not have, as far as its protocol tells."""
    found, note = record['protocol'], []
    side, pretraining = found.get('patch_size'), found.get('pretraining')
    epochs = pretraining.get('epochs') if isinstance(pretraining, dict) else None
    if cell['patch_size'] and side is not None and str(side) != cell['patch_size']:
        note.append(f'{side}x{side} patches')
    if cell['epochs'] and epochs is not None and str(epochs) != cell['epochs'] \
            and not record['reduced']:
        note.append(f'pre-trained for {epochs} epochs')
    if record['split'] not in ('val', 'test'):
        note.append(f"split {record['split']}")
    return note


def _values(records):
    return [float(record['value']) for record in records]


def _ours(records):
    if not records:
        return ''
    shape = '{:.2f}' if protocol.is_percent(records[0]) else '{:.4g}'
    values = _values(records)
    spread = f' ± {shape.format(statistics.stdev(values))}' if len(values) > 1 else ''
    seeds = len({record['seed'] for record in records})
    of_seeds = f', seeds: {seeds}' if seeds < len(records) else ''
    weights = pretrainings(records)
    of_weights = f', pre-trainings: {weights}' if weights < len(records) else ''
    number = f'n={len(values)}{of_seeds}{of_weights}'
    return f'{shape.format(statistics.fmean(values))}{spread} ({number})'


def _difference(records, cell):
    if not records or not cell:
        return ''
    if records[0]['reduced'] or records[0]['dataset'] != DATASETS.get(records[0]['task']) \
            or not protocol.same_quantity(records[0], cell) or _other_setting(records[0], cell):
        return '-'
    return f"{statistics.fmean(_values(records)) - float(cell['value']):+.2f}"
