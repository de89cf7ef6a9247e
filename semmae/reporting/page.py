"""Sections of an HTML page as data; a template turns them into HTML and escapes every text."""
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import pandas as pd
from jinja2 import DictLoader, Environment

OURS = 'ours'  # the column of our results
COMMAND = 'to fill'  # the column of commands

SECTION = '''
{% macro show(section, shift=0, id='', files=()) %}
{% set tag = 'h%d'|format(section.level + shift) %}
<{{ tag }}{% if id %} id="{{ id }}"{% endif %}>{{ section.heading }}</{{ tag }}>
{% if section.text %}
<p>{{ section.text }}</p>
{% endif %}
{% if section.columns %}
<div class="scroll" role="region" aria-label="Table" tabindex="0">
<table{% if section.kind %} class="{{ section.kind }}"{% endif %}>
<thead><tr>{% for name in section.columns %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for line in section.lines() %}
<tr>{% for name, text, is_bold, link in line %}
<td{% if section.has_results %} class="{{ name|replace(' ', '-') }}"
{%- elif section.is_shaded and not loop.first %} style="--share:{{ text|float }}%"{% endif %}>
{%- if link %}<a href="#{{ link }}">{% endif %}
{%- if is_bold %}<b>{{ text }}</b>{% else %}{{ text }}{% endif %}
{%- if link %}</a>{% endif %}</td>
{%- endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% endif %}
{% if files %}
<p class="files">Download:{% for format, name, data in files %}
 <a download="{{ name }}" href="{{ data }}">{{ format }}</a>{% endfor %}</p>
{% endif %}
{% if section.legend %}
<ul>{% for text in section.legend %}<li>{{ text }}</li>{% endfor %}</ul>
{% endif %}
{% if section.below %}
<p>{{ section.below }}</p>
{% endif %}
{% endmacro %}
'''
SECTIONS = '''
{% from 'section' import show %}
{% for section in sections %}{{ show(section) }}{% endfor %}
'''
PAGE = f'''
<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<title>SemMAE results</title>
<style>body{{font-family:sans-serif}}
th,td{{padding:.2em .6em;text-align:left;border-bottom:1px solid #ccc}}</style></head><body>
{SECTIONS}</body></html>
'''


@dataclass(frozen=True)
class Section:
    """A heading and the content below it, in the order of the fields; all are plain texts.

    level: 2, or 3 for a part of the section before. bold: see `is_bold`.
    links: for each row the anchor of its 'ours' in the page or '', or {column: anchor}; () for no
        links. is_shaded: all cells but the first of a row are percents with a shade.
    """

    heading: str
    level: int = 2
    text: str = ''
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    bold: Collection[int | tuple[int, str]] = ()
    links: Sequence[str | dict[str, str]] = ()
    legend: Sequence[str] = ()
    below: str = ''
    is_shaded: bool = False

    @property
    def has_results(self) -> bool:
        return OURS in self.columns

    @property
    def kind(self) -> str:
        """The class of the table in the page, or ''."""
        return 'results' if self.has_results else 'shaded' if self.is_shaded else ''

    def lines(self) -> Iterator[list[tuple[str, str, bool, str]]]:
        """For each row a (column, text, is bold, link) for each cell."""
        for position, row in enumerate(self.rows):
            link = self.links[position] if self.links else ''
            links = {OURS: link} if isinstance(link, str) else link
            yield [(name, text, is_bold(self.bold, position, name), links.get(name, ''))
                   for name, text in zip(self.columns, row)]

    def without_empty_end(self) -> 'Section':
        """The section without a last column in which every cell is empty."""
        if not self.rows or any(row[-1] for row in self.rows):
            return self
        return replace(self, columns=self.columns[:-1], rows=[row[:-1] for row in self.rows])


def is_bold(bold, position, column) -> bool:
    """Whether a cell is bold. bold: positions of rows for 'ours', or (position, column) pairs."""
    return (position, column) in bold or column == OURS and position in bold


def escaped_cells(frame, escape, bold):
    """The frame with escaped names and cells; ``bold`` is the format of the bold results."""
    escaped = frame.map(lambda cell: escape(visible(cell))).rename(
        columns=lambda name: escape(visible(name)))
    for row in range(len(frame)):
        for column, name in enumerate(frame):
            if is_bold(frame.attrs['bold'], row, name):
                escaped.iloc[row, column] = bold.format(escaped.iloc[row, column])
    return escaped


def section_of(frame: pd.DataFrame, heading: str, **more) -> Section:
    """A section with the cells of a DataFrame; more: further fields of `Section`."""
    return Section(heading, columns=list(frame), rows=frame.astype(str).values.tolist(), **more)


def visible(text) -> str:
    """One line of text; control, direction and zero-width characters are shown as (U+202E)."""
    return ''.join(' ' if character.isspace()
                   else f'(U+{ord(character):04X})' if unicodedata.category(character)[0] == 'C'
                   else character for character in str(text))


def environment() -> Environment:
    """Templates apply `visible` and escape all texts; 'section' has the macro ``show``."""
    return Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True,
                       loader=DictLoader(dict(section=SECTION)),
                       finalize=lambda value: visible(value) if type(value) is str else value)


def page(sections: Iterable[Section]) -> str:
    """An HTML page of these sections."""
    return environment().from_string(PAGE).render(sections=sections).lstrip()


def fragment(sections: Iterable[Section]) -> str:
    """The sections as HTML without a page around them."""
    return environment().from_string(SECTIONS).render(sections=sections).lstrip()
