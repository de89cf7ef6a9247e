"""Part quality in tables: mean, spread and n; protocols apart; text escaped."""
import json

import pytest

from semmae.reporting.part_tables import health_of, part_tables, render_parts
from semmae.reporting.tables import build_tables
from semmae.results.protocol import fingerprint
from semmae.results.results import append_result

from ..tiny import tool

NOTE = '6 parts, 12x12 patches, val'


def line(method, value, seed=0, metric='parts/ARI', fingerprint='a', grid=12, **more):
    return dict(dict(task='parts', method=method, recipe=method,
                     row=f'parts/{method}', time='', dataset='toy', metric=metric, value=value,
                     seed=seed, fingerprint=fingerprint, status='ok', split='val',
                     protocol=dict(grid=grid, num_parts=6)), **more)


def test_a_cell_is_mean_spread_and_number_of_seeds_and_the_best_comes_first():
    frames = part_tables([line('a', 10, 0), line('a', 20, 1), line('b', 30)])
    (key, frame), = frames.items()
    assert key == ('Parts, all patches', 'toy', NOTE)
    assert frame.to_dict() == {'ARI': {'b': '30.0', 'a': '15.0 ± 7.1 (2)'}}
    assert list(frame.index) == ['b', 'a']


def test_other_protocols_and_other_tasks_do_not_share_a_table():
    frames = part_tables([line('a', 1), line('a', 2, fingerprint='b', grid=8),
                          line('a', 3, task='linprobe'), line('a', None, status='non-finite')])
    assert [key[2] for key in frames] == [f'6 parts, {g}x{g} patches, val' for g in (12, 8)]
    assert [frame.ARI.item() for frame in frames.values()] == ['1.0', '2.0']


def test_learners_of_the_same_name_are_not_averaged_and_a_learner_trained_again_counts_once():
    frames = part_tables([line('a', 1), line('a', 5, recipe='b', row='parts/b'),
                          line('a', 3, time='later')])
    (frame,) = frames.values()
    assert frame.ARI.to_dict() == {'a [b]': '5.0', 'a [a]': '3.0'}


def test_a_value_that_was_not_measured_is_an_empty_cell():
    frames = part_tables([line('a', 1), line('b', 2), line('b', 3, metric='parts/NMI')])
    assert next(iter(frames.values())).loc['a', 'NMI'] == ''


@pytest.mark.parametrize('format, literal, dataset', [
    ('markdown', r'a_b\|c &lt;script>', '50% &amp; #'),
    ('html', 'a_b|c &lt;script&gt;', '50% &amp; #'), ('csv', 'a_b|c <script>', '50% & #'),
    ('latex', r'a\_b\textbar{}c \textless{}script\textgreater{}', r'50\% \& \#')])
def test_names_come_out_literally_in_every_format(format, literal, dataset):
    frames = part_tables([line('a_b|c <script>', 1, dataset='50% & #')])
    text = render_parts(frames, format).replace(r'\allowbreak{}', '')
    assert literal in text and '1.0' in text and dataset in text
    assert render_parts({}, format) == ''


def test_the_tables_of_the_paper_leave_part_quality_to_its_own(tmp_path):
    assert build_tables([line('a', 1, row='parts/a')]).keys() == build_tables([]).keys()


def test_make_tables_prints_them(tmp_path):
    append_result(tmp_path / 'results.jsonl', dict(
        line('a', 12.5), row='parts/a', recipe='a', unit='%', config='c', checkpoint=None,
        checkpoint_sha256=None, reduced=True, fingerprint=fingerprint(line('a', 1)['protocol'])))
    out = tool('make_tables', tmp_path, '--parts')
    assert '12.5' in out.stdout and 'Parts, all patches' in out.stdout


def test_a_sentence_states_the_health_of_part_learning_at_its_end(tmp_path):
    path = tmp_path / 'part_health.jsonl'
    health = dict(epoch=1, coverage=[.7, .3], largest_share=.8, num_empty=.1, entropy=.5,
                  off_diagonal_cosine=.25, logit_std=1.5, explained=.9, collapsed=[])
    path.write_text(json.dumps(health) + '\n')
    said, frame = health_of(path)
    assert 'not collapsed' in said and frame['share of each part'].item() == '70% 30%'
    path.write_text(json.dumps(dict(health, collapsed=['one part holds 97% of an image'])) + '\n')
    assert health_of(path)[0].endswith('collapsed or failed: one part holds 97% of an image.')


@pytest.mark.parametrize('content', [
    b'', b'{"epoch"', b'[1]', b'{"epoch": 1}', b'\xff', b'[' * 100_000])
def test_a_damaged_record_of_part_learning_is_named(tmp_path, content):
    path = tmp_path / 'part_health.jsonl'
    path.write_bytes(content)
    with pytest.raises(ValueError, match='part_health.jsonl is not a health log of part learning'):
        health_of(path)


def test_reduced_and_full_runs_and_other_protocols_stand_apart_and_none_is_lost():
    lines = [line('parts', 50, reduced=True, reduced_why='3 of 400 epochs'),
             line('parts', 90, seed=1), line('parts', 70, seed=2, fingerprint='b')]
    frames = part_tables(lines)
    values = [frame.iloc[0, 0] for frame in frames.values()]
    assert sorted(values) == ['50.0', '70.0', '90.0']
