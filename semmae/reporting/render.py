"""Tables as Markdown, LaTeX, CSV, HTML or on a terminal; every text is escaped.

A table is a DataFrame of texts whose ``attrs`` hold title, legend (texts) and bold (positions of
lines whose 'ours' is set in bold), and may hold links (an anchor for each 'ours', or '').
"""
import csv
import io
import re
import unicodedata
from dataclasses import replace

from .page import OURS, Section, page, section_of, visible

FORMATS = ('markdown', 'latex', 'csv', 'html')
LEGEND = (
    'paper: the number as printed.',
    'ours: mean ± sample standard deviation (n runs); one run has no spread. A run is one seed '
    'with one set of weights. Different protocols or pre-trainings are never averaged.',
    'difference: ours minus paper. A cell holds only results that were made as the cell says; '
    'other results stand below it, with their difference.',
    'to the best: ours minus the best of ours in this table under the same protocol, with 95 % '
    "confidence intervals. seeds: over trainings (Welch's t, two runs or more on both sides). "
    'images: over test images with these weights (paired bootstrap of the stored predictions). '
    'within noise: an interval includes 0. Not corrected for multiple comparisons.',
    'bold: the best of its table and protocol, if both sides of every comparison have two seeds '
    'or more and no interval includes 0.',
    "reduced: smaller than the paper's protocol; comparable only with results of the same mark.",
    'to fill: the command that measures an empty cell.')
IN_SHORT = ('ours: mean ± sample standard deviation (n runs). to the best: difference and 95 % '
            'intervals over seeds (Welch) and over test images (paired bootstrap); within noise: '
            'an interval includes 0; bold: no interval includes 0. Tables are numbered as in the '
            'SemMAE paper.')
COMMAND = 'to fill'
READING = 'How to read these tables'  # the heading of the common legend


def render(frames, format='markdown') -> str:
    """All tables {name: DataFrame} and their legends as one text, escaped for the format."""
    if format not in FORMATS:
        raise ValueError(f"format is {format!r}, expected one of {', '.join(FORMATS)}")
    return {'markdown': _markdown, 'latex': _latex, 'csv': _csv, 'html': _html}[format](frames)


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
    """The legend of the columns of these tables."""
    columns = {column for frame in frames.values() for column in frame}
    # A text on a column that these tables lack is left out.
    return [text for text in LEGEND if OURS in columns and (
        (about := text.split(':')[0]) in columns or about not in ('paper', 'difference', COMMAND))]


def _escaped(frame, escape, bold):
    """The frame with escaped cells; ``bold`` is the format of the bold results."""
    escaped = frame.map(lambda cell: escape(visible(cell)))
    for position in frame.attrs['bold']:
        ours = position, frame.columns.get_loc(OURS)
        escaped.iloc[ours] = bold.format(escaped.iloc[ours])
    return escaped


def markdown_text(text):
    """The text with the special characters of Markdown escaped."""
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
        parts += [f'## {READING}', _markdown_list(_reading(frames))]
    return '\n\n'.join(part for part in parts if part) + '\n'


def _markdown_list(texts):
    return '\n'.join(f'- {markdown_text(visible(text))}' for text in texts)


_GREEK = ('alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho '
          'varsigma sigma tau upsilon varphi chi psi omega').split()
_GREEK_CAPITALS = dict(zip('ΓΔΘΛΞΠΣΦΨΩ', (
    'Gamma', 'Delta', 'Theta', 'Lambda', 'Xi', 'Pi', 'Sigma', 'Phi', 'Psi', 'Omega')))
# Brackets and the star are braced: after a row end, \\ would read them as its argument.
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
_NOT_IN_T1 = frozenset('¸ĦħĸĿŀŉŦŧ')  # letters up to U+017E at which pdflatex stops


def latex_text(text):
    """``text`` for LaTeX with T1 fonts; characters that T1 lacks are shown as (U+4E2D)."""
    text = ''.join(
        c if c < '\x7f' or ord(c) in _LATEX or c in '–—‘’“”„•…€™' or (
            '\xa0' < c < 'ſ' and c not in _NOT_IN_T1) else f'(U+{ord(c):04X})'
        for c in unicodedata.normalize('NFC', text)).translate(_LATEX)
    # Otherwise two hyphens become a dash, and two quotes or commas a quotation mark.
    return re.sub(r"-(?=-)|'(?=')|,(?=,)", r'\g<0>{}', text)


# Shares of the line width.
_WIDTHS = {'method': .12, 'setting': .16, 'paper': .055, 'ours': .15, 'difference': .095,
           'to the best': .15, 'note': .13, 'measured on': .15, 'value': .12, 'source': .21,
           'certainty': .11, 'place': .14, 'printed': .22, 'finding': .3, 'parts of': .22}
_WIDTH = .11  # of columns that are not named
_NUMBERS = ('paper', 'ours', 'difference', 'value')
_ONE_PAGE = 60  # estimated lines of a table that certainly fit on one page


def _latex(frames):
    """Tables for a paper; commands for empty cells and the legend are comments."""
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
        # The tables of another paper have their own numbers.
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
    """Estimated lines of a table and its legend, with about 110 letters per line."""
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
    """A table over several pages, which a float cannot have; for one-column documents only."""
    head = [r'\toprule', ' & '.join(escaped) + r' \\', r'\midrule']
    rows = [' & '.join(cells) + r' \\' for cells in escaped.itertuples(index=False)]
    return [r'\begingroup' + _SMALL, rf'\begin{{longtable}}{{{columns}}}', caption + r'\\',
            *head, r'\endfirsthead', *head, r'\endhead', r'\bottomrule', r'\endlastfoot', *rows,
            r'\end{longtable}', r'\noindent\raggedright', *legend, r'\endgroup']


def csv_text(text):
    """A text that a spreadsheet does not run as a formula; a number keeps its sign."""
    text = visible(text)
    is_number = re.fullmatch(r'[+-]?\d+(\.\d+)?|-', text)
    return f"'{text}" if text.lstrip()[:1] in tuple('=+-@') and not is_number else text


def _csv(frames):
    """One CSV table; ``table`` and ``line`` distinguish cells from legends."""
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


def sections(frames) -> list[Section]:
    """The tables as sections of an HTML page; the common legend is last."""
    found = [section_of(frame, frame.attrs['title'], bold=frame.attrs['bold'],
                        links=frame.attrs.get('links', ()), legend=frame.attrs['legend'])
             for frame in frames.values()]
    reading = _reading(frames)
    return found + ([Section(READING, legend=reading)] if reading else [])


def _html(frames):
    return page(replace(section, links=()) for section in sections(frames))
