"""Tables as Markdown, LaTeX, CSV, HTML or on a terminal; every text comes out literally.

A table is a DataFrame of texts whose ``attrs`` hold title, legend (texts) and bold (positions of
lines whose 'ours' is set in bold), and may hold links (an anchor for each 'ours', or '').
"""
import csv
import html
import io
import re
import unicodedata

import pandas as pd

FORMATS = ('markdown', 'latex', 'csv', 'html')
LEGEND = (
    'paper: the number as printed.',
    'ours: mean ± sample standard deviation (n runs); one run has no spread. A run is one seed on '
    'one set of weights. Different protocols or pre-trainings are never averaged.',
    'difference: ours minus paper. Only a result that was made as the cell says stands in it; '
    'what differs stands below, named by its difference.',
    'to the best: ours minus the best of ours in this table under one protocol, with 95 % '
    "intervals. seeds: would other trainings tell the same (Welch's t, two runs or more on both "
    'sides); images: would other test images, for these very weights (paired bootstrap of the '
    'stored predictions). Within noise: an interval holds 0. Not corrected for many comparisons.',
    'bold: the best, where it leads every other of its table and protocol, with two seeds or more '
    'on both sides and no interval that holds 0.',
    "reduced: smaller than the paper's protocol; comparable only with results of the same mark.",
    'to fill: the command that measures an empty cell.')
IN_SHORT = ('ours: mean ± sample standard deviation (n runs). to the best: difference and 95 % '
            'intervals over seeds (Welch) and over test images (paired bootstrap); within noise: '
            'an interval holds 0; bold: none does. Tables are numbered as in the SemMAE paper.')
COMMAND, OURS = 'to fill', 'ours'


def render(frames, format='markdown', links=False) -> str:
    """All tables {name: DataFrame} and their legends as one text, escaped for the format.

    links: HTML only; each 'ours' leads to ``#`` and its anchor, for a page that has those.
    """
    if format not in FORMATS:
        raise ValueError(f"format {format!r}; expected one of {', '.join(FORMATS)}")
    if links and format != 'html':
        raise ValueError(f'links are for HTML, not for {format}')
    if format == 'html':
        return _html(frames, links)
    return {'markdown': _markdown, 'latex': _latex, 'csv': _csv}[format](frames)


def print_tables(frames):
    """The same tables on a terminal, with rich."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text
    console = Console()
    for frame in frames.values():
        table = Table(title=Text(frame.attrs['title'], style='bold'), title_justify='left')
        for column in frame:
            table.add_column(column, overflow='fold')
        for position, cells in enumerate(frame.itertuples(index=False)):
            style = 'bold' if position in frame.attrs['bold'] else ''
            table.add_row(*(Text(visible(cell), style=style if column == OURS else '')
                            for column, cell in zip(frame, cells)))
        legend = (Text(f'  {visible(text)}') for text in frame.attrs['legend'])
        console.print(table, *legend, '', sep='\n')
    console.print(*(Text(text) for text in _reading(frames)), sep='\n')


def _reading(frames):
    """How to read the columns of these tables."""
    columns = {column for frame in frames.values() for column in frame}
    # A text on a column that these tables do not have is left out.
    return [text for text in LEGEND if OURS in columns and (
        (about := text.split(':')[0]) in columns or about not in ('paper', 'difference', COMMAND))]


def visible(text):
    """One line of text in which control, direction and zero-width characters show, as (U+202E)."""
    return ''.join(' ' if character.isspace()
                   else f'(U+{ord(character):04X})' if unicodedata.category(character)[0] == 'C'
                   else character for character in str(text))


def _escaped(frame, escape, bold):
    """The frame with escaped cells; ``bold`` marks the results that are distinguishable."""
    escaped = frame.map(lambda cell: escape(visible(cell)))
    for position in frame.attrs['bold']:
        ours = position, frame.columns.get_loc(OURS)
        escaped.iloc[ours] = bold.format(escaped.iloc[ours])
    return escaped


def markdown_text(text):
    text = re.sub(r'([\\|`*$~]|\](?=\())', r'\\\1', text.replace('&', '&amp;').replace('<', '&lt;'))
    return re.sub(r'(?<![A-Za-z0-9_])_|_(?![A-Za-z0-9_])', r'\_', text)


def _markdown(frames):
    parts = []
    for frame in frames.values():
        escaped = _escaped(frame, markdown_text, '**{}**')
        if COMMAND in frame:
            escaped[COMMAND] = [f'`{command}`' if command else '' for command in escaped[COMMAND]]
        parts += [f"## {markdown_text(visible(frame.attrs['title']))}",
                  escaped.to_markdown(index=False, disable_numparse=True),
                  _markdown_list(frame.attrs['legend'])]
    if _reading(frames):
        parts += ['## How to read these tables', _markdown_list(_reading(frames))]
    return '\n\n'.join(part for part in parts if part) + '\n'


def _markdown_list(texts):
    return '\n'.join(f'- {markdown_text(visible(text))}' for text in texts)


_GREEK = ('alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho '
          'varsigma sigma tau upsilon varphi chi psi omega').split()
_GREEK_CAPITALS = dict(zip('ΓΔΘΛΞΠΣΦΨΩ', (
    'Gamma', 'Delta', 'Theta', 'Lambda', 'Xi', 'Pi', 'Sigma', 'Phi', 'Psi', 'Omega')))
# Brackets and the star are braced because they may follow a row end, where \\ would take them.
# Long words without a space may break behind / _ and =, and before a parenthesis.
_LATEX = str.maketrans({
    '\\': r'\textbackslash{}', '&': r'\&', '%': r'\%', '$': r'\$', '#': r'\#',
    '{': r'\{', '}': r'\}', '~': r'\textasciitilde{}', '^': r'\textasciicircum{}',
    '<': r'\textless{}', '>': r'\textgreater{}', '|': r'\textbar{}', '"': r'\textquotedbl{}',
    '`': r'\textasciigrave{}', '[': '{[}', ']': '{]}', '*': '{*}', '±': r'$\pm$',
    '/': r'/\allowbreak{}', '_': r'\_\allowbreak{}', '=': r'=\allowbreak{}',
    '(': r'\allowbreak(', '→': r'$\to$', '×': r'$\times$', '−': '$-$',
    **{chr(0x3b1 + k): f'$\\{name}$' for k, name in enumerate(_GREEK) if name != 'omicron'},
    **{letter: f'$\\{name}$' for letter, name in _GREEK_CAPITALS.items()}})
_NOT_IN_T1 = frozenset('¸ĦħĸĿŀŉŦŧ')  # of the letters up to U+017E, and so pdflatex stops at them


def latex_text(text):
    """``text`` for LaTeX with T1 fonts; a character that those lack shows as (U+4E2D)."""
    text = ''.join(
        c if c < '\x7f' or ord(c) in _LATEX or c in '–—‘’“”„•…€™' or (
            '\xa0' < c < 'ſ' and c not in _NOT_IN_T1) else f'(U+{ord(c):04X})'
        for c in unicodedata.normalize('NFC', text)).translate(_LATEX)
    # Or two hyphens become a dash, two quotes or commas a quotation mark.
    return re.sub(r"-(?=-)|'(?=')|,(?=,)", r'\g<0>{}', text)


# Shares of the line width.
_WIDTHS = {'method': .12, 'setting': .16, 'paper': .055, 'ours': .15, 'difference': .095,
           'to the best': .15, 'note': .13, 'measured on': .15, 'value': .12, 'source': .21,
           'certainty': .11, 'place': .14, 'printed': .22, 'finding': .3, 'parts of': .22}
_WIDTH = .11  # of columns that are not named
_NUMBERS = ('paper', 'ours', 'difference', 'value')
_ONE_PAGE = 60  # estimated lines of a table that surely fit on one


def _latex(frames):
    """Tables for a paper; what fills empty cells and how to read them are comments."""
    parts = [r'% needs \usepackage{booktabs,array,longtable} and \usepackage[T1]{fontenc}',
             '% long tables need a document of one column',
             *(f'% {text}' for text in _reading(frames))]
    for name, frame in frames.items():
        shown = frame.drop(columns=COMMAND, errors='ignore')
        shown.attrs = frame.attrs
        escaped = _escaped(shown, latex_text, r'\textbf{{{}}}')
        columns = ''.join(
            r'>{\ragged' + ('left' if column in _NUMBERS else 'right')
            + r'\arraybackslash}p{' + str(_WIDTHS.get(column, _WIDTH)) + r'\linewidth}'
            for column in shown)
        # The numbers of tables in somebody's paper are their own.
        title = latex_text(visible(re.sub(
            r'^(Table \d)\. (.*)', r'\2 (SemMAE paper, \1)', frame.attrs['title'])))
        legend = [latex_text(visible(text)) + r'\par' for text in (
            *frame.attrs['legend'], *([IN_SHORT] if OURS in frame else []))]
        empty = [f"% to fill: {visible(command)}" for command in frame.get(COMMAND, ()) if command]
        write = _float if _height(shown) <= _ONE_PAGE else _long
        caption = f'\\caption{{{title}}}\\label{{tab:semmae-{name}}}'
        parts.append('\n'.join([*write(escaped, columns, caption, legend), *empty]))
    return '\n\n'.join(parts) + '\n'


def _height(frame):
    """About how many lines a table and its legend take, at some 110 letters to the line."""
    letters = {column: int(110 * _WIDTHS.get(column, _WIDTH)) for column in frame}
    rows = [max(-(-len(visible(cell)) // letters[column]) for column, cell in row.items())
            for row in frame.to_dict('records')]
    return sum(rows) + sum(-(-len(text) // 110) for text in frame.attrs['legend'])


_SMALL = r'\scriptsize\setlength{\tabcolsep}{3pt}'


def _float(escaped, columns, caption, legend):
    table = escaped.style.hide(axis='index').to_latex(hrules=True, column_format=columns).strip()
    return [r'\begin{table}', r'\centering' + _SMALL, caption, table,
            r'\par\smallskip\raggedright', *legend, r'\end{table}']


def _long(escaped, columns, caption, legend):
    """Over several pages, which a float cannot be; in documents of one column only."""
    head = [r'\toprule', ' & '.join(escaped) + r' \\', r'\midrule']
    rows = [' & '.join(cells) + r' \\' for cells in escaped.itertuples(index=False)]
    return [r'\begingroup' + _SMALL, rf'\begin{{longtable}}{{{columns}}}', caption + r'\\',
            *head, r'\endfirsthead', *head, r'\endhead', r'\bottomrule', r'\endlastfoot', *rows,
            r'\end{longtable}', r'\noindent\raggedright', *legend, r'\endgroup']


def csv_text(text):
    """A spreadsheet would run a text that begins like a formula; a number keeps its sign."""
    text = visible(text)
    is_number = re.fullmatch(r'[+-]?\d+(\.\d+)?|-', text)
    return f"'{text}" if text.lstrip()[:1] in tuple('=+-@') and not is_number else text


def _csv(frames):
    """One table; ``table`` and ``line`` tell cells from the legends that explain their marks."""
    columns = list(dict.fromkeys(column for frame in frames.values() for column in frame))
    columns += [] if 'note' in columns else ['note']
    out = io.StringIO()
    writer = csv.DictWriter(out, ['table', 'line', *columns], restval='', lineterminator='\n')
    writer.writeheader()
    for name, frame in frames.items():
        for cells in frame.to_dict('records'):
            writer.writerow({'table': name, 'line': 'cell',
                             **{column: csv_text(cell) for column, cell in cells.items()}})
        writer.writerows({'table': name, 'line': 'legend', 'note': csv_text(text)}
                         for text in (frame.attrs['title'], *frame.attrs['legend']))
    writer.writerows({'table': 'all', 'line': 'legend', 'note': csv_text(text)}
                     for text in _reading(frames))
    return out.getvalue()


def _html(frames, links):
    parts = ['<!doctype html>', '<html lang="en"><head><meta charset="utf-8">',
             '<title>SemMAE results</title><style>body{font-family:sans-serif}th,td{padding:.2em '
             '.6em;text-align:left;border-bottom:1px solid #ccc}</style></head><body>']
    for frame in frames.values():
        escaped = _escaped(frame, html.escape, '<b>{}</b>')
        if links and 'links' in frame.attrs:
            escaped[OURS] = [f'<a href="#{anchor}">{ours}</a>' if anchor else ours
                             for anchor, ours in zip(frame.attrs['links'], escaped[OURS])]
        with pd.option_context('display.max_colwidth', None):  # or long cells end in '...'
            table = escaped.to_html(index=False, escape=False, border=0)
        parts += [f"<h2>{html.escape(visible(frame.attrs['title']))}</h2>", table,
                  _html_list(frame.attrs['legend'])]
    if _reading(frames):
        parts += ['<h2>How to read these tables</h2>', _html_list(_reading(frames))]
    return '\n'.join([*parts, '</body></html>\n'])


def _html_list(texts):
    return '<ul>{}</ul>'.format(''.join(f'<li>{html.escape(visible(text))}</li>' for text in texts))
