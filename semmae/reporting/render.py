"""Tables as Markdown, LaTeX, CSV, HTML or on a terminal; every text is escaped.

A table is a DataFrame of texts whose ``attrs`` hold title, legend (texts) and bold (positions of
lines whose 'ours' is set in bold, or a (position, column) for each bold cell), and may hold links
(for each line the anchor of its 'ours' or '', or {column: anchor}) and commands (what a command
measures, and the command; for tables without a column of them).
"""
import csv
import io
import re
from dataclasses import replace

from .latex import latex_tables
from .names import FORMATS
from .page import (
    COMMAND,
    OURS,
    Section,
    escaped_cells,
    is_bold,
    page,
    section_of,
    visible,
)

INTERVALS = ("seeds: over trainings (Welch's t, two runs or more on both sides). "
             'images: over test images with these weights (paired bootstrap of the stored '
             'predictions). within noise: an interval includes 0. Not corrected for multiple '
             'comparisons.')
BOLD = 'if both sides of every comparison have two seeds or more and no interval includes 0.'
LEGEND = (
    'paper: the number as printed.',
    'ours: mean ± sample standard deviation (n runs); one run has no spread. A run is one seed '
    'with one set of weights. Different protocols or pre-trainings are never averaged.',
    'difference: ours minus paper. A cell holds only results that were made as the cell says; '
    'other results stand below it, with their difference.',
    'to the best: ours minus the best of ours in this table under the same protocol, with 95 % '
    f'confidence intervals. {INTERVALS}',
    f'bold: the best of its table and protocol, {BOLD}',
    "reduced: smaller than the paper's protocol; comparable only with results of the same mark.",
    'to fill: the command that measures an empty cell.')
READING = 'How to read these tables'  # the heading of the common legend


def render(frames, format='markdown') -> str:
    """All tables {name: DataFrame} and their legends as one text, escaped for the format."""
    if format not in FORMATS:
        raise ValueError(f"format is {format!r}, expected one of {', '.join(FORMATS)}")
    return {'markdown': _markdown, 'latex': _latex, 'csv': _csv, 'html': _html}[format](frames)


def print_tables(frames):
    """The same tables on a terminal, with rich. A table that is too wide is a list of its rows.

    Nothing is folded or cut: the terminal breaks long lines, and what is copied is whole.
    """
    from rich.console import Console
    from rich.text import Text
    console = Console()
    for frame in frames.values():
        table = _for_terminal(frame)
        widest = console.measure(table, options=console.options.update(width=10_000)).maximum
        shown = [table] if widest <= console.width else [
            Text(visible(frame.attrs['title']), style='bold italic'), *_rows(frame)]
        legend = (Text(f'- {visible(text)}') for text in _below(frame))
        console.print(*shown, *legend, '', sep='\n', soft_wrap=True)
    console.print(*(Text(text) for text in _reading(frames)), sep='\n', soft_wrap=True)


def _for_terminal(frame):
    """A rich table in which nothing wraps."""
    from rich.table import Table
    from rich.text import Text
    table = Table(title=Text(visible(frame.attrs['title']), style='bold'), title_justify='left')
    for column in frame:
        table.add_column(Text(visible(column)), no_wrap=True)
    for position, cells in enumerate(frame.itertuples(index=False)):
        table.add_row(*(Text(visible(cell), style=_style(frame, position, column))
                        for column, cell in zip(frame, cells)))
    return table


def _rows(frame):
    """For each row its first cell, and below it 'column: cell' for each other cell with a text."""
    from rich.text import Text
    for position, (first, *cells) in enumerate(frame.itertuples(index=False)):
        yield Text(visible(first), style='bold')
        for column, cell in zip(list(frame)[1:], cells):
            if cell:
                yield Text.assemble(f'  {visible(column)}: ', (
                    visible(cell), _style(frame, position, column)))


def _style(frame, position, column):
    return 'bold' if is_bold(frame.attrs['bold'], position, column) else ''


def _below(frame):
    """The legend of a table and the commands that are not in a column."""
    return [*frame.attrs['legend'], *(
        f'to fill {what}: {command}' for what, command in frame.attrs.get('commands', ()))]


def _reading(frames):
    """The legend of the columns of these tables."""
    columns = {column for frame in frames.values() for column in frame}
    # A text on a column that these tables lack is left out.
    return [text for text in LEGEND if OURS in columns and (
        (about := text.split(':')[0]) in columns or about not in ('paper', 'difference', COMMAND))]


def markdown_text(text):
    """The text with the special characters of Markdown escaped."""
    text = re.sub(r'([\\|`*$~]|\](?=\())', r'\\\1', text.replace('&', '&amp;').replace('<', '&lt;'))
    return re.sub(r'(?<![A-Za-z0-9_])_|_(?![A-Za-z0-9_])', r'\_', text)


def _markdown(frames):
    parts = []
    for frame in frames.values():
        escaped = escaped_cells(frame, markdown_text, '**{}**')
        if COMMAND in frame:
            escaped[COMMAND] = [f'`{command}`' if command else '' for command in escaped[COMMAND]]
        parts += [f"## {markdown_text(visible(frame.attrs['title']))}",
                  escaped.to_markdown(index=False, disable_numparse=True),
                  '\n'.join([
                      *map(_markdown_item, frame.attrs['legend']),
                      *(f'{_markdown_item(f"to fill {what}")}: `{visible(command)}`'
                        for what, command in frame.attrs.get('commands', ()))])]
    if _reading(frames):
        parts += [f'## {READING}', '\n'.join(map(_markdown_item, _reading(frames)))]
    return '\n\n'.join(part for part in parts if part) + '\n'


def _markdown_item(text):
    return f'- {markdown_text(visible(text))}'


def _latex(frames):
    return latex_tables(frames, _reading(frames))


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
    names = ['table', 'line', *columns]
    writer = csv.DictWriter(out, names, restval='', lineterminator='\n')
    writer.writerow({name: csv_text(name) for name in names})
    for name, frame in frames.items():
        for cells in frame.to_dict('records'):
            writer.writerow({'table': name, 'line': 'cell',
                             **{column: csv_text(cell) for column, cell in cells.items()}})
        writer.writerows({'table': name, 'line': 'legend', 'note': csv_text(text)}
                         for text in (frame.attrs['title'], *_below(frame)))
    writer.writerows({'table': 'all', 'line': 'legend', 'note': csv_text(text)}
                     for text in _reading(frames))
    return out.getvalue()


def sections(frames) -> list[Section]:
    """The tables as sections of an HTML page; the common legend is last."""
    found = [section_of(frame, frame.attrs['title'], bold=frame.attrs['bold'],
                        links=frame.attrs.get('links', ()), legend=_below(frame))
             for frame in frames.values()]
    reading = _reading(frames)
    return found + ([Section(READING, legend=reading)] if reading else [])


def _html(frames):
    return page(replace(section, links=()) for section in sections(frames))
