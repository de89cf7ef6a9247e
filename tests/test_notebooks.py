"""Every notebook of docs/notebooks runs from its first cell to its last, in an empty folder."""
import os
import shlex
import sys
from pathlib import Path

import matplotlib
import nbformat
import pytest

from semmae.commands import main

from .tiny import REPO, fork, wait

NOTEBOOKS = sorted((REPO / 'docs/notebooks').glob('*.ipynb'))
every_notebook = pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)


def command(line):
    """Run ``semmae ...`` in this process; NAME=VALUE in front of it is for the environment."""
    words = shlex.split(line)
    while '=' in words[0]:
        name, _, value = words.pop(0).partition('=')
        os.environ[name] = value
    assert words[0] == 'semmae', line
    try:
        status = main(words[1:])
    except SystemExit as end:
        status = end.code
    assert not status, f'{line}: status {status}'


def python_of(cell):
    """The source of a cell with ``!semmae ...`` as a call."""
    return '\n'.join(f'_command({line[1:]!r})' if line.startswith('!') else line
                     for line in cell.source.replace('\\\n', ' ').splitlines())


def run(path):
    """Run the code cells of a notebook in one namespace, in the working directory."""
    matplotlib.use('Agg')
    sys.path.insert(0, '')  # as in Jupyter
    names = dict(__name__='__main__', _command=command)
    for number, cell in enumerate(nbformat.read(path, as_version=4).cells):
        if cell.cell_type == 'code':
            exec(compile(python_of(cell), f'{path.name}, cell {number}', 'exec'), names)


@pytest.mark.slow
@every_notebook
def test_a_notebook_runs(path, tmp_path):
    def action():
        os.chdir(tmp_path)
        run(path)
    assert wait(fork(action, tmp_path / 'said.txt')) == 0, (
        tmp_path / 'said.txt').read_text()[-2500:]


@pytest.mark.parametrize('source', ['1 / 0', '!semmae tables nothing', 'import none'])
def test_a_cell_that_fails_fails_the_test(source, tmp_path):
    cells = [nbformat.v4.new_markdown_cell('x'), nbformat.v4.new_code_cell(source)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / 'a.ipynb')
    child = fork(lambda: run(tmp_path / 'a.ipynb'), tmp_path / 'said.txt')
    assert wait(child) != 0 and 'cell 1' in (tmp_path / 'said.txt').read_text()


@every_notebook
def test_a_notebook_is_valid_and_has_no_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == 'code']
    assert code and not any(cell.outputs or cell.execution_count for cell in code)
    assert max(len(line) for cell in notebook.cells if cell.cell_type == 'markdown'
               for line in cell.source.splitlines()) <= 120


def test_the_page_of_notebooks_links_each():
    text = Path(REPO / 'docs/notebooks.md').read_text()
    assert len(NOTEBOOKS) == 3 and all(f'(notebooks/{path.name})' in text for path in NOTEBOOKS)
