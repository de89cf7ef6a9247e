"""Every result as data: one line for each mean, as CSV or JSON."""
import csv
import io
import json

import pytest

from semmae.reporting.long import COLUMNS, long_lines, long_text
from semmae.results.results import append_result

from ..tiny import tool
from .records import a_record

RECORDS = [*(a_record(value=float(value), seed=value) for value in (1, 2, 3)),
           a_record('linprobe/semmae_p16', value=9.5),
           a_record(value=7., seed=4, status='failed'),
           a_record(value=8., seed=0, protocol={'input_size': 32})]


def test_a_line_has_mean_spread_and_the_t_interval_of_the_runs_that_may_be_averaged():
    lines = long_lines(RECORDS)
    assert [line['n'] for line in lines] == [3, 1, 1]
    first = lines[0]
    # t(0.975, 2 degrees of freedom) = 4.302653; standard error 1 / sqrt(3)
    assert (first['mean'], first['std'], first['seeds']) == (2, 1, [1, 2, 3])
    assert first['low'] == pytest.approx(2 - 4.302653 / 3 ** .5, abs=1e-5)
    assert first['high'] == pytest.approx(2 + 4.302653 / 3 ** .5, abs=1e-5)
    for line in lines[1:]:
        assert line['std'] is line['low'] is line['high'] is None
    assert lines[0]['protocol'] != lines[1]['protocol']


def test_csv_and_json_hold_the_same_lines():
    read = list(csv.DictReader(io.StringIO(long_text(RECORDS, 'long'))))
    lines = json.loads(long_text(RECORDS, 'json'))
    assert lines == long_lines(RECORDS) and len(read) == len(lines)
    for row, line in zip(read, lines):
        assert tuple(row) == COLUMNS == tuple(line)
        assert float(row['mean']) == line['mean'] and row['row'] == line['row']
        assert row['seeds'] == ' '.join(map(str, line['seeds']))
        assert row['std'] == ('' if line['std'] is None else str(line['std']))


def test_the_command_prints_them_and_refuses_flags_that_choose_tables(tmp_path):
    append_result(tmp_path / 'results.jsonl', a_record())
    done = tool('make_tables', tmp_path, '--format', 'json')
    assert done.returncode == 0 and json.loads(done.stdout)[0]['mean'] == 65
    done = tool('make_tables', tmp_path, '--format', 'long', '--out', tmp_path / 'x.csv')
    assert done.stdout == f'1 results: {tmp_path / "x.csv"}\n'
    assert (tmp_path / 'x.csv').read_text().startswith('row,method,')
    done = tool('make_tables', tmp_path, '--format', 'json', '--measured')
    assert done.returncode == 2 and 'holds every result' in done.stderr


def test_the_status_is_3_where_no_result_can_be_read(tmp_path):
    assert tool('make_tables', tmp_path).returncode == 0  # an empty folder
    assert tool('make_tables', tmp_path, '--format', 'json').returncode == 3
    (tmp_path / 'results.jsonl').write_text('{"row": \n')
    done = tool('make_tables', tmp_path)
    assert done.returncode == 3 and done.stdout == '' and '1 of 1 lines damaged' in done.stderr
