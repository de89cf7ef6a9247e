import csv
import io
import re
import shlex

import pytest

from semmae.reporting.elsewhere import COLUMNS, published_tables
from semmae.reporting.render import FORMATS, render, sections
from semmae.reporting.report import write_report
from semmae.reporting.tables import OTHER, TITLES, build_tables, conflicts, measured
from semmae.results.protocol import anchor
from semmae.results.results import append_result, read_results

from ..tiny import tool
from .records import Page, a_record

DINOV2, DINO = 'vit_small_patch14_dinov2', 'vit_small_patch16_dino'
CHOSEN = 'best of 52 settings on 10 % of the training images'
MEASURED = {  # task: (dataset, metric, unit)
    'knn': ('CUB-25', 'accuracy/top1', '%'), 'linear': ('CUB-25', 'accuracy/top1', '%'),
    'seg_linear': ('CamVid', 'mIoU', '%'), 'depth_linear': ('NYUv2', 'rmse', 'm')}
CONFIGS = {'CUB-25': 'cub25', 'CamVid': 'camvid', 'NYUv2': 'nyu'}
KNN, SEG, DEPTH = ('k-NN, CUB-25', 'linear segmentation, CamVid (mIoU)',
                   'linear depth, NYUv2 (rmse in m)')


def runs(task, name, values, **changes):
    """Results of several seeds; ``changes`` replace fields of all of them."""
    dataset, metric, unit = MEASURED.get(task, MEASURED['knn'])
    config = f"mm_configs/dense/dense_{CONFIGS.get(dataset, 'other')}.py"
    network = {'model.backbone.model_name': name} if name.startswith('vit') else {}
    fields = dict(task=task, method=name, config=config, pretraining=dict(identity=network),
                  recipe=name.lower(), dataset=dataset, metric=metric, unit=unit, split='test',
                  kind='trained', tables=['dense'],
                  protocol={'input_size': 224, 'selection': CHOSEN}) | changes
    return [a_record(f"{task}/{fields['recipe']}", value=value, seed=seed, **fields)
            for seed, value in enumerate(values)]


def two_backbones():
    return [*runs('depth_linear', DINOV2, [.40, .41, .42]),
            *runs('depth_linear', DINO, [.50, .51, .52]),
            *runs('knn', DINOV2, [80.0, 80.1, 80.2]), *runs('knn', DINO, [80.0, 80.2, 80.1]),
            *runs('seg_linear', DINOV2, [62.0, 62.1, 62.2]),
            *runs('seg_linear', DINO, [60.0, 60.1, 60.2])]


def dense(records):
    return build_tables(records)['dense']


def commands(frame):
    return [shlex.split(command) for _, command in frame.attrs['commands']]


def test_backbones_are_rows_and_tasks_are_columns_by_classification_segmentation_depth():
    frame = dense(two_backbones())
    assert list(frame) == ['backbone', KNN, SEG, DEPTH]
    assert frame.values.tolist() == [
        [DINOV2, '80.10 ± 0.10 (n=3)', '62.10 ± 0.10 (n=3)', '0.41 ± 0.01 (n=3)'],
        [DINO, '80.10 ± 0.10 (n=3)', '60.10 ± 0.10 (n=3)', '0.51 ± 0.01 (n=3)']]
    assert frame.attrs['commands'] == [] == frame.attrs['conflicts']


def test_the_best_of_a_column_is_bold_and_for_rmse_it_is_the_lowest():
    frames = build_tables(two_backbones())
    assert frames['dense'].attrs['bold'] == [(0, SEG), (0, DEPTH)]  # k-NN: equal means
    text = f'Lower is better: {DEPTH}.'
    assert all(text in frames[name].attrs['legend'] for name in ('dense', 'dense-differences'))
    rows = frames['dense-differences']
    # Welch by hand, as in test_tables: error sqrt(2 * .01 / 3) = .0816, t = 2.776, product .2267
    assert rows[SEG].tolist() == ['best', '-2.00 [seeds -2.23, -1.77]']
    assert rows[DEPTH].tolist() == ['best', '+0.1 [seeds +0.0773, +0.123]']
    assert rows[KNN].tolist() == ['best; within noise', '+0.00 [seeds -0.23, +0.23]; within noise']
    other = [dict(record, metric='error', unit='m') for record in two_backbones()]
    assert 'dense-differences' not in build_tables(other)  # a metric of unknown direction


def test_probes_of_one_checkpoint_are_never_bold():
    records = [dict(r, load_report=dict(sha256=r['method'])) for r in two_backbones()]
    frames = build_tables(records)
    assert frames['dense'].attrs['bold'] == []
    assert frames['dense'][SEG][0] == '62.10 ± 0.10 (n=3, pre-trainings: 1)'
    assert frames['dense-differences'][SEG][0] == 'best; one pre-training'


def test_results_under_another_protocol_have_a_row_of_their_own_and_are_not_compared():
    other = runs('knn', DINO, [90.0, 91.0, 92.0], protocol={
        'input_size': 448, 'selection': 'best of 9 settings on 10 % of the training images'})
    frames = build_tables(two_backbones() + other)
    frame = frames['dense']
    assert frame['backbone'].tolist() == [DINOV2, DINO, DINO]
    # The rows of one backbone follow the order of the fingerprints.
    assert sorted(frame[KNN]) == ['80.10 ± 0.10 (n=3) [a]', '80.10 ± 0.10 (n=3) [a]',
                                  '91.00 ± 1.00 (n=3) [b]']
    assert sorted(frame[SEG][1:]) == ['', '60.10 ± 0.10 (n=3)']
    legend = ' '.join(frame.attrs['legend'])
    assert 'knn on CUB-25 (a, b): input_size: a = 224, b = 448; selection: a = best of 52' in legend
    assert f'{KNN}: test split, protocol a {two_backbones()[0]["fingerprint"]}, {CHOSEN}' in legend
    assert f'protocol b {other[0]["fingerprint"]}, best of 9 settings' in legend
    assert sorted(frames['dense-differences'][KNN]) == [
        '', '+0.00 [seeds -0.23, +0.23]; within noise', 'best; within noise']
    assert len(conflicts(frames)) == 1 and frame.attrs['commands'] == []


def test_the_legend_names_the_protocol_and_the_number_of_settings_of_each_column():
    legend = dense(two_backbones()).attrs['legend']
    fingerprint = two_backbones()[0]['fingerprint']
    for name in (KNN, SEG, DEPTH):
        assert f'{name}: test split, protocol {fingerprint}, {CHOSEN}.' in legend


def test_several_data_sets_of_one_task_are_columns_and_no_conflict():
    frame = dense(runs('knn', DINO, [80.0]) + runs('knn', DINO, [70.0], dataset='Cars'))
    assert list(frame) == ['backbone', KNN, 'k-NN, Cars'] and len(frame) == 1
    assert frame.attrs['conflicts'] == []


def test_two_pretrainings_of_one_recipe_are_two_rows_with_a_mark():
    records = [record for gamma in (2, 3) for record in runs(
        'knn', 'SemMAE', [60.0 + gamma], pretraining=dict(identity={'model.masking.gamma': gamma}))]
    frame = dense(records)
    assert sorted(frame[KNN]) == ['62.00 (n=1)', '63.00 (n=1)']
    assert frame['note'].tolist() == ['pre-training p1', 'pre-training p2']
    assert re.search(r'SemMAE has different pre-trainings \(p1, p2\): model\.masking\.gamma [23] / '
                     '[23]', ' '.join(frame.attrs['legend']))


def test_recipes_of_one_method_are_rows_named_by_the_recipe():
    records = [*runs('knn', 'SemMAE', [60.0], recipe='semmae_p8'),
               *runs('knn', 'SemMAE', [61.0], recipe='semmae_p16')]
    assert dense(records)['backbone'].tolist() == ['SemMAE [semmae_p16]', 'SemMAE [semmae_p8]']


def test_an_untrained_backbone_is_a_row_that_says_so():
    frame = dense(two_backbones() + runs('knn', DINO, [9.0, 10.0, 11.0], kind='untrained'))
    assert frame['backbone'].tolist() == [DINOV2, DINO, f'{DINO}, untrained']
    assert frame[KNN][2] == '10.00 ± 1.00 (n=3)'
    assert dense(runs('knn', 'x, untrained', [9.], kind='untrained'))['backbone'][0] == (
        'x, untrained')


def test_empty_cells_name_the_command_that_fills_them():
    frame = dense([*runs('knn', DINO, [80.0]), *runs('knn', 'SemMAE', [60.0], recipe='semmae_p16'),
                   *runs('linear', 'x (a b.pth)', [70.0], recipe='file:a b'),
                   *runs('depth_linear', DINO, [.5]), *runs('linear', DINO, [81.0])])
    assert (frame.set_index('backbone') == '').sum(axis=1).to_dict() == {
        'SemMAE': 2, DINO: 0, 'x (a b.pth)': 2}
    start = ['python', 'tools/run_suite.py', 'dense']
    assert commands(frame) == [
        [*start, '--checkpoint', 'FILE', '--only', 'cub25/linear', 'nyu/depth_linear'],
        [*start, '--checkpoint', 'FILE', '--only', 'cub25/knn', 'nyu/depth_linear']]
    frame = dense([*runs('linear', DINO, [81.0]), *runs('knn', DINOV2, [80.0], method=(
        f'untrained {DINOV2}'))])
    assert sorted(commands(frame)) == sorted([
        [*start, '--timm', DINO, '--checkpoint', 'FILE', '--only', 'cub25/knn'],
        [*start, '--timm', DINOV2, '--untrained', '--only', 'cub25/linear']])


def test_a_config_of_ones_own_is_filled_by_its_own_command():
    frame = dense([*runs('knn', DINO, [81.0], config='mine/seg.py'),
                   *runs('linear', DINOV2, [80.0])])
    assert ['python', 'tools/train.py', 'mine/seg.py'] in commands(frame)


@pytest.mark.parametrize('format, shown', [
    ('markdown', '`{}`'), ('latex', '\n% to fill: {}\n'), ('csv', '{}'), ('html', '{}</li>')])
def test_each_format_shows_the_commands_below_the_table_and_measured_leaves_them_out(format, shown):
    frames = build_tables(runs('linear', DINO, [81.0]) + runs('knn', 'SemMAE', [60.0]))
    command = f'python tools/run_suite.py dense --timm {DINO} --checkpoint FILE --only cub25/knn'
    assert shown.format(command) in render(frames, format)
    only = measured(frames)
    assert list(only) == ['dense'] and 'run_suite' not in render(only, format)
    assert only['dense'].equals(frames['dense'])


def test_a_task_that_is_not_known_has_a_column_named_by_the_task():
    records = [*runs('seg_new', DINO, [50.0], dataset='ADE20K', metric='mIoU'),
               *runs('counting', DINO, [3.0], metric='error', unit=''), *two_backbones()]
    assert list(dense(records)) == ['backbone', KNN, 'counting, CUB-25 (error)', SEG,
                                    'seg_new, ADE20K (mIoU)', DEPTH]


def test_columns_never_share_a_name():
    records = runs('knn', DINO, [1.0], dataset='a b') + runs('knn', DINO, [2.0], dataset='a\nb')
    assert sorted(dense(records).iloc[0, 1:3]) == ['1.00 (n=1)', '2.00 (n=1)']
    assert len(set(dense(records))) == 3


def test_a_failed_run_is_named_and_its_cell_is_empty():
    failed = runs('knn', DINO, [None], status='non-finite')
    frame = dense(failed + runs('linear', DINO, [81.0]))
    assert frame[KNN][0] == '' and frame['note'][0] == '1 run non-finite, not averaged'
    assert frame.attrs['legend'][-1].startswith(f'Not averaged: knn/{DINO}, seed 0: non-finite')
    assert commands(frame)[0][-1] == 'cub25/knn'
    assert any('non-finite' in text for text in frame.attrs['conflicts'])


def test_reduced_results_and_mixed_versions_are_marked():
    small = runs('knn', DINO, [70.0], reduced=True, reduced_why='20 of 224 pixels')
    mixed = [dict(record, versions={'torch': f'2.{record["seed"]}'})
             for record in runs('linear', DINO, [80.0, 81.0])]
    frame = dense(small + mixed)
    assert frame[KNN][0] == '70.00 (n=1) [reduced 1]'
    assert frame['note'][0] == 'mixed versions of torch: 2.0, 2.1'
    assert 'reduced 1: 20 of 224 pixels.' in frame.attrs['legend']


def test_no_dense_result_stands_in_another_table():
    records = [*two_backbones(), *runs('linprobe', 'MAE', [65.0], recipe='mae_p16'),
               *runs('knn', 'MAE', [30.0], recipe='x', reduced=True, tables=[1, 'dense']),
               *runs('cub', 'MAE', [31.0], recipe='mae_p16')]
    frames = build_tables(records)
    assert list(frames) == [*TITLES, 'dense', 'dense-differences'] and OTHER not in frames
    assert all((frames[table]['ours'] == '').all() for table in TITLES)
    text = render({'dense': frames['dense']})
    assert text.count('65.00 (n=1)') == text.count('30.00 (n=1)') == text.count('31.00 (n=1)') == 1


def test_without_dense_results_there_is_no_dense_table_unless_it_is_asked_for():
    assert 'dense' not in build_tables([a_record()])
    frames = build_tables([a_record()], tables=['dense'])
    assert list(frames) == ['dense'] and frames['dense'].empty and measured(frames) == {}
    assert commands(frames['dense']) == [
        ['python', 'tools/run_suite.py', 'dense', '--checkpoint', 'FILE']]
    assert all('run_suite.py dense' in render(frames, format) for format in FORMATS)


def test_other_tables_are_the_same_with_and_without_dense_results():
    others = [a_record(), a_record('linprobe/scratch', method='scratch'), a_record(dataset='toy')]
    frames = build_tables(others + two_backbones())
    without = {name: frame for name, frame in frames.items() if not str(name).startswith('dense')}
    assert render(without) == render(build_tables(others))


def test_the_order_of_results_does_not_change_the_dense_table():
    records = two_backbones() + runs('knn', DINO, [9.0], kind='untrained')
    texts = {render(build_tables(found)) for found in (
        records, records[::-1], records[1::2] + records[::2])}
    assert len(texts) == 1


def test_csv_gives_the_cells_back():
    frames = build_tables(two_backbones())
    rows = list(csv.DictReader(io.StringIO(render({'dense': frames['dense']}, 'csv'))))
    cells = [row for row in rows if row['line'] == 'cell']
    assert [[row[name] for name in frames['dense']] for row in cells] == (
        frames['dense'].values.tolist())


NASTY = '=a|b_50% & # $x$ <script>'


def test_names_of_data_sets_are_escaped_in_the_heads_of_columns():
    frames = build_tables(runs('=x', DINO, [1.0], dataset=NASTY))
    frames = {'dense': frames['dense']}
    latex = re.sub(r'\\allowbreak(\{\})?', '', render(frames, 'latex'))
    assert r'=a\textbar{}b\_50\% \& \# \$x\$ \textless{}script\textgreater{}' in latex
    assert not re.search(r'(?<!\\)%', re.sub('^%.*$', '', latex, flags=re.M))
    assert r'\|b_50%' in render(frames) and '&lt;script>' in render(frames)
    assert '<script' not in render(frames, 'html')
    assert "'=x, =a|b_50%" in render(frames, 'csv').split('\n')[0]


def test_a_table_wider_than_a_page_continues_in_further_latex_tables():
    records = [record for k in range(12) for record in runs(
        'knn', DINO, [80.0 + k / 100], dataset=f'set {k:02d}')]
    latex = render({'dense': dense(records)}, 'latex')
    assert re.findall(r'\\label\{tab:semmae-(.*?)\}', latex) == ['dense', 'dense-2', 'dense-3']
    assert latex.count(r' \allowbreak(continued)') == 2 and latex.count('Cells: mean') == 1
    assert all(latex.count(f'80.{k:02d} \\allowbreak(n=') == 1 for k in range(12))
    for widths in re.findall(r'\\begin\{tabular\}\{(.*)\}$', latex, re.M):
        assert sum(map(float, re.findall(r'p\{([\d.]+)\\linewidth\}', widths))) <= 1


def test_the_report_shows_it_and_each_number_leads_to_its_protocol(tmp_path):
    records = two_backbones()
    out = write_report(tmp_path / 'r.html', 'T', records, sections(measured(build_tables(records))))
    page = Page(out.read_text())
    assert not page.crossed and KNN in page.texts('th') and DINOV2 in page.texts('td')
    assert [text for text in page.texts('b') if 'n=3' in text] == [
        '62.10 ± 0.10 (n=3)', '0.41 ± 0.01 (n=3)']
    links = [attrs['href'] for tag, attrs, inside in page.tags if tag == 'a' and 'td' in inside]
    assert len(links) == 6 and set(links) == {f'#{anchor(record)}' for record in records}
    assert {attrs.get('id') for attrs in page.attributes('details')} == {
        link[1:] for link in links}


def test_numbers_of_others_for_the_same_data_sets_stand_below():
    frames = build_tables([*runs('knn', DINO, [70.0], dataset='ImageNet-1k'),
                           *runs('depth_linear', DINO, [.5])])
    (name, frame), = published_tables(frames).items()
    assert name == 'dense-published' and list(frame) == COLUMNS
    assert 'protocols differ' in frame.attrs['title']
    assert set(frame['measured on']) == {'ImageNet-1k, accuracy/top1 in %', 'NYUv2, rmse in m'}
    line = frame[(frame['method'] == 'DINOv2') & (frame['measured on'] == 'NYUv2, rmse in m')]
    assert line['value'].tolist() == ['0.417', '0.362']
    assert set(line['source']) == {'facebookresearch/dinov2@b8931f7 MODEL_CARD.md'}
    assert published_tables(build_tables(runs('knn', DINO, [70.0]))) == {}  # CUB-25
    assert published_tables(build_tables([])) == {}


def test_the_tool_prints_it_after_the_other_tables_or_alone(tmp_path):
    for record in [*two_backbones(), a_record()]:
        append_result(tmp_path / 'results.jsonl', record)
    assert len(read_results(tmp_path)[0]) == 19 and read_results(tmp_path)[1] == []
    done = tool('make_tables', tmp_path)
    assert done.returncode == 0 and done.stderr == ''
    titles = re.findall('^## (.*)', done.stdout, re.M)
    assert [re.split('[.,;] | from', title)[0] for title in titles] == [
        *(f'Table {k}' for k in TITLES), 'Dense table',
        'Dense table: differences to the best of each column',
        'Dense table: numbers published by others', 'Numbers',
        'The paper: errata and open points outside the tables', 'How to read these tables']
    alone = tool('make_tables', '--table', 'dense', tmp_path)
    assert alone.returncode == 0 and '65.00' not in alone.stdout
    assert re.findall('^## (.*)', alone.stdout, re.M) == [
        title for title in titles if title.startswith('Dense')]
    both = tool('make_tables', '--table', 1, 'dense', tmp_path, '--measured', '--format', 'csv')
    rows = csv.DictReader(io.StringIO(both.stdout))
    assert {row['table'] for row in rows} == {'1', 'dense', 'dense-differences', 'all'}
    wrong = tool('make_tables', tmp_path, '--table', 'sparse')
    assert wrong.returncode == 2 and 'dense' in wrong.stderr


def test_strict_refuses_a_dense_table_of_several_protocols(tmp_path):
    for record in [*two_backbones(), *runs('seg_linear', 'other', [1.0], protocol={'crop': 1})]:
        append_result(tmp_path / 'results.jsonl', record)
    done = tool('make_tables', tmp_path, '--table', 'dense', '--strict')
    assert done.returncode == 3 and 'seg_linear on CamVid was measured differently' in done.stderr
