"""A standard TeX installation compiles the LaTeX of all tables, with any name in them."""
import re
import shutil
import subprocess
import unicodedata
from pathlib import Path

import pytest

from semmae.reporting.elsewhere import elsewhere_table, errata_table, published_tables
from semmae.reporting.part_tables import part_tables, render_parts
from semmae.reporting.render import render, visible
from semmae.reporting.tables import build_tables
from semmae.results.results import read_results

from .records import a_record

pytestmark = pytest.mark.skipif(
    shutil.which('pdflatex') is None or shutil.which('pdftotext') is None,
    reason='needs pdflatex (TeX Live with booktabs) and pdftotext (poppler-utils)')

NAMES = [
    'a_b|c', '$x$', r'\input{/etc/passwd}', '<script>', '50% & #', '=HYPERLINK("x")', 'two\nlines',
    '\u202eltr\u200b', '~^{}"`*', '\\\\', '[x](y)', 'a--b---c', "it's ''so''", '``quoted"', '?`!`',
    '<<x>>', ',,low', 'fi fl ffi', 'é', 'ß', 'Œuvre ñ', 'żółć', '½ °C', 'e\u0301', '“x” – y…',
    '± × →', 'γ = 1/2, α', '中', '🙂', 'ħ', 'x̂']
OVERFULL = 20  # points that a line may stick out, a third of a margin


def frames_of(names):
    """All tables; each name is a method, a recipe, a reason, a value, a path and a data set."""
    records = [a_record(f'linprobe/{name}', method=name, reduced=True, reduced_why=name,
                        protocol={'view': name}) for name in names]
    records += [a_record('linprobe/mae_p16', seed=seed, value=60.0 + seed) for seed in (0, 1)]
    records += [a_record('finetune/mae_p16', status='non-finite', value=None, checkpoint=name)
                for name in names]
    dense = dict(task='seg_hummingbird', metric='mIoU', tables=['dense'])
    records += [a_record(f'seg_hummingbird/{name}', method=name, dataset=name, seed=seed, **dense)
                for name in [*names, 'ADE20K', 'CamVid'] for seed in (0, 1)]
    frames = build_tables(records)
    return {**frames, **published_tables(frames), 'elsewhere': elsewhere_table(),
            'errata': errata_table()}


def article(latex):
    """A document around the tables, with the packages that their first line asks for.

    cmap only lets pdftotext read bitmap fonts, which TeX takes where it has no others. The
    penalty keeps the lines of a paragraph on one page, or other text would stand between them.
    """
    first = latex.split('\n', 1)[0]
    packages = re.findall(r'\\usepackage(?:\[[^]]*\])?\{[^}]*\}', first)
    assert first.startswith('% needs') and r'\usepackage[T1]{fontenc}' in packages
    return '\n'.join([r'\documentclass{article}', r'\usepackage{cmap}', *packages,
                      r'\begin{document}\interlinepenalty=10000', latex, r'\end{document}', ''])


@pytest.fixture(scope='module')
def compiled(tmp_path_factory):
    """(text of the pages, log) of the tables with all names."""
    return printed(render(frames_of(NAMES), 'latex'), tmp_path_factory.mktemp('latex'))


def printed(latex, folder):
    (folder / 'tables.tex').write_text(article(latex), 'utf-8')
    done = subprocess.run(['pdflatex', '-halt-on-error', '-interaction=nonstopmode',
                           '-no-shell-escape', 'tables.tex'], cwd=folder, capture_output=True)
    log = (folder / 'tables.log').read_text('utf-8', 'replace')
    assert done.returncode == 0, '\n'.join(
        re.findall(r'^(?:! .*|l\.\d+ .*|.*\(inputenc\).*)$', log, re.M)) or log[-2000:]
    subprocess.run(['pdftotext', '-raw', 'tables.pdf', 'tables.txt'], cwd=folder, check=True)
    return (folder / 'tables.txt').read_text('utf-8'), log


def bare(text):
    """The text without what typesetting adds: breaks of lines, hyphens, ligatures, curls."""
    text = unicodedata.normalize('NFKC', text.replace('’', "'"))
    return re.sub(r'[\s\u00ad-]+', '', text)


def expected(text):
    """How a text is printed: what no standard font has shows as its number, as in (U+4E2D)."""
    text = visible(unicodedata.normalize('NFC', text))
    return bare(''.join(f'(U+{ord(character):04X})' if character in '中🙂ħ\u0302' else character
                        for character in text))


@pytest.mark.parametrize('name', NAMES)
def test_a_name_is_printed_as_it_is(compiled, name):
    assert expected(name) in bare(compiled[0])


def test_every_title_cell_and_legend_is_printed(compiled):
    printed = bare(compiled[0])
    frames = frames_of([])
    for frame in frames.values():
        assert bare(re.sub(r'^Table \d\. ', '', frame.attrs['title'])) in printed
        for legend in frame.attrs['legend']:
            assert bare(legend) in printed, legend
        for column in ('backbone', 'method', 'setting', 'paper', 'source'):
            for cell in frame.get(column, ()):
                assert bare(cell) in printed, cell


def test_no_line_sticks_out_of_the_page_and_nothing_is_lost(compiled):
    _, log = compiled
    too_wide = [line for line in re.findall(r'Overfull \\hbox \(([\d.]+)pt too wide\)', log)
                if float(line) > OVERFULL]
    assert too_wide == []
    assert not re.search(r'Overfull \\vbox|Float too large|Missing character', log)


def test_the_tables_of_part_quality_compile_and_fit_the_page(tmp_path):
    records = read_results(Path(__file__).parents[2] / 'benchmarks/results/parts')[0]
    frames = part_tables(records)
    text, log = printed(render_parts(frames, 'latex'), tmp_path)
    assert all(bare(f'{title}: {dataset}') in bare(text) for title, dataset, _ in frames)
    assert not re.search(r'Overfull|Float too large|Missing character', log)
