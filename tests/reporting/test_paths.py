"""PATHs of tools/make_tables.py: a file without results is an error, an empty folder is not."""
import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semmae.results.results import append_result

from ..tiny import REPO
from .records import a_record

RECORD = a_record()


@pytest.fixture(scope='module')
def make_tables():
    return runpy.run_path(str(REPO / 'tools' / 'make_tables.py'))['main']


def png(path):
    Image.fromarray(np.arange(3000, dtype=np.uint16).astype(np.uint8).reshape(25, 40, 3)).save(path)


def damaged(path):
    append_result(path, RECORD)
    path.write_text(path.read_text().replace('65.0', '66.0'))


FILES = {  # name: (what writes it, what the message says of it)
    'README.md': (lambda path: path.write_text('# A text\n\nof two lines\n'),
                  '2 of 2 lines damaged and skipped (lines 1, 3)'),
    'picture.png': (png, 'lines damaged and skipped'),
    'empty.jsonl': (Path.touch, 'it is empty'),
    'blank.jsonl': (lambda path: path.write_text('\n\n'), 'it is empty'),
    'random.bin': (lambda path: path.write_bytes(bytes(range(256)) * 9), 'damaged and skipped'),
    'other.json': (lambda path: path.write_text(json.dumps([1, 2])), '1 of 1 lines damaged'),
    'log.jsonl': (lambda path: path.write_text('{"loss": 1.0}\n' * 3),
                  '3 of 3 lines skipped: lacks row, method, recipe'),
    'results.jsonl': (damaged, '1 of 1 lines changed since they were written (crc)')}


@pytest.mark.parametrize('name', FILES)
@pytest.mark.parametrize('beside', [True, False])
def test_a_file_without_a_single_result_is_refused_in_one_line(
        name, beside, make_tables, tmp_path, capsys):
    write, said = FILES[name]
    write(tmp_path / name)
    append_result(tmp_path / 'good/results.jsonl', RECORD)
    out = tmp_path / 'tables.md'
    paths = [str(tmp_path / name)] + [str(tmp_path / 'good')] * beside
    assert make_tables([*paths, '--out', str(out)]) == 2
    printed = capsys.readouterr()
    assert printed.out == '' and not out.exists() and printed.err.count('\n') == 1
    assert printed.err.startswith(f'make_tables.py: error: {tmp_path / name} holds no result: ')
    assert said in printed.err
    assert 'Expected a results.jsonl, or a folder with some' in printed.err


def test_a_file_with_some_damaged_lines_is_read_with_a_warning(make_tables, tmp_path, capsys):
    file = tmp_path / 'mine.txt'
    append_result(file, RECORD)
    file.write_text(file.read_text() + '{"torn": \n')
    assert make_tables([str(file), '--measured']) == 0
    printed = capsys.readouterr()
    assert '65.00 (n=1)' in printed.out
    assert printed.err.startswith(f'warning: {file}: 1 of 2 lines damaged and skipped (line 2)')


def test_a_file_whose_results_stand_in_another_file_too_is_no_mistake(
        make_tables, tmp_path, capsys):
    append_result(tmp_path / 'old.jsonl', RECORD)
    append_result(tmp_path / 'new.jsonl', dict(RECORD, value=66.0, time='2025-01-02T00:00:00Z'))
    assert make_tables([str(tmp_path / 'old.jsonl'), str(tmp_path / 'new.jsonl')]) == 0
    printed = capsys.readouterr()
    assert '66.00 (n=1)' in printed.out and printed.err == ''


def test_an_empty_folder_prints_the_papers_numbers_and_says_so_in_one_line(
        make_tables, tmp_path, capsys):
    assert make_tables([str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert '65.0' in printed.out and printed.err.count('\n') == 1
    assert printed.err.startswith(f'no result found below {tmp_path}: every cell of ours is empty.')
