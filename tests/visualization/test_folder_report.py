"""tools/make_report.py: title and notes say what the results say; nothing to show is a mistake."""
from html import unescape

import pytest

from semmae.results.results import append_result
from semmae.visualization.folder_report import write_folder_report
from semmae.visualization.report_notes import about, title_of

from ..tiny import tool


def a_record(**changes):
    return dict(dict(
        row='linprobe/mae_p16', method='MAE', recipe='mae_p16', task='linprobe',
        dataset='ImageNet-1k', split='val', metric='accuracy/top1', value=65.0, unit='%', seed=0,
        protocol=dict(input_size=[224, 224], arch='base', patch_size=16), config='c.py',
        checkpoint='c.pth', checkpoint_sha256='aa', reduced=False, reduced_why=''), **changes)


SMALL = a_record(
    row='cub/mae_p16', task='cub', dataset='CUB', seed=3, reduced=True,
    reduced_why='pre-training: 2 of 800 epochs; 3 of 100 epochs',
    protocol=dict(input_size=96),
    model=dict(width=192, depth=12, patch_size=8, pixels=96, parameters=5_500_000))


def test_title_and_notes_are_of_the_results_and_not_of_another_suite(tmp_path):
    for record in (a_record(), SMALL):
        append_result(tmp_path / 'results.jsonl', record)
    html = unescape(write_folder_report(tmp_path, 'none', tmp_path / 'report.html').read_text())
    head = html[html.index('<h1>'):html.index('<nav')]
    assert '<h1>Results on CUB; ImageNet-1k</h1>' in head
    assert ('<p>2 seeds; images of 96, 224 pixels a side; networks: vit-base, 16x16 patches, '
            'vit-tiny, 8x8 patches, 5.5 million parameters.</p>') in head
    assert ("<p>1 of 2 results are reduced, smaller than the paper's. Pre-training: 2 of 800 "
            'epochs. cub on CUB: 3 of 100 epochs.</p>') in head
    for wrong in ('mini', 'half a million', 'every stage'):
        assert wrong not in head


def test_all_results_reduced_and_none_reduced_are_told_apart():
    assert not any('reduced' in text for text in about([a_record()]))
    *_, why, meaning = about([SMALL, dict(SMALL, reduced_why='5 of 100 epochs')])
    assert why.startswith('All results are reduced') and 'cub on CUB: 3 of 100 epochs; or 5 of ' \
        '100 epochs.' in why
    assert meaning.startswith('Reduced runs show that every stage runs')
    assert about([dict(SMALL, reduced_why=None)])[1].endswith('do not say in what.')


def test_what_results_do_not_say_is_left_out(tmp_path):
    bare = dict(a_record(seed=None, protocol={}), source='x')
    assert about([bare]) == [] and about([]) == []
    assert title_of(tmp_path / 'mine', []) == 'Pictures of mine'
    parts = dict(bare, task='parts', dataset='toy')
    assert title_of(tmp_path, [bare, parts]) == 'Results on ImageNet-1k'
    assert title_of(tmp_path, [parts]) == 'Results on toy'
    many = [dict(bare, dataset=f'set {k}') for k in range(9)]
    assert title_of(tmp_path, many).endswith('set 5; and 3 more')


@pytest.mark.parametrize('is_named', [False, True])
def test_an_empty_folder_is_refused_in_one_line_and_nothing_is_written(tmp_path, is_named):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'empty/notes.txt').touch()
    out = ['--out', tmp_path / 'new/report.html'] if is_named else []
    for folder, said in (('empty', 'holds no result and no files for pictures'),
                         ('absent', 'no folder at'), ('empty/notes.txt', 'is a file, expected')):
        done = tool('make_report', tmp_path / folder, *out)
        assert done.returncode == 2 and done.stdout == ''
        message, *rest = done.stderr.splitlines()
        assert said in message and str(tmp_path / folder) in message
        assert rest in ([], ['(SEMMAE_TRACEBACK=1 shows where)'])
        assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob('*')) == [
            'empty', 'empty/notes.txt']


def test_results_that_are_all_damaged_are_named(tmp_path):
    (tmp_path / 'results.jsonl').write_text('{"row": \n')
    done = tool('make_report', tmp_path)
    assert done.returncode == 2 and '1 of 1 lines damaged' in done.stderr
    assert not (tmp_path / 'report').exists()
