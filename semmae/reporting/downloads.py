"""The tables of a page as files inside it: CSV and LaTeX as data URLs."""
import base64
import csv
import io

import pandas as pd

from .latex import latex_tables
from .page import Section
from .render import csv_text


def downloads(section: Section, name: str) -> list[tuple[str, str, str]]:
    """[(format, name of the file, data URL)] of a section; [] without a table."""
    if not section.columns:
        return []
    return [(title, f'{name}.{suffix}', f'data:{kind};charset=utf-8;base64,'
             + base64.b64encode(text.encode()).decode())
            for title, suffix, kind, text in (
                ('CSV', 'csv', 'text/csv', csv_of(section)),
                ('LaTeX', 'tex', 'application/x-tex', latex_of(section, name)))]


def csv_of(section: Section) -> str:
    """The cells of a table, without formulas that a spreadsheet would run."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator='\n')
    writer.writerows(map(csv_text, row) for row in (section.columns, *section.rows))
    return out.getvalue()


def latex_of(section: Section, name: str) -> str:
    """The table and its legend; commands that fill empty cells are comments."""
    frame = pd.DataFrame(section.rows, columns=list(section.columns), dtype=object)
    legend = [text for text in section.legend if not text.startswith('to fill ')]
    frame.attrs = dict(title=section.heading, bold=section.bold, legend=legend)
    return latex_tables({name: frame}, ())
