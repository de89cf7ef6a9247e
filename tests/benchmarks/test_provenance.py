"""Committed results lead back to a commit, or say why not; pictures and tables follow them."""
import json
import re
import runpy
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import parts_birds, parts_inside, table3
from benchmarks.collect import collect, tables_of
from benchmarks.provenance import (
    complaint,
    complaints,
    corrected,
    history,
    main,
    result_files,
    sentence,
    write,
)
from benchmarks.report_picture import chromium, note, outdated, require_current, screenshot
from semmae.reporting.part_tables import part_tables, render_parts
from semmae.reporting.provenance import origin_of, origins
from semmae.reporting.report import digest_of, write_report
from semmae.reporting.tables import build_tables, measured
from semmae.results.mmengine_logs import read_everything
from semmae.results.results import append_result, as_line, checksum, read_results

REPO = Path(__file__).resolve().parents[2]

GOOD, OTHER = 'a' * 40, 'b' * 40
HISTORY = frozenset({GOOD, 'c' * 40})
ON_GOOD = 'measured with uncommitted changes on aaaaaaa'
ELSEWHERE = 'measured at bbbbbbb, not in this history'
UNKNOWN = 'measured at a commit that was not recorded'


@pytest.fixture(scope='module')
def commits():
    try:
        return history()
    except FileNotFoundError as error:
        pytest.skip(str(error))


def test_every_committed_result_names_a_commit_of_this_history_or_says_why_not(commits):
    files = result_files()
    assert len(files) >= 7
    wrong = [text for file in files for text in complaints(file, commits)]
    assert not wrong, f'{len(wrong)} lines, first: {wrong[0]}'


@pytest.mark.parametrize('record, needed', [
    (dict(git_commit=GOOD), ''), (dict(git_commit=GOOD + '-dirty'), ON_GOOD),
    (dict(git_commit=OTHER), ELSEWHERE), (dict(git_commit=None), UNKNOWN), ({}, UNKNOWN),
    (dict(git_commit=''), UNKNOWN), (dict(git_commit=7), UNKNOWN),
    (dict(git_commit=GOOD[:7]), 'measured at aaaaaaa, not in this history'),
    (dict(git_commit=OTHER + '-dirty'),
     'measured with uncommitted changes on bbbbbbb, not in this history')])
def test_a_line_needs_a_sentence_exactly_if_its_commit_is_not_a_clean_one_of_the_history(
        record, needed):
    assert sentence(record.get('git_commit'), HISTORY) == needed
    assert bool(complaint(record, HISTORY)) == bool(needed)
    assert complaint(dict(record, provenance=needed or 'measured somewhere'), HISTORY) == (
        '' if needed else
        "provenance is 'measured somewhere', but its commit is clean and in this history")
    for useless in (None, '', 'measured somewhere', 5):
        assert complaint(dict(record, provenance=useless), HISTORY), 'another text does not count'
    assert complaint(json.loads(corrected(as_line(record), HISTORY)), HISTORY) == ''


def test_a_file_is_corrected_where_it_has_to_be_and_nothing_else_changes(tmp_path):
    records = [dict(b=1.10, a='é', git_commit=commit) for commit in (GOOD, OTHER, None)]
    foreign = json.dumps(dict(records[0], git_commit=GOOD + '-dirty')).encode() + b'\n'
    withdrawn = dict(records[0], provenance=ELSEWHERE)
    file = tmp_path / 'results.jsonl'
    before = [*map(as_line, records), foreign, as_line(withdrawn)]
    file.write_bytes(b''.join(before))
    assert len(complaints(file, HISTORY)) == write(file, HISTORY) == 4
    after = file.read_bytes().splitlines(keepends=True)
    assert after[0] == before[0] and after[4] == before[0]
    for old, new, said in zip(before[1:4], after[1:4], (ELSEWHERE, UNKNOWN, ON_GOOD)):
        old, new = json.loads(old), json.loads(new)
        old.pop('crc', None)
        assert new.pop('crc') == checksum(new) and new.pop('provenance') == said
        assert list(new.items()) == list(old.items())
    assert complaints(file, HISTORY) == [] and write(file, HISTORY) == 0


def test_without_a_whole_history_there_is_a_reason_and_no_verdict(tmp_path, monkeypatch, capsys):
    with pytest.raises(FileNotFoundError, match='is not a git checkout'):
        history(tmp_path)

    def run(*command):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)

    commit = ('git', '-c', 'user.name=n', '-c', 'user.email=e@x', 'commit', '--allow-empty', '-m')
    run('git', 'init', 'whole')
    for subject in 'ab':
        subprocess.run([*commit, subject], cwd=tmp_path / 'whole', check=True, capture_output=True)
    run('git', 'clone', '--depth', '1', f'file://{tmp_path}/whole', 'shallow')
    assert len(history(tmp_path / 'whole')) == 2
    (tmp_path / 'whole/inside').mkdir()
    with pytest.raises(FileNotFoundError, match='is not a git root'):
        history(tmp_path / 'whole/inside')
    with pytest.raises(FileNotFoundError, match='the clone is shallow'):
        history(tmp_path / 'shallow')
    monkeypatch.setattr('benchmarks.provenance.history', lambda: history(tmp_path))
    assert main([]) == 2 and capsys.readouterr().err.startswith('provenance.py: error: no history')


# ------------------------------------------------------------------ shown
def test_the_origin_of_a_result_is_its_own_sentence_or_that_of_an_uncommitted_run():
    assert origin_of(dict(git_commit=GOOD)) == origin_of({}) == ''
    assert origin_of(dict(git_commit=None, provenance=None)) == ''
    assert origin_of(dict(git_commit=GOOD + '-dirty')) == ON_GOOD
    assert origin_of(dict(git_commit=OTHER, provenance=ELSEWHERE)) == ELSEWHERE
    dirty = dict(git_commit=GOOD + '-dirty')
    assert origins([dirty] * 2) == [ON_GOOD] and origins([dict(git_commit=GOOD)]) == []
    assert origins([dirty, dict(git_commit=GOOD), dict(git_commit=f'{OTHER}-dirty'), dirty,
                    dict(provenance=ELSEWHERE), dict(provenance='from a mail')]) == [
        f'3 of 6 results {ON_GOOD}, bbbbbbb', '1 of 6 results from a mail',
        f'1 of 6 results {ELSEWHERE}']


def a_line(**changes):
    task = changes.get('task', 'linprobe')
    return dict(dict(
        row=f'{task}/mae_p16', method='MAE', recipe='mae_p16', task=task, dataset='ImageNet-1k',
        split='val', metric='accuracy/top1', value=65.0, unit='%', seed=0,
        protocol=dict(epochs=90, grid=12, num_parts=6), config='c.py', checkpoint='c.pth',
        checkpoint_sha256=str(changes.get('seed')), reduced=False, git_commit=GOOD), **changes)


@pytest.fixture
def results(tmp_path):
    """Two probes and two tests of parts, of each one with a sentence, and a fresh dirty probe."""
    told = dict(git_commit=OTHER, provenance=ELSEWHERE)
    parts = dict(task='parts', metric='parts/ARI')
    for line in (a_line(seed=0), a_line(seed=1, **told), a_line(seed=0, **parts),
                 a_line(seed=1, **parts, **told),
                 a_line(seed=0, row='linprobe/semmae_p16', recipe='semmae_p16', method='SemMAE',
                        git_commit=GOOD + '-dirty')):
        append_result(tmp_path / 'results.jsonl', line)
    return tmp_path


def make_tables(capsys, *words):
    main = runpy.run_path(str(REPO / 'tools' / 'make_tables.py'))['main']
    assert main([str(word) for word in words]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize('format', ['markdown', 'csv', 'html', 'latex'])
def test_tables_note_results_without_a_clean_commit(results, capsys, format):
    text = make_tables(capsys, results, '--table', 1, '--measured', '--format', format)
    assert text.count(f'1 of 2 results {ELSEWHERE}') == 1
    assert text.count(ON_GOOD) == 1 and f'results {ON_GOOD}' not in text


@pytest.mark.parametrize('format', ['markdown', 'csv', 'html', 'latex'])
def test_a_sentence_below_a_table_of_parts_counts_results_without_a_clean_commit(
        results, capsys, format):
    text = make_tables(capsys, results, '--parts', '--format', format)
    assert text.count(f'Code: 1 of 2 results {ELSEWHERE}.') == 1
    (results / 'results.jsonl').write_bytes(as_line(a_line(
        task='parts', metric='parts/ARI', status='ok', time='', fingerprint='x', **{
            'git_commit': GOOD})))
    assert 'Code: ' not in make_tables(capsys, results, '--parts', '--format', format)


def test_the_report_names_them_in_its_head_and_beside_each_protocol(results):
    records, _ = read_results([results])
    page = write_report(results / 'r.html', 'T', records, []).read_text()
    said = f'2 of 5 results {ELSEWHERE}; 1 of 5 results {ON_GOOD}'
    assert f'<dd>{said}</dd>' in page
    assert page.count(f'<p>Code: 1 of 2 results {ELSEWHERE}.</p>') == 2
    assert page.count(f'<p>Code: {ON_GOOD}.</p>') == 1
    clean = write_report(results / 'r.html', 'T', records[:1], []).read_text()
    assert 'Provenance' not in clean and 'Code: ' not in clean


# ------------------------------------------------------------------ what is made of results
RESULTS = REPO / 'benchmarks' / 'results'


def results_of(name):
    return read_results([RESULTS / name])[0]


@pytest.mark.parametrize('name', ['parts/toy', 'parts/cub'])
def test_committed_tables_of_parts_are_those_of_the_results_beside_them(name):
    text = render_parts(part_tables(results_of(name)))
    assert (RESULTS / name / 'tables.md').read_text() == text, (
        f'Run: python tools/make_tables.py benchmarks/results/{name} --parts --out '
        f'benchmarks/results/{name}/tables.md')


def test_the_other_committed_tables_are_those_of_the_results_beside_them():
    inside = parts_inside.table(results_of('parts/inside'))
    assert (RESULTS / 'parts/inside/table.md').read_text() == inside
    birds = parts_birds.table(results_of('parts/birds'))
    assert (RESULTS / 'parts/birds/table.md').read_text() == birds
    for name in ('true', 'learned'):
        shown = table3.table(name, table3.accuracies(results_of(f'table3/{name}')))
        assert (RESULTS / f'table3/{name}/tables.md').read_text().startswith(shown)


def rows_of(text):
    """Lines of Markdown; tables without bold, widths and 'to the best', which needs predictions."""
    lines, left_out = [], None
    for line in text.splitlines():
        cells = [cell.strip().strip('*') for cell in re.split(r'(?<!\\)\|', line)]
        if not line.startswith('|'):
            left_out = None
        elif left_out is None:
            left_out = cells.index('to the best') if 'to the best' in cells else -1
        if line.startswith('|'):
            line = [cell.lstrip(':-') for k, cell in enumerate(cells) if k != left_out]
        lines.append(line)
    return lines


def test_the_tables_of_the_mini_suite_are_those_of_its_results():
    text, made = (RESULTS / 'mini/tables.md').read_text(), tables_of(RESULTS / 'mini')
    assert rows_of(text) == rows_of(made), (
        'Run: python benchmarks/collect.py work_dirs/mini_tables --out benchmarks/results/mini')
    if (RESULTS / 'mini/predictions').is_dir():  # not in git; intervals over images need them
        assert text == made


def test_tables_of_other_results_differ_and_intervals_are_not_compared():
    text = (RESULTS / 'mini/tables.md').read_text()
    value = re.search(r'(\d\d\.\d\d) ± ', text)[1]
    assert rows_of(text) != rows_of(text.replace(value, '12.34'))
    assert rows_of(text) != rows_of(text.replace('(n=3)', '(n=2)'))
    lead = re.search(r'\[seeds [^|]*', text)[0]
    assert rows_of(text) == rows_of(text.replace(lead, '[seeds -9.99, +9.99]'))


def test_the_report_of_the_mini_suite_is_of_its_results():
    report, records = RESULTS / 'mini/report.html', results_of('mini')
    require_current(report)
    shown = re.findall('<td class="ours">(.*?)</td>', report.read_text())
    expected = [cell for frame in measured(build_tables(records)).values()
                for cell in frame['ours']]
    assert [re.sub('<.*?>', '', cell) for cell in shown] == expected and len(expected) >= 7


def test_a_report_of_other_results_is_refused(results, tmp_path):
    report = write_report(results / 'report.html', 'T', read_results([results])[0], [])
    require_current(report)
    append_result(results / 'results.jsonl', a_line(seed=5))
    with pytest.raises(ValueError, match='was made of other results than those beside it. Run: '):
        require_current(report)
    report.write_text('<html></html>')
    with pytest.raises(ValueError, match='was made of other results than those beside it'):
        require_current(report)


def test_results_that_were_collected_have_the_digest_of_those_in_their_work_dirs(results, tmp_path):
    for seed in (0, 1):
        append_result(tmp_path / f'work/seed{seed}/results.jsonl', a_line(seed=seed))
    assert collect([tmp_path / 'work'], tmp_path / 'out') == 2
    digest = digest_of(read_everything([tmp_path / 'work'])[0])
    assert digest_of(read_results([tmp_path / 'out'])[0]) == digest
    assert digest_of(read_results([results])[0]) != digest


def test_collected_results_name_files_without_the_folders_of_a_machine(tmp_path):
    line = a_line(checkpoint='/home/me/c.pth', load_report=dict(path='/data/vit.pth', matched=1))
    append_result(tmp_path / 'work/results.jsonl', line)
    append_result(tmp_path / 'work/results.jsonl', a_line(seed=1, checkpoint='work_dirs/c.pth'))
    collect([tmp_path / 'work'], tmp_path / 'out')
    found = {r['checkpoint']: r['load_report'] for r in read_results([tmp_path / 'out'])[0]}
    assert found == {'c.pth': dict(path='vit.pth', matched=1), 'work_dirs/c.pth': None}


# ------------------------------------------------------------------ pictures
def test_no_picture_in_docs_is_older_than_the_results_it_shows():
    assert outdated(REPO / 'docs/pictures.json') == []


def test_every_picture_that_shows_results_names_them():
    entries = json.loads((REPO / 'docs/pictures.json').read_text())
    assert {'benchmarks/results/mini/results.jsonl', 'benchmarks/results/mini/report.html'} == set(
        entries['report.png']['sources'])
    assert all(entry['sources'] or entry['shows'].endswith('no result')
               for entry in entries.values())


def test_a_picture_is_outdated_when_its_results_change_or_it_is_replaced_or_not_listed(tmp_path):
    index, picture = tmp_path / 'docs/pictures.json', tmp_path / 'docs/a.png'
    index.parent.mkdir()
    index.write_text('{}')
    picture.write_bytes(b'picture')
    source = tmp_path / 'results.jsonl'
    source.write_text('1')
    assert outdated(index) == ['a.png is not in pictures.json']
    note(index, picture, [source], 'make a.png')
    assert outdated(index) == []
    source.write_text('12')
    assert outdated(index) == ['a.png: results.jsonl changed since it was made. Run: make a.png']
    source.unlink()
    picture.write_bytes(b'another')
    assert outdated(index) == [
        'a.png: a.png, results.jsonl changed since it was made. Run: make a.png']
    picture.unlink()
    assert outdated(index) == ['a.png is in pictures.json and not beside it']


def test_a_screenshot_is_the_beginning_of_a_page(results, tmp_path):
    try:
        chromium()
    except FileNotFoundError:
        pytest.skip('no chromium on this machine')
    page, out = tmp_path / 'page.html', tmp_path / 'page.png'
    page.write_text('<body style="margin: 0; background: rgb(10, 200, 30)"></body>')
    screenshot(page, out, (300, 200))
    with Image.open(out) as picture:
        assert picture.size == (300, 200) and picture.convert('RGB').getpixel((150, 199)) == (
            10, 200, 30)


def test_without_a_browser_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setenv('SEMMAE_CHROMIUM', 'no-such-browser')
    with pytest.raises(FileNotFoundError, match='no Chromium at no-such-browser. Run: apt-get ins'):
        chromium()
