"""What a running suite shows: the step of each row, elapsed and estimated times."""
import io

import pytest
from rich.console import Console

from semmae.suites import display as module
from semmae.suites.display import Display, name_of
from semmae.suites.rows import Train
from semmae.suites.schedule import Run, plan
from semmae.suites.start import clock, in_words, last_step

from .conftest import command, little, quiet

EPOCH = ('11/28 09:25:20 - mmengine - INFO - Epoch(train)  [{}][46/46]  lr: 8.9e-09 '
         ' eta: {}  time: 0.2282  data_time: 0.0222  loss: 0.5077  grad_norm: 0.2570\n')
ITER = ('11/28 09:27:31 - mmengine - INFO - Iter(train) [220/240]  lr: 1.0e-05  eta: 0:00:09  '
        'time: 0.28  loss: 1.1451  decode.loss_ce: 0.7859\n')
STARTED = '==== 2026-11-28 09:25:22 started ====\n'


@pytest.mark.parametrize('text, said, left', [
    ('', 'running', None), ('Loading\n', 'running', None),
    (EPOCH.format(3, '0:01:05'), 'epoch 3 of 16, step 46/46, loss 0.5077', 65),
    (EPOCH.format(3, '0:01:05') + EPOCH.format(4, '1 day, 1:00:00'),
     'epoch 4 of 16, step 46/46, loss 0.5077', 90000),
    (ITER, 'step 220 of 16, loss 1.1451', 9)])
def test_the_last_training_line_since_the_last_start_says_how_far_a_row_is(
        tmp_path, text, said, left):
    log = tmp_path / 'console.log'
    log.write_text(STARTED + EPOCH.format(9, '0:00:01') + STARTED + text)
    assert last_step(log, 16) == (said, left)
    log.write_text('x' * 100_000 + STARTED + text)
    assert last_step(log, 16) == (said, left)


def test_times_are_minutes_and_seconds_and_have_hours_where_there_are_some():
    assert [clock(seconds) for seconds in (0, 59.6, 3599, 3661)] == [
        '0:00', '1:00', '59:59', '1:01:01']
    assert in_words('running', 61, None) == 'running, 1:01 elapsed'
    assert in_words('running', 61, 5) == 'running, 1:01 elapsed, about 0:05 left'


@pytest.fixture
def short_names(monkeypatch):
    monkeypatch.setattr(module, 'name_of', lambda run: f'seed0_{run.id}')


def four_rows(tmp_path):
    """Trainings a and b of one config, a training c of another, and a command d, by their names."""
    rows = [Train('a', 'p', 'x.py'), Train('b', 'p', 'x.py'), Train('c', 'p', 'y.py'),
            command('d', 'pass')]
    runs = [Run(row, [], tmp_path / f'seed0/{row.id}', tmp_path / f'seed0/{row.id}/p', [],
                length=16) for row in rows]
    return {module.name_of(run): run for run in runs}


def show(display, what, name, text=''):
    display.show(dict(what=what, name=name, row=name.removeprefix('seed0_'), text=text))


def test_a_row_is_estimated_by_its_log_then_by_rows_of_its_config_then_by_all(
        tmp_path, monkeypatch, short_names):
    now = [1000.]
    monkeypatch.setattr(module.time, 'time', lambda: now[0])
    runs = four_rows(tmp_path)
    display = Display(runs.values(), 2, quiet())
    assert display.seconds_left({}) is None, 'nothing is known yet'
    show(display, 'start', 'seed0_a')
    now[0] += 100
    runs['seed0_a'].product.parent.mkdir(parents=True)
    runs['seed0_a'].product.touch()
    show(display, 'done', 'seed0_a', 'in 100 s')
    show(display, 'start', 'seed0_c')
    now[0] += 20
    steps = {'seed0_c': module.Step('epoch 1 of 16', 180.)}
    assert display.left('seed0_c', steps) == 180
    assert display.left('seed0_b', steps) == 100
    assert display.left('seed0_d', steps) == (100 + 200) / 2
    assert display.seconds_left(steps) == (180 + 100 + 150) / 2
    assert display.summary(steps) == '1 of 4 rows done, 2:00 elapsed, about 3:35 left'


def test_rows_of_earlier_workflows_are_known(tmp_path):
    runs = four_rows(tmp_path)
    display = Display(runs.values(), 1, quiet())
    display.remember(dict(what='done', name='seed0_a', row='a', text='in 40 s'))
    display.remember(dict(what='done', row='b', text='in 10 s'))  # of a version without names
    assert display.took == {'seed0_a': 40}


def test_a_terminal_shows_running_rows_and_a_pipe_gets_plain_lines(
        tmp_path, monkeypatch, short_names):
    monkeypatch.setattr(module, 'REDRAW_EVERY', 0)
    monkeypatch.setattr(module, 'REPORT_EVERY', 0)
    runs, said = four_rows(tmp_path), {}
    log = runs['seed0_a'].log
    log.parent.mkdir(parents=True)
    log.write_text(STARTED + EPOCH.format(4, '0:01:05'))
    for is_terminal in (True, False):
        console = Console(file=io.StringIO(), width=120, force_terminal=is_terminal)
        display = Display(runs.values(), 2, console)
        with display.live or console:
            show(display, 'start', 'seed0_a', '(log)')
            show(display, 'progress', 'seed0_a', 'epoch 4')
            display.refresh()
        said[is_terminal] = console.file.getvalue()
    assert 'epoch 4 of 16, step 46/46, loss 0.5077, 0:00 elapsed, about 1:05 left' in said[True]
    assert 'all rows' in said[True] and '0 of 4 rows done' in said[True]
    assert said[False].splitlines() == [
        'start a (log)', '  a epoch 4', '0 of 4 rows done, 0:00 elapsed, about 2:10 left']


def test_rows_of_two_seeds_have_names_of_their_own(tmp_path):
    rows = command('task/one', 'pass'), command('one', 'pass')
    names = [name_of(run) for run in plan(little(*rows), tmp_path, seeds=(0, 1))]
    assert len({*names}) == 4 and ['seed' in name for name in names] == [True] * 4
