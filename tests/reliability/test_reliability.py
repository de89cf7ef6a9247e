"""The table of failures: the cases that no other test tries, and how the table shows what failed.

Rows that are tested elsewhere: resume, repeat and order in tests/training/test_resume.py; signal in
tests/training/test_stopping.py; images, parts, ratio and labels in
tests/datasets/test_image_reading.py; the rows of attacks.py in test_attacks.py.
"""
import json
import sys
from types import SimpleNamespace

import pytest

from tests.reliability import saving, table
from tests.reliability.case import Case, outcome

pytestmark = pytest.mark.slow

NEW = [(row, name) for row, name, *_ in saving.tries(quick=True)
       if row in ('save', 'newest', 'nan') or name == 'two runs at the same time']
CONTROLS = ('newest', 'one-run', 'other-run', 'images', 'ratio', 'labels', 'malicious', 'archives')


@pytest.fixture(scope='module')
def found(tmp_path_factory):
    """Every entry of the quick table."""
    return table.entries(tmp_path_factory.mktemp('reliability'), quick=True)


@pytest.fixture(scope='module')
def cases(found):
    return {(case.row, case.name): case for is_control, case in found if not is_control}


@pytest.mark.parametrize('row, name', NEW)
def test_a_run_survives_the_failure(cases, row, name):
    assert outcome(cases[row, name].ours)[1].startswith('ok')


@pytest.mark.parametrize('row', CONTROLS)
def test_without_the_mechanism_the_case_fails(found, row):
    controls = [case for is_control, case in found if is_control and case.row == row]
    assert controls
    assert [case.name for case in controls if outcome(case.ours)[0]] == []


@pytest.mark.parametrize('name, said', [
    ('last_checkpoint missing', 'starts from zero'),
    ('newest file, one bit flipped', 'goes on from the damaged file')])
def test_stock_mmengine_is_measured_and_not_quoted(cases, name, said):
    reached, text = outcome(cases['newest', name].stock)
    assert not reached and text.startswith(said)


def test_every_row_but_the_one_of_another_command_has_cases(found):
    assert {case.row for _, case in found} | set(table.ELSEWHERE) == set(table.ROWS)


def test_masks_are_tried_together_and_everything_once(found):
    made = table.tasks(found)
    assert sorted(sum(made, [])) == list(range(len(found)))
    assert [len(numbers) for numbers in made if len(numbers) > 1] == [1000]
    only = table.tasks(found, ['one-run'])
    assert {found[i][1].row for i in sum(only, [])} == {'one-run'}


# ------------------------------------------------------------------ what it shows
def tried(row='save', name='a case', is_control=False, ours=True, why='', stock=None, said=''):
    return dict(row=row, name=name, is_control=is_control, ours=ours, why=why, stock=stock,
                said=said)


def shown(*found, **files):
    record = dict(table.summary(list(found), files or None), quick=False)
    return table.failed(record), table.table(record)


def test_a_table_without_failures_says_so_and_passes():
    failed, text = shown(tried(stock=False, said='starts from zero: 12'), tried(
        stock=False, said='starts from zero: 6'), tried(stock=True, said='ok'), tried(
            is_control=True, ours=False))
    assert not failed and 'Every case survived' in text
    assert '| 3 of 3 | 1 of 1 | 1 of 3 | starts from zero (2) |' in text


def test_a_case_that_failed_is_counted_named_and_fails_the_table():
    failed, text = shown(tried(), tried(name='torn | apart', ours=False, why='loses work'))
    assert failed and '| 1 of 2 | - | - |' in text and '- save, torn \\| apart: loses work' in text
    assert 'Every case survived' not in text


def test_a_control_that_passed_fails_the_table():
    failed, text = shown(tried(), tried(name='no lock', is_control=True, ours=True))
    assert failed and '| 1 of 1 | 0 of 1 |' in text and '- save, control no lock: passed' in text


def test_a_failure_of_the_fuzz_run_is_shown_and_fails_the_table():
    failure = dict(case=7, kind='PNG', file='x.png', verdict='silent', damage='cut off', said='x')
    files = dict(cases=10, seed=0, seconds=1., counts=dict(PNG=dict(same=9, silent=1)))
    assert not shown(tried(), failures=[], **files)[0]
    failed, text = shown(tried(), failures=[failure], **files)
    assert failed and '| 9 of 10 |' in text and '| PNG | 0 | 0 | 9 | 0 | 1 | 0 |' in text
    assert '- 7, PNG, x.png: silent' in text


def test_a_case_that_raises_has_failed_and_says_why():
    assert outcome(lambda: 1 / 0) == (False, 'ZeroDivisionError: division by zero')
    assert outcome(lambda: 'ok, bit-identical') == (True, 'ok, bit-identical')
    assert outcome(lambda: 'goes on from an older file')[0] is False
    assert outcome(lambda: True) == (True, 'ok') and outcome(lambda: False)[0] is False


@pytest.mark.parametrize('broken, status', [(False, 0), (True, 1)])
def test_one_command_tries_all_cases_and_writes_the_table(
        tmp_path, monkeypatch, capsys, broken, status):
    def cases(root, quick):
        assert not list(root.iterdir())
        yield Case('save', 'good', lambda: True, lambda: 'loses it')
        yield Case('one-run', 'raises', lambda: 1 / (not broken))

    fake = SimpleNamespace(__name__='fake', cases=cases,
                           controls=lambda root, quick: [Case('save', 'off', lambda: False)])
    monkeypatch.setattr(table, 'MODULES', [fake])
    out = tmp_path / 'reliability.md'
    monkeypatch.setattr(sys, 'argv', ['table.py', '--out', str(out), '--fuzz', '0', '--quick'])
    assert table.main() == status
    record = json.loads(out.with_suffix('.json').read_text())
    assert record['command'].startswith('python -m tests.reliability.table --out')
    assert record['git_commit'] and record['machine'] and record['versions'] and record['quick']
    assert {row['row']: (row['survived'], row['tried'], row['controls_failed'])
            for row in record['rows']} == {'save': (1, 1, 1), 'one-run': (int(not broken), 1, 0),
                                           'install': (0, 0, 0)}
    assert ('one-run, raises: ZeroDivisionError' in out.read_text()) == broken
    assert out.read_text().strip() in capsys.readouterr().out
