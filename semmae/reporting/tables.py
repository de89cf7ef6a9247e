"""The paper's Tables 1-7 with our results beside the printed numbers, and what may be compared.

``build_tables`` decides what stands where; ``render`` and ``print_tables`` only write it down. A
cell that was not measured stays empty and names the command that fills it.
"""

import csv
import html
import io
import json
import re
import shlex
import statistics
import unicodedata
from collections import Counter, defaultdict
from itertools import count, product
from pathlib import Path
from string import ascii_lowercase

import pandas as pd

from semmae.evaluation import protocol

TITLES = {
    1: 'Table 1. Integrating semantic information into MAE: linear probing on ImageNet-1k',
    2: 'Table 2. Patch size of different models: fine-tuning on ImageNet-1k',
    3: 'Table 3. Masking strategies: linear probing on ImageNet-1k, 8x8 patches',
    4: 'Table 4. Semantic parts used for masking: linear probing on ImageNet-1k',
    5: 'Table 5. System-level comparison on ImageNet-1k, ViT-Base',
    6: 'Table 6. Fine-tuning on fine-grained datasets',
    7: 'Table 7. Semantic segmentation on ADE20K, 160k iterations',
}
OTHER = 0  # key of the table of results that are no cell of the paper
OTHER_TITLE = 'Other results (no cell of the paper)'
OWN = re.compile(r'((sem)?mae|simmim)_p\d')  # recipes of mm_configs; the others come as checkpoints
DATASETS = dict(linprobe='ImageNet-1k', finetune='ImageNet-1k', inat19='iNaturalist 2019',
                cub='CUB-200-2011', cars='Stanford Cars', ade20k='ADE20K')
COLUMNS = ['method', 'setting', 'paper', 'ours', 'difference', 'note', 'to fill']
FORMATS = ('markdown', 'latex', 'csv', 'html')
REMARKS = {5: 'The paper prints no patch sizes here: 8x8 for SemMAE follows from its Section 4.2, '
              '16x16 for the other rows from their own papers.'}
LEGEND = (
    'paper: the number as printed. ours: mean ± sample standard deviation (n runs); one run has no '
    'spread. A run is one seed on one set of weights; different protocols are never averaged.',
    "difference: ours minus paper, for results of the paper's size in the same metric; else -.",
    "reduced: smaller than the paper's protocol; comparable only with results of the same mark.",
    'bold: the best of at least two results of one table under one protocol, where each has n >= 2 '
    'and it leads every other by more than 2 pooled standard errors (a rough criterion).',
    'to fill: the command that measures an empty cell.')


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
    ``frame.attrs`` holds title, legend (texts) and bold (positions of distinguishable bests).
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
    """The lines that hold a result of ours; tables without any are left out."""
    kept = {}
    for table, frame in frames.items():
        rows = [i for i, ours in enumerate(frame['ours']) if ours]
        if rows:
            kept[table] = frame.iloc[rows].reset_index(drop=True)
            notes = '; '.join(kept[table]['note']).split('; ')
            kept[table].attrs = dict(
                frame.attrs, bold=[rows.index(i) for i in frame.attrs['bold'] if i in rows],
                legend=[text for text in frame.attrs['legend']
                        if not text.startswith('erratum') or text.split(':')[0] in notes])
    return kept


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
    lines[0]['failed'] = sorted((record for record in records if record['status'] != 'ok'),
                                key=lambda record: json.dumps(record, sort_keys=True))
    return lines


def _frame(lines, title, remarks):
    marks, legend = _protocol_marks(lines)
    errata, rows = {}, []
    measured = {(record['task'], record['dataset']) for line in lines for record in line['records']}
    datasets = Counter(task for task, _ in measured)
    for line, mark in zip(lines, marks):
        cell, records, note = line['cell'], line['records'], []
        note += _what_was_measured(records[0], cell, datasets) if records else []
        note += [f'protocol {mark}'] if mark else []
        if cell and cell['erratum']:
            note.append(f"erratum {errata.setdefault(cell['erratum'], len(errata) + 1)}")
        failed = Counter(record['status'] for record in line['failed'])
        note += [f"{times} run{'s' if times > 1 else ''} {status}, not averaged"
                 for status, times in sorted(failed.items())]
        command = _command(cell['row']) if cell and cell['row'] and not records else ''
        rows.append([line['method'], line['setting'], cell['value'] if cell else '', _ours(records),
                     _difference(records, cell), '; '.join(note), command])
    legend += [f'erratum {number}: {text}.' for text, number in errata.items()] + remarks
    legend += [f"Not averaged: {record['row']}, seed {record['seed']}: {record['status']} in "
               f"{record['metric']}, {record['time']}, checkpoint {record['checkpoint'] or 'none'}."
               for line in lines for record in line['failed']]
    frame = pd.DataFrame(rows, columns=COLUMNS, dtype=object)
    frame.attrs = {'title': title, 'legend': legend, 'bold': _bold(lines)}
    return frame


def _command(row):
    """What fills a cell; recipes that are not trained here need their weights."""
    weights = '' if OWN.match(row.split('/')[-1]) else ' --checkpoint FILE'
    return f'python tools/run_suite.py paper --only {shlex.quote(row)}{weights}'


def _what_was_measured(record, cell, datasets):
    """What keeps a result from being read as the paper's cell: reduced, dataset, metric, unit."""
    note = []
    if record['reduced']:
        why = record.get('reduced_why')
        note.append(f'reduced: {why}' if why else 'reduced')
    if datasets[record['task']] > 1 or record['dataset'] != DATASETS.get(record['task']):
        note.append(f"on {record['dataset']}")
    if cell is None or not protocol.same_quantity(record, cell):
        note.append(f"metric {record['metric']} in {record['unit']}")
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
    return f'{shape.format(statistics.fmean(values))}{spread} (n={len(values)}{of_seeds})'


def _difference(records, cell):
    if not records or not cell:
        return ''
    if records[0]['reduced'] or records[0]['dataset'] != DATASETS.get(records[0]['task']) \
            or not protocol.same_quantity(records[0], cell):
        return '-'
    return f"{statistics.fmean(_values(records)) - float(cell['value']):+.2f}"


def _protocol_marks(lines):
    """(a letter for each line measured under one of several protocols, legend of their fields)."""
    protocols = defaultdict(dict)
    for line in lines:
        for record in line['records'][:1]:
            seen = protocols[record['task'], record['dataset']]
            seen.setdefault((record['fingerprint'], record['split']),
                            {**record['protocol'], 'split': record['split']})
    marks, legend, letters = {}, [], _letters()
    for (task, dataset), seen in protocols.items():
        if len(seen) < 2:
            continue
        own = [next(letters) for _ in seen]
        marks.update({(task, dataset, *key): mark for key, mark in zip(seen, own)})
        fields = []
        for field, values in protocol.differing_fields(list(seen.values())).items():
            if field.split('.')[0] in protocol.METHOD_FIELDS:
                field += ' (part of the method)'
            fields.append(f'{field}: ' + ', '.join(
                f'{mark} = {value if isinstance(value, str) else json.dumps(value)}'
                for mark, value in zip(own, values)))
        legend.append(f"Different protocols for {task} on {dataset} ({', '.join(own)}): "
                      f"{'; '.join(fields) or 'the records do not say in what'}.")
    firsts = [line['records'][0] if line['records'] else None for line in lines]
    return [marks.get((r['task'], r['dataset'], r['fingerprint'], r['split']), '') if r else ''
            for r in firsts], legend


def _letters():
    """a, b, ..., z, aa, ab, ..."""
    for length in count(1):
        yield from map(''.join, product(ascii_lowercase, repeat=length))


def _bold(lines):
    """Positions of the results that are distinguishably the best under their conditions."""
    rivals, bold = defaultdict(dict), []
    for position, line in enumerate(lines):
        if line['records']:
            rivals[protocol.conditions(line['records'][0])][position] = _values(line['records'])
    for group, values in rivals.items():
        best = max(values, key=lambda position: statistics.fmean(values[position]))
        others = [values[other] for other in values if other != best]
        if protocol.metric_name(group.metric) in protocol.HIGHER_IS_BETTER and others and all(
                protocol.distinguishable(values[best], other) for other in others):
            bold.append(best)
    return sorted(bold)


def render(frames, format='markdown') -> str:
    """All tables and their legends as one text, with every label escaped for the format."""
    if format not in FORMATS:
        raise ValueError(f"format {format!r}; expected one of {', '.join(FORMATS)}")
    return {'markdown': _markdown, 'latex': _latex, 'csv': _csv, 'html': _html}[format](frames)


def print_tables(frames):
    """The same tables on a terminal, with rich."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text
    console = Console()
    for frame in frames.values():
        table = Table(title=Text(frame.attrs['title'], style='bold'), title_justify='left')
        for column in COLUMNS:
            table.add_column(column, overflow='fold')
        for position, cells in enumerate(frame.itertuples(index=False)):
            style = 'bold' if position in frame.attrs['bold'] else ''
            table.add_row(*(Text(visible(cell), style=style if column == 'ours' else '')
                            for column, cell in zip(COLUMNS, cells)))
        legend = (Text(f'  {visible(text)}') for text in frame.attrs['legend'])
        console.print(table, *legend, '', sep='\n')
    console.print(*(Text(text) for text in LEGEND), sep='\n')


def visible(text):
    """One line of text in which control, direction and zero-width characters show, as (U+202E)."""
    return ''.join(' ' if character.isspace()
                   else f'(U+{ord(character):04X})' if unicodedata.category(character)[0] == 'C'
                   else character for character in str(text))


def _escaped(frame, escape, bold):
    """The frame with escaped cells; ``bold`` marks the results that are distinguishable."""
    escaped = frame.map(lambda cell: escape(visible(cell)))
    for position in frame.attrs['bold']:
        ours = position, COLUMNS.index('ours')
        escaped.iloc[ours] = bold.format(escaped.iloc[ours])
    return escaped


def markdown_text(text):
    text = re.sub(r'([\\|`*$~]|\](?=\())', r'\\\1', text.replace('&', '&amp;').replace('<', '&lt;'))
    return re.sub(r'(?<![A-Za-z0-9_])_|_(?![A-Za-z0-9_])', r'\_', text)


def _markdown(frames):
    parts = []
    for frame in frames.values():
        escaped = _escaped(frame, markdown_text, '**{}**')
        escaped['to fill'] = [f'`{command}`' if command else '' for command in escaped['to fill']]
        parts += [f"## {markdown_text(visible(frame.attrs['title']))}",
                  escaped.to_markdown(index=False, disable_numparse=True),
                  _markdown_list(frame.attrs['legend'])]
    parts += ['## How to read these tables', _markdown_list(LEGEND)]
    return '\n\n'.join(part for part in parts if part) + '\n'


def _markdown_list(texts):
    return '\n'.join(f'- {markdown_text(visible(text))}' for text in texts)


# Brackets and the star are braced because they may follow a row end, where \\ would take them.
_LATEX = str.maketrans({
    '\\': r'\textbackslash{}', '&': r'\&', '%': r'\%', '$': r'\$', '#': r'\#', '_': r'\_',
    '{': r'\{', '}': r'\}', '~': r'\textasciitilde{}', '^': r'\textasciicircum{}',
    '<': r'\textless{}', '>': r'\textgreater{}', '|': r'\textbar{}', '"': r'\textquotedbl{}',
    '`': r'\textasciigrave{}', '[': '{[}', ']': '{]}', '*': '{*}', '±': r'$\pm$'})


def latex_text(text):
    return re.sub('-(?=-)', '-{}', text.translate(_LATEX))  # or two hyphens become a dash


def _latex(frames):
    parts = [r'% needs \usepackage{booktabs} and \usepackage[T1]{fontenc}']
    for number, frame in frames.items():
        escaped = _escaped(frame, latex_text, r'\textbf{{{}}}')
        escaped['to fill'] = [f'\\texttt{{{cell}}}' if cell else '' for cell in escaped['to fill']]
        legend = [latex_text(visible(text)) for text in (*frame.attrs['legend'], *LEGEND)]
        title = latex_text(visible(frame.attrs['title'].removeprefix(f'Table {number}. ')))
        parts.append('\n'.join([
            r'\begin{table}', r'\centering\scriptsize',
            f'\\caption{{{title}}}\\label{{tab:semmae-{number}}}',
            escaped.style.hide(axis='index').to_latex(hrules=True, column_format='llrrrll').strip(),
            r'\par\smallskip\raggedright', '\n\n'.join(legend), r'\end{table}']))
    return '\n\n'.join(parts) + '\n'


def csv_text(text):
    """A spreadsheet would run a text that begins like a formula; a number keeps its sign."""
    text = visible(text)
    is_number = re.fullmatch(r'[+-]?\d+(\.\d+)?|-', text)
    return f"'{text}" if text.lstrip()[:1] in tuple('=+-@') and not is_number else text


def _csv(frames):
    """One table; ``table`` and ``line`` tell cells from the legends that explain their marks."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator='\n')
    writer.writerow(['table', 'line', *COLUMNS])
    for number, frame in frames.items():
        name = number if number != OTHER else 'other'
        for cells in frame.itertuples(index=False):
            writer.writerow([name, 'cell', *map(csv_text, cells)])
        for text in (frame.attrs['title'], *frame.attrs['legend']):
            writer.writerow([name, 'legend', '', '', '', '', '', csv_text(text), ''])
    writer.writerows(['all', 'legend', '', '', '', '', '', csv_text(text), ''] for text in LEGEND)
    return out.getvalue()


def _html(frames):
    parts = ['<!doctype html>', '<html lang="en"><head><meta charset="utf-8">',
             '<title>SemMAE results</title><style>body{font-family:sans-serif}th,td{padding:.2em '
             '.6em;text-align:left;border-bottom:1px solid #ccc}</style></head><body>']
    for frame in frames.values():
        escaped = _escaped(frame, html.escape, '<b>{}</b>')
        with pd.option_context('display.max_colwidth', None):  # or long cells end in '...'
            table = escaped.to_html(index=False, escape=False, border=0)
        parts += [f"<h2>{html.escape(visible(frame.attrs['title']))}</h2>", table,
                  _html_list(frame.attrs['legend'])]
    parts += ['<h2>How to read these tables</h2>', _html_list(LEGEND), '</body></html>\n']
    return '\n'.join(parts)


def _html_list(texts):
    return '<ul>{}</ul>'.format(''.join(f'<li>{html.escape(visible(text))}</li>' for text in texts))
