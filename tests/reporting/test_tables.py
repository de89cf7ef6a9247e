import ast
import cProfile
import csv
import io
import json
import pstats
import random
import re
import runpy
import shlex
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semmae.reporting import comparison
from semmae.reporting import render as module
from semmae.reporting.render import FORMATS, render
from semmae.reporting.tables import (
    OTHER,
    TITLES,
    build_tables,
    conflicts,
    load_numbers,
    measured,
)
from semmae.results.results import append_result, read_results

from ..tiny import REPO, tool
from .records import Page, a_record

# Typed from the tables of the paper, a second time and in its own layout.
PRINTED = {
    1: '63.7 65.0 66.8 68.7',
    2: '82.8 82.7 82.1 82.0 83.26 83.10 83.34 84.50',
    3: '66.8 66.5 52.9 63.3 66.2 67.3 67.9 68.7 68.6',
    4: '63.7 63.6 65.0',
    5: '77.9 81.8 82.3 75.7 78.2 82.8 76.5 83.2 79.5 84.0 56.7 83.2 68.0 83.6 56.7 83.8 68.7 84.5',
    6: '79.2 94.2 78.6 93.0 79.6 94.3 81.8 86.5 94.2 82.1 87.1 94.4',
    7: '45.3 45.8 46.1 46.3',
}
NASTY = ['a_b|c', '$x$', r'\input{/etc/passwd}', '<script>alert(1)</script>', '50% & #',
         'two\nlines', '=HYPERLINK("http://x")', '+1+1', '-2+3', '@SUM(A1)', '\u202eltr\u200b',
         '../../x', '[x](javascript:a)', '~^{}"`*']


def runs(row, values, **changes):
    return [a_record(row, value=value, seed=seed, **changes) for seed, value in enumerate(values)]


def line(records, table=1, position=0):
    return build_tables(records)[table].iloc[position]


def unbroken(latex):
    """LaTeX without the places at which a long word may break."""
    return re.sub(r'\\allowbreak(\{\}|(?=\())', '', latex)


def make_tables(*arguments):
    return tool('make_tables', *arguments)


@pytest.mark.parametrize('table', TITLES)
def test_every_number_of_the_paper_stands_in_its_table(table):
    numbers = load_numbers()
    assert ' '.join(numbers[numbers['table'] == table]['value']) == PRINTED[table]


def test_numbers_of_one_row_agree_between_tables_and_no_row_stands_twice_in_one():
    numbers = load_numbers()
    assert not numbers.duplicated(['table', 'row']).any()
    assert numbers['row'].str.fullmatch(r'(linprobe|finetune|inat19|cub|cars|ade20k)/\w+').all()
    for row, cells in numbers.groupby('row'):
        assert len({float(value) for value in cells['value']}) == 1, row
        assert len(set(cells['patch_size'])) == 1, row
    assert set(numbers['metric']) == {'accuracy/top1', 'mIoU'} and set(numbers['unit']) == {'%'}


def test_a_number_of_the_paper_in_a_config_header_is_in_the_table_that_the_header_names():
    values = load_numbers().groupby('table')['value'].agg(lambda texts: set(map(float, texts)))
    checked = 0
    for path in (REPO / 'mm_configs').rglob('*.py'):
        header = ast.get_docstring(ast.parse(path.read_text())) or ''
        for part in re.split(r'Tables? (?=\d)', header)[1:]:
            tables = re.match(r'\d( and \d)*', part)[0].split(' and ')
            quoted = set(map(float, re.findall(r'\b\d\d\.\d+', part.splitlines()[0])))
            assert all(quoted <= values[int(table)] for table in tables), path.name
            checked += len(quoted)
    assert checked > 30


def test_an_empty_folder_prints_seven_tables_with_every_number_and_one_command_a_cell(tmp_path):
    done = make_tables(tmp_path)
    tables = re.findall(r'^## Table (\d).*?\n\n(.*?)\n\n', done.stdout, re.S | re.M)
    assert [int(table) for table, _ in tables] == list(TITLES)
    for table, text in tables:
        rows = text.split('\n')[2:]
        cells = [[cell.strip() for cell in row.strip('|').split('|')] for row in rows]
        assert ' '.join(row[2] for row in cells) == PRINTED[int(table)]
        assert all(row[3] == row[4] == '' for row in cells)
        assert all(re.fullmatch(r'`python tools/run_suite\.py paper --only \w+/\w+'
                                r'( --checkpoint FILE)?`', row[7])
                   or 'no recipe of ours' in row[6] and not row[7] for row in cells)


@pytest.mark.parametrize('records, ours, difference', [
    (runs('linprobe/mae_p16', [64.9, 65.3, 65.7]), '65.30 ± 0.40 (n=3)', '+1.60'),
    ([a_record(value=63.0)], '63.00 (n=1)', '-0.70'),
    ([a_record(protocol={'patch_size': 16})], '65.00 (n=1)', '+1.30'),
    ([a_record(value=value, checkpoint_sha256=str(value)) for value in (64.0, 66.0)],
     '65.00 ± 1.41 (n=2, seeds: 1)', '+1.30')])
def test_runs_stand_as_mean_sample_deviation_and_number_of_runs_and_seeds(
        records, ours, difference):
    cell = line(records)
    assert (cell['paper'], cell['ours'], cell['difference']) == ('63.7', ours, difference)
    assert cell['note'] == '' and cell['to fill'] == ''


def test_a_result_stands_in_every_table_that_has_its_row():
    frames = build_tables([a_record('linprobe/semmae_p8', value=68.0)])
    where = {table for table, frame in frames.items() if (frame['ours'] == '68.00 (n=1)').any()}
    assert where == {1, 3, 5}


def test_a_reduced_result_stands_in_a_table_of_its_own_and_says_why():
    frames = build_tables([a_record(reduced=True, reduced_why='64 of 224 pixels, 20 of 90 epochs')])
    frame = frames['linprobe-imagenet-1k']
    cell = frame.iloc[0]
    assert list(frame) == ['method', 'setting', 'ours', 'to the best', 'note']
    assert cell['note'] == 'reduced 1' and cell['ours'] == '65.00 (n=1)'
    assert 'reduced 1: 64 of 224 pixels, 20 of 90 epochs.' in frame.attrs['legend']
    assert frames[1]['ours'][0] == '' and frames[1]['to fill'][0]


def test_full_and_reduced_results_of_one_row_never_stand_in_one_table():
    frames = build_tables([a_record(reduced=True, seed=1), a_record()])
    assert list(frames[1]['difference'][:1]) == ['+1.30'] and len(frames[1]) == 4
    assert len(frames['linprobe-imagenet-1k']) == 1


@pytest.mark.parametrize('row, position, changes, method', [
    ('mae_p16', 0, dict(enlarged_why='1600 instead of 800 epochs'),
     'MAE (1600 instead of 800 epochs)'),
    ('mae_p16', 0, dict(protocol={'patch_size': 8}), 'MAE (patch size 8 instead of 16)'),
    ('semmae_p16', 1, dict(pretraining=dict(identity={'model.masking.gamma': 3.0}, differs={
        'model.masking.gamma': [2.0, 3.0]})), 'MAE (model.masking.gamma 3.0 instead of 2.0)')])
def test_a_result_unlike_its_cell_stands_below_it_named_by_the_difference(
        row, position, changes, method):
    frame = build_tables([a_record(f'linprobe/{row}', **changes)])[1]
    cell, below = frame.iloc[position], frame.iloc[position + 1]
    assert cell['ours'] == '' and cell['to fill']
    assert (below['method'], below['paper'], below['ours'], below['difference']) == (
        method, '', '65.00 (n=1)', '')
    assert below['note'] == ('longer 1' if 'enlarged_why' in changes else '')


def test_another_metric_or_unit_is_never_compared_with_the_paper_nor_averaged():
    frame = build_tables([a_record(metric='accuracy/top5', value=85.0), a_record(metric='top1'),
                          a_record(unit='fraction', value=0.65)])[1]
    assert list(frame['ours'][:3]) == ['65.00 (n=1)', '0.65 (n=1)', '85.00 (n=1)']
    assert list(frame['difference'][:3]) == ['+1.30', '', '']
    assert 'fraction' in frame['method'][1] and 'accuracy/top5' in frame['method'][2]


MAE = {'model.masking.type': 'semmae.RandomMasking', 'model.masking.mask_ratio': 0.75,
       'optim_wrapper.optimizer.lr': 0.0015}


def test_two_pretrainings_are_never_averaged_as_seeds_and_the_mark_names_the_fields():
    other = MAE | {'model.masking.mask_ratio': 0.25, 'optim_wrapper.optimizer.lr': 0.01}
    for reduced, table in ((False, 1), (True, 'linprobe-imagenet-1k')):
        frame = build_tables([
            a_record(value=60.0, reduced=reduced, pretraining=dict(identity=MAE)),
            a_record(value=70.0, seed=1, reduced=reduced, pretraining=dict(identity=other))])[table]
        assert list(frame['ours'][:2]) == ['60.00 (n=1)', '70.00 (n=1)'] or list(
            frame['ours'][:2]) == ['70.00 (n=1)', '60.00 (n=1)']
        assert sorted(frame['note'][i].split('; ')[-1] for i in (0, 1)) == [
            'pre-training p1', 'pre-training p2']
        (text,) = [t for t in frame.attrs['legend'] if 'different pre-trainings' in t]
        assert re.search(r'model\.masking\.mask_ratio 0\.\d+ / 0\.\d+', text)
        assert 'optim_wrapper.optimizer.lr' in text and 'masking.type' not in text
        assert any('different pre-trainings' in t for t in frame.attrs['conflicts'])


def test_seeds_of_one_pretraining_are_averaged():
    frame = build_tables(runs('linprobe/mae_p16', [60.0, 61.0], pretraining=dict(identity=MAE)))[1]
    assert frame['ours'][0] == '60.50 ± 0.71 (n=2)' and frame.attrs['conflicts'] == []


@pytest.mark.parametrize('row, changes, told', [
    ('finetune/deit', dict(model=dict(width=192, depth=12)), 'arch vit-tiny instead of vit-base'),
    ('finetune/mae_1600e', dict(model=dict(width=192, depth=12)), 'arch vit-tiny'),
    ('ade20k/supervised_p16', dict(model=dict(width=192, depth=12)), 'arch vit-tiny'),
    ('linprobe/mae_p16', dict(protocol={'arch': 'deit-small'}), 'arch vit-small'),
    ('finetune/vit384', dict(model=dict(pixels=224)), 'pixels 224 instead of 384'),
    ('ade20k/mae_p16', dict(model=dict(pixels=640)), 'pixels 640 instead of 512'),
    ('finetune/vit', dict(kind='fine-tuned'), 'fine-tuned instead of from scratch'),
    ('linprobe/mae_p16', dict(kind='fine-tuned'), 'fine-tuned instead of frozen'),
    ('finetune/mae_p16', dict(kind='frozen'), 'frozen instead of fine-tuned')])
def test_a_result_of_another_arch_size_or_kind_does_not_fill_a_cell(row, changes, told):
    for frame in build_tables([a_record(row, **changes)]).values():
        assert not ((frame['paper'] != '') & (frame['ours'] != '')).any()
        measured_at = frame['ours'] != ''
        assert all(told in method for method in frame['method'][measured_at])


def test_an_empty_cell_of_a_recipe_that_we_do_not_have_has_no_command():
    frame = build_tables([])[5]
    numbers = load_numbers().query('table == 5')
    for command, recipe, note in zip(frame['to fill'], numbers['recipe'], frame['note']):
        assert bool(command) != bool(recipe) and recipe in note
    assert (numbers['recipe'] != '').any()


def test_runs_of_one_row_with_another_crop_size_are_marked_with_the_field_and_never_averaged():
    other = {'input_size': 192, 'epochs': 90}
    frame = build_tables([a_record(value=60.0), a_record(value=70.0, seed=1, protocol=other)])[1]
    assert sorted(frame['ours'][:2]) == ['60.00 (n=1)', '70.00 (n=1)']
    assert list(frame['note'][:2]) == ['protocol a', 'protocol b']
    text = [text for text in frame.attrs['legend'] if 'rotocol' in text]
    assert len(text) == 1 and 'input_size: a = ' in text[0] and 'epochs' not in text[0]
    assert '224' in text[0] and '192' in text[0]


def test_rows_of_one_table_under_different_protocols_are_marked_and_other_tasks_are_not():
    patch = {'input_size': 224, 'epochs': 90, 'patch_size': 8}
    frames = build_tables([a_record(), a_record('linprobe/semmae_p8', protocol=patch),
                           a_record('finetune/semmae_p8', protocol={'lr': 1})])
    assert list(frames[1]['note']) == ['protocol a', '', 'erratum 1', 'protocol b']
    assert any('patch_size (part of the method): a = (not recorded), b = 8' in text
               for text in frames[1].attrs['legend'])
    assert not any('protocol' in note for note in frames[5]['note'])  # two tasks, one result each


def test_a_failed_run_is_named_below_the_table_and_never_averaged():
    failed = a_record(value=None, seed=7, status='non-finite')
    frame = build_tables([*runs('linprobe/mae_p16', [64.0, 66.0]), failed])[1]
    assert frame['ours'][0] == '65.00 ± 1.41 (n=2)'
    assert frame['note'][0] == '1 run non-finite, not averaged'
    assert 'linprobe/mae_p16, seed 7: non-finite' in frame.attrs['legend'][-1]
    assert line([failed])['ours'] == '' and line([failed])['to fill'].endswith('linprobe/mae_p16')
    assert '1 run non-finite' in measured(build_tables([failed]))[1]['note'][0]


def test_results_that_fit_no_cell_stand_in_a_table_of_their_own_only_if_there_are_any():
    assert OTHER not in build_tables([a_record()])
    frame = build_tables([a_record('linprobe/scratch', method='scratch')])[OTHER]
    assert frame['setting'][0] == 'linprobe/scratch (not in the paper)'
    assert frame['ours'][0] == '65.00 (n=1)'


def test_a_result_that_the_paper_lacks_stands_below_the_cells_of_its_first_table():
    frames = build_tables([a_record('linprobe/scratch', method='scratch', tables=[1, 5])])
    assert OTHER not in frames and len(frames[1]) == 5
    assert frames[1]['setting'][4] == 'linprobe/scratch (not in the paper)'
    assert frames[1]['paper'][4] == '' and frames[1]['ours'][4] == '65.00 (n=1)'


def test_a_number_from_another_data_set_stands_in_a_table_of_its_own():
    frames = build_tables([a_record(dataset='toy set')])
    frame = frames['linprobe-toy-set']
    assert frame['ours'][0] == '65.00 (n=1)' and frames[1]['ours'][0] == ''
    assert 'Linear probing on toy set' in frame.attrs['title']


def test_measured_lines_keep_their_notes_and_drop_the_errata_of_empty_cells():
    frames = measured(build_tables(runs('linprobe/mae_p16', [60.0, 60.2])
                                   + runs('linprobe/semmae_p16', [62.0, 62.2])))
    assert list(frames) == [1, 4] and list(frames[1]['paper']) == ['63.7', '65.0']
    assert frames[1].attrs['bold'] == [1] and frames[1].attrs['legend'] == []
    assert 'erratum' in frames[4]['note'][0] and frames[4].attrs['legend']


def test_only_a_distinguishable_best_under_the_same_protocol_is_bold():
    def bold(first, second, **changes):
        return build_tables(runs('linprobe/mae_p16', first)
                            + runs('linprobe/semmae_p16', second, **changes))[1].attrs['bold']
    assert bold([60.0, 60.2], [62.0, 62.2]) == [1]
    assert bold([62.0, 62.2], [60.0, 60.2]) == [0]
    assert bold([60.0, 62.0], [61.0, 63.0]) == []                  # inside the spread
    assert bold([60.0], [62.0, 62.2]) == []                        # one seed
    assert bold([60.0, 60.2], [62.0, 62.2], reduced=True) == []    # not comparable
    assert bold([60.0, 60.2], [62.0, 62.2], protocol={'input_size': 192}) == []
    frames = build_tables(runs('linprobe/mae_p16', [60.0, 60.2])
                          + runs('linprobe/semmae_p16', [62.0, 62.2]), tables=[1])
    for format, text in (('markdown', '**62.10 ± 0.14 (n=2)**'),
                         ('html', '<b>62.10 ± 0.14 (n=2)</b>'),
                         ('latex', r'\textbf{62.10 $\pm$ 0.14 (n=2)}'), ('csv', '62.10 ± 0.14')):
        assert text in unbroken(render(frames, format))


def test_a_line_says_how_far_it_is_from_the_best_and_whether_that_is_noise():
    def to_best(first, second):
        frame = build_tables(runs('linprobe/mae_p16', first) + runs('linprobe/semmae_p16', second))
        return list(frame[1]['to the best'])[:2]
    # Welch by hand. Three runs of variance .01 each: the error is sqrt(2 * .01 / 3) = .0816, with 4
    # degrees of freedom t = 2.776. Two runs of variance 2 each: sqrt(2) and t = 4.303.
    assert to_best([60.0, 60.1, 60.2], [62.0, 62.1, 62.2]) == [
        '-2.00 [seeds -2.23, -1.77]', 'best']
    assert to_best([60.0, 62.0], [61.0, 63.0]) == [
        '-1.00 [seeds -7.08, +5.08]; within noise', 'best; within noise']
    assert to_best([60.0], [62.0]) == ['-2.00; one seed', 'best; one seed']
    assert to_best([60.0, 60.0], [62.0, 62.0]) == ['-2.00; no spread', 'best; no spread']
    assert to_best([60.0], []) == ['', '']


def test_the_only_result_of_its_protocol_is_not_called_the_best():
    frame = build_tables(runs('linprobe/mae_p16', [60.0, 60.2])
                         + runs('linprobe/semmae_p16', [62.0, 62.1], protocol={'input_size': 192}))
    assert list(frame[1]['to the best'])[:2] == ['', ''] and frame[1].attrs['bold'] == []


def with_predictions(folder, row, hits, seed=0, **changes):
    """A result beside a file of predictions; hits: of 200 images those that are right."""
    folder.mkdir(parents=True)
    np.savez(folder / 'p.npz', images=np.array([f'{i}.png' for i in range(200)]),
             labels=np.zeros(200, int), predicted=1 - np.isin(np.arange(200), hits))
    append_result(folder / 'results.jsonl', a_record(
        row, value=len(hits) / 2, seed=seed, predictions='p.npz', **changes))


def test_one_seed_has_an_interval_over_images_and_several_have_both(tmp_path):
    with_predictions(tmp_path / 'a', 'linprobe/mae_p16', range(100))
    with_predictions(tmp_path / 'b', 'linprobe/semmae_p16', range(130))
    frame = build_tables(read_results(tmp_path)[0])[1]
    text, best = list(frame['to the best'])[:2]
    low, high = map(float, re.fullmatch(
        r'-15\.00 \[images (-\d+\.\d+), (-\d+\.\d+)\]; one seed', text).groups())
    # 30 of 200 images differ: 15 % with a standard error of sqrt(.15 * .85 / 200) = 2.5 %
    assert -21 < low < -19 and -11 < high < -9 and best == 'best; one seed'
    assert frame.attrs['bold'] == []
    with_predictions(tmp_path / 'c', 'linprobe/mae_p16', range(102), seed=1)
    with_predictions(tmp_path / 'd', 'linprobe/semmae_p16', range(128), seed=1)
    frame = build_tables(read_results(tmp_path)[0])[1]
    assert re.fullmatch(r'-14\.00 \[seeds -\d+\.\d+, -\d+\.\d+; images -1\d\.\d+, -\d+\.\d+\]',
                        frame['to the best'][0])
    assert frame.attrs['bold'] == [1]


def test_predictions_that_are_lost_or_of_another_number_make_no_result_bold(tmp_path):
    for row, right in (('mae_p16', 100), ('semmae_p16', 130)):
        for seed in (0, 1):
            with_predictions(tmp_path / f'{row}{seed}', f'linprobe/{row}', range(right + seed),
                             seed)

    def first_line():
        comparison.predictions_at.cache_clear()
        frame = build_tables(read_results(tmp_path)[0])[1]
        return frame['to the best'][0], frame.attrs['bold']
    assert 'images' in first_line()[0] and first_line()[1] == [1]
    file = tmp_path / 'mae_p160/results.jsonl'
    text = re.sub(', "crc": "[0-9a-f]{8}"', '', file.read_text())
    file.write_text(text.replace('"value": 50.0', '"value": 51.0'))  # its predictions say 50
    assert 'predictions not usable' in first_line()[0] and first_line()[1] == []
    file.write_text(text)
    (tmp_path / 'mae_p160/p.npz').unlink()
    assert 'predictions not usable' in first_line()[0] and first_line()[1] == []


def test_probes_of_one_pretraining_say_so_and_are_never_bold():
    def probes(row, values, weights):
        return [dict(record, load_report=dict(sha256=weights.format(record['seed'])))
                for record in runs(row, values)]
    low, high = [60.0, 60.1, 60.2], [62.0, 62.1, 62.2]
    for weights, bold in (('one', []), ('{}', [1])):
        frame = build_tables(probes('linprobe/mae_p16', low, f'a{weights}')
                             + probes('linprobe/semmae_p16', high, f'b{weights}'))[1]
        assert frame.attrs['bold'] == bold
        assert ('pre-trainings: 1' in frame['ours'][1]) == (bold == [])


@pytest.mark.parametrize('second, told', [
    (dict(unit='', value=.6), 'several units'),
    (dict(status='non-finite', value=None), 'non-finite'),
    (dict(row='linprobe/mae_p16', seed=1, versions={'torch': '2'}), 'mixed versions of torch')])
def test_strict_refuses_other_units_versions_and_failed_runs(second, told):
    row = second.pop('row', 'linprobe/semmae_p16')
    records = [a_record(versions={'torch': '1'}), a_record(row, **second)]
    assert any(told in text for text in conflicts(build_tables(records)))


def test_predictions_of_other_images_or_labels_give_no_interval(tmp_path):
    with_predictions(tmp_path / 'a', 'linprobe/mae_p16', range(100))
    with_predictions(tmp_path / 'b', 'linprobe/semmae_p16', range(130))
    stored = dict(np.load(tmp_path / 'b/p.npz'))
    for key, other in dict(labels=1 - stored['labels'], images=stored['images'][::-1]).items():
        changed = {**stored, key: other}
        np.savez(tmp_path / 'b/p.npz', **changed)
        comparison.predictions_at.cache_clear()
        text = build_tables(read_results(tmp_path)[0])[1]['to the best'][0]
        # In another order the images are the same ones: their hits go with them.
        assert ('images' in text) == (key == 'images')
    (tmp_path / 'b/p.npz').write_bytes(b'no archive')
    comparison.predictions_at.cache_clear()
    assert 'images' not in build_tables(read_results(tmp_path)[0])[1]['to the best'][0]


def test_a_results_file_cannot_name_predictions_outside_its_folder(tmp_path):
    with_predictions(tmp_path / 'a', 'linprobe/mae_p16', range(100))
    with_predictions(tmp_path / 'b', 'linprobe/semmae_p16', range(130))
    file = tmp_path / 'b/results.jsonl'
    file.write_text(file.read_text().replace('"p.npz"', '"../a/p.npz"'))
    assert 'images' not in build_tables(read_results(tmp_path)[0])[1]['to the best'][0]


def test_seeds_of_a_task_that_draws_nothing_are_one_sample(tmp_path):
    for seed in range(3):
        append_result(tmp_path / 'results.jsonl', a_record(
            'knn/mae_p16', task='knn', checkpoint=None, checkpoint_sha256=None, seed=seed,
            load_report=dict(sha256='a')))
        append_result(tmp_path / 'results.jsonl', a_record(seed=seed))
    records = read_results(tmp_path)[0]
    assert [r['row'] for r in records] == ['knn/mae_p16'] + 3 * ['linprobe/mae_p16']


def test_a_selected_best_and_mixed_versions_are_noted():
    chosen = a_record(protocol={'input_size': 224, 'selection': 'best of 12 validations'})
    assert line([chosen])['note'] == 'best of 12 validations'
    assert 'protocol a' in line([chosen, a_record(seed=1)])['note']  # never averaged with others
    pair = [a_record(seed=seed, versions={'torch': f'2.{seed}', 'timm': '1.0'}) for seed in (0, 1)]
    assert line(pair)['note'] == 'mixed versions of torch: 2.0, 2.1'


def crops(tmp_path, name, size, **changes):
    append_result(tmp_path / name / 'results.jsonl', a_record(
        f'linprobe/{name}', protocol={'crop_size': size, 'epochs': 90}, **changes))


def test_strict_refuses_two_runs_that_differ_in_crop_size_and_names_the_field(tmp_path):
    crops(tmp_path, 'mae_p16', 224)
    crops(tmp_path, 'semmae_p16', 192)
    marked = make_tables(tmp_path, '--table', 1)
    assert marked.returncode == 0 and 'crop_size: a = 224, b = 192' in marked.stdout
    refused = make_tables(tmp_path, '--table', 1, '--strict', '--out', tmp_path / 't.md')
    assert refused.returncode == 3 and refused.stdout == '' and not (tmp_path / 't.md').exists()
    assert 'crop_size: a = 224, b = 192' in refused.stderr and 'epochs' not in refused.stderr
    crops(tmp_path, 'semmae_p16', 224, time='2025-01-02T00:00:00+00:00')
    (tmp_path / 'semmae_p16/results.jsonl').write_text(
        (tmp_path / 'semmae_p16/results.jsonl').read_text().splitlines()[1] + '\n')
    fair = make_tables(tmp_path, '--table', 1, '--strict')
    assert fair.returncode == 0 and fair.stderr == ''


def test_strict_allows_what_belongs_to_the_method_and_refuses_mixed_sizes():
    def told(**changes):
        return conflicts(build_tables([a_record(), a_record('linprobe/semmae_p16', **changes)]))
    assert told() == [] == told(protocol={'input_size': 224, 'epochs': 90, 'patch_size': 8})
    small = dict(reduced=True, reduced_why='20 of 90 epochs')
    scratch = a_record('linprobe/scratch', tables=[1], **small)
    why = 'pre-training: 16 of 800 epochs; 20 of 90 epochs'
    pretrained = a_record(reduced=True, reduced_why=why)
    assert conflicts(build_tables([scratch, pretrained])) == []
    (text,) = conflicts(build_tables([scratch, a_record(
        reduced=True, reduced_why='30 of 90 epochs')]))
    assert 'reduced (20 of 90 epochs)' in text and 'reduced (30 of 90 epochs)' in text
    assert told(reduced=True, reduced_why='20 of 90 epochs') == []  # another table


def test_many_protocols_are_summed_up():
    records = [a_record(f'linprobe/run{n}', protocol={'lr': n, 'epochs': 90 + n % 2})
               for n in range(40)]
    (text,) = build_tables(records)[OTHER].attrs['legend'][:1]
    assert 'and 35 more' in text and len(text) < 500


def test_work_grows_no_faster_than_the_number_of_runs(tmp_path):
    def calls(num):
        """Function calls from the results of ``num`` runs to their tables."""
        file = tmp_path / f'{num}.jsonl'
        file.write_text('\n'.join(json.dumps(a_record(
            f'linprobe/run{n % (num // 20)}', seed=n, value=60 + n % 7)) for n in range(num)))
        profile = cProfile.Profile()
        frames = profile.runcall(lambda: build_tables(read_results(file)[0]))
        assert frames[OTHER]['ours'].str.contains('(n=20)', regex=False).sum() == num // 20
        return pstats.Stats(profile).total_calls
    assert calls(800) < 4.5 * calls(200)


def a_run_of_other_tools(tmp_path):
    start = tmp_path / 'upernet' / '20250101_000000'
    (start / 'vis_data').mkdir(parents=True)
    (start / 'vis_data/scalars.json').write_text(
        '{"loss": 1.0, "iter": 80000, "step": 80000}\n{"mIoU": 41.5, "step": 80000}\n')
    (tmp_path / 'upernet/c.py').write_text("train_cfg = dict(type='IterBasedTrainLoop', "
                                           "max_iters=80000)\ndefault_hooks = dict("
                                           "logger=dict(log_metric_by_epoch=False))\n")


def test_a_run_of_other_tools_stands_below_the_tables(tmp_path):
    a_run_of_other_tools(tmp_path)
    done = make_tables(tmp_path, '--measured')
    assert '41.50 (n=1)' in done.stdout and 'upernet' in done.stdout, done.stderr


ROWS = ['linprobe/mae_p16', 'linprobe/semmae_p8', 'ade20k/mae_p16', 'linprobe/scratch']
RECORDS = st.lists(st.builds(
    lambda row, value, seed, size, status, reduced, day: a_record(
        row, value=value, seed=seed, protocol={'input_size': size}, status=status, reduced=reduced,
        method=f'run {seed}', time=f'2025-01-0{day}T00:00:00+00:00'),
    st.sampled_from(ROWS), st.floats(0, 100), st.integers(0, 2), st.sampled_from([192, 224]),
    st.sampled_from(['ok', 'ok', 'incomplete']), st.booleans(), st.integers(1, 2)), max_size=12)


@settings(max_examples=6, deadline=None)
@given(RECORDS, st.randoms(use_true_random=False))
def test_the_order_of_lines_and_files_never_changes_a_table(tmp_path_factory, records, shuffle):
    folder = tmp_path_factory.mktemp('runs')
    texts = []
    for attempt in range(2):
        files = [folder / f'{attempt}{name}.jsonl' for name in 'ab']
        parts = [records[::2], records[1::2]] if attempt else [records, []]
        for file, part in zip(files, parts):
            file.write_text(''.join(json.dumps(record) + '\n' for record in part))
        texts.append(render(build_tables(read_results(files)[0])))
        shuffle.shuffle(records)
        files.reverse()
    assert texts[0] == texts[1]
    found = read_results(files)[0]
    assert render(build_tables(found[::-1])) == texts[1]


def test_a_file_with_five_percent_damaged_lines_gives_the_same_table(tmp_path):
    whole = [json.dumps(record) for row in load_numbers()['row'].unique()
             for record in runs(row, [60.0, 61.0, 62.5])]
    random.seed(0)
    torn = [text[:random.randrange(1, len(text))]
            for text in random.sample(whole, len(whole) // 20)]
    damaged = random.sample(whole + torn, len(whole + torn))
    (tmp_path / 'whole.jsonl').write_text('\n'.join(whole))
    (tmp_path / 'results.jsonl').write_text('\n'.join(damaged))
    clean = make_tables(tmp_path / 'whole.jsonl')
    done = make_tables(tmp_path)
    assert done.returncode == 0 and done.stdout == clean.stdout
    assert f'{len(torn)} of {len(damaged)} lines damaged and skipped' in done.stderr
    assert clean.stderr == '' and 'run_suite' not in done.stdout


@pytest.fixture(scope='module')
def nasty():
    return build_tables([a_record(f'linprobe/{name}', method=name, reduced=True, reduced_why=name)
                         for name in NASTY] + runs('linprobe/mae_p16', [1.0, 2.0]))


def test_latex_specials_are_escaped_and_nothing_becomes_a_command(nasty):
    text = unbroken(render(nasty, 'latex'))
    assert {name for name in re.findall(r'\\([A-Za-z]+)', text) if not name.startswith('text')} == {
        'usepackage', 'begin', 'end', 'centering', 'scriptsize', 'caption', 'label', 'toprule',
        'midrule', 'bottomrule', 'par', 'smallskip', 'raggedright', 'raggedleft', 'pm',
        'arraybackslash', 'linewidth', 'setlength', 'tabcolsep', 'noindent', 'begingroup',
        'endgroup', 'endfirsthead', 'endhead', 'endlastfoot'}
    for literal in (r'\textbackslash{}input\{/etc/passwd\}',
                    r'a\_b\textbar{}c', r'\$x\$', r'50\% \& \#', r'Mask 75\% patches',
                    r'\textasciitilde{}\textasciicircum{}\{\}', '{[}x{]}',
                    '\n% to fill: python tools/run_suite.py paper --only linprobe/semmae_p8\n'):
        assert literal in text, literal
    for row in re.findall(r'^(?!\\caption)(.*)\\\\$', text, re.M):  # four in own tables
        assert len(re.findall(r'(?<!\\)&', row)) in (4, 6)
    printed = re.sub('^%.*$', '', text, flags=re.M)
    bare = re.sub(r'\\[%&#$_{}]', '', printed).replace(r'$\pm$', '')
    assert not re.search('[#$^~_|<%]', bare)
    assert bare.count('>') == printed.count(r'>{\ragged')
    assert bare.count('{') == bare.count('}')
    tables = text.count(r'\begin{table}'), text.count(r'\begin{longtable}')
    assert sum(tables) == text.count(r'\bottomrule') == 8


def test_markdown_rows_stay_one_row_and_hold_no_markup(nasty):
    text = render(nasty, 'markdown')
    rows = [row for row in text.split('\n') if row.startswith('|')]
    assert all(len(re.findall(r'(?<!\\)\|', row)) in (6, 9) for row in rows)  # own tables have 5
    assert r'a_b\|c' in text and '<' not in text and '](' not in text.replace(r'\](', '')
    assert '(U+202E)ltr(U+200B)' in text and '\u202e' not in text


def test_html_holds_only_our_own_tags_and_long_cells_whole(nasty):
    page = Page(render(nasty, 'html'))
    ours = 'html head meta title style body h2 div table thead tbody tr th td ul li'
    assert {tag for tag, *_ in page.tags} == set(ours.split()) and not page.crossed
    assert '<script>alert(1)</script>' in page.texts('td')
    assert 'python tools/run_suite.py paper --only linprobe/semmae_p8_1to0_gamma1' in page.texts(
        'td')


def test_csv_cells_are_no_formulas_and_numbers_keep_their_sign(nasty):
    rows = list(csv.DictReader(io.StringIO(render(nasty, 'csv'))))
    cells = [cell for row in rows for cell in row.values()]
    risky = [cell for cell in cells if cell.lstrip()[:1] in tuple('=+-@') and cell != '-']
    assert risky and all(re.fullmatch(r'[+-]\d+\.\d+', cell) for cell in risky)
    assert '-62.20' in cells and "'+1+1" in cells
    assert sum(row['line'] == 'cell' and row['table'].isdigit() for row in rows) == 58
    assert any(row['line'] == 'legend' and row['note'].startswith('erratum 1:') for row in rows)


@pytest.mark.parametrize('format', FORMATS)
def test_a_hundred_other_results_are_all_printed(format):
    text = render(build_tables([a_record(f'linprobe/run{n:03d}x') for n in range(100)]), format)
    text = unbroken(text)
    assert all(f'linprobe/run{n:03d}x' in text for n in range(100))


def test_a_terminal_shows_the_same_numbers(capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '250')
    module.print_tables(build_tables([a_record(method='[red]x[/red]')]))
    text = capsys.readouterr().out
    assert '65.00 (n=1)' in text and '84.50' in text and 'erratum 1:' in text


@pytest.mark.parametrize('folder', ['dense', 'mini'])
def test_a_terminal_of_80_columns_neither_folds_nor_cuts_a_text(folder, capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '80')
    frames = build_tables(read_results([REPO / 'benchmarks/results' / folder])[0])
    module.print_tables(frames)
    text = capsys.readouterr().out
    cells = {cell for frame in frames.values() for cell in frame.to_numpy().ravel()}
    wide = [*cells, *(line for frame in frames.values() for line in frame.attrs['legend'])]
    assert max(map(len, cells)) > 80 and [cell for cell in wide if cell not in text] == []


def test_a_table_that_fits_the_terminal_has_columns(capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '80')
    frame = pd.DataFrame(dict(a=['1'], b=['2']))
    frame.attrs.update(title='T', legend=[], bold=[])
    module.print_tables(dict(t=frame))
    assert '│ 1 │ 2 │' in capsys.readouterr().out


def test_every_command_names_a_row_of_the_numbers():
    numbers = load_numbers()
    commands = [command for frame in build_tables([]).values() for command in frame['to fill']]
    assert [shlex.split(command)[4] for command in commands if command] == list(
        numbers['row'][numbers['recipe'] == ''])


def test_the_tool_writes_only_the_tables_asked_for_and_says_where(tmp_path):
    out = tmp_path / 'tables.tex'
    for flags in (['--table', 3, 1, tmp_path], [tmp_path, '--table', 1, '--table=3']):
        done = make_tables(*flags, '--format', 'latex', '--out', out)
        assert done.returncode == 0 and done.stdout.strip().endswith(str(out)), done.stderr
        assert re.findall(r'tab:semmae-(\d)', out.read_text()) == ['1', '3']


@pytest.mark.parametrize('flags', [['gone'], ['.', '--table', '8'], ['.', '--format', 'docx'],
                                   ['--table', '1'], ['gone', '--out', 'no/such/folder/t.md'],
                                   ['gone', '--out', '.']])
def test_a_mistake_ends_with_status_2_and_says_what_was_wrong(tmp_path, flags, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main = runpy.run_path(str(REPO / 'tools' / 'make_tables.py'))['main']
    with pytest.raises(SystemExit) as end:
        sys.exit(main(flags))
    out, told = capsys.readouterr()
    assert end.value.code == 2 and out == '' and 'error: ' in told.splitlines()[-1]
    assert ('--out' in told.splitlines()[-1]) == ('--out' in flags)  # before anything is read


@pytest.mark.slow
def test_the_command_and_all_of_reporting_import_neither_torch_nor_openmmlab(tmp_path):
    append_result(tmp_path / 'results.jsonl', a_record())
    a_run_of_other_tools(tmp_path)
    code = ('import runpy, sys\nsys.argv = sys.argv[1:]\n'
            'import semmae.reporting.figures, semmae.reporting.report\n'
            'try: runpy.run_path(sys.argv[0], run_name="__main__")\n'
            'finally: print(sorted({name.split(".")[0] for name in sys.modules}), file=sys.stderr)')
    done = subprocess.run([sys.executable, '-c', code, 'tools/make_tables.py', tmp_path],
                          capture_output=True, text=True, cwd=REPO)
    assert done.returncode == 0 and '65.00 (n=1)' in done.stdout and '41.50' in done.stdout
    loaded = set(ast.literal_eval(done.stderr.strip().split('\n')[-1]))
    heavy = {'torch', 'torchvision', 'timm', 'mmengine', 'mmcv', 'mmpretrain', 'mmseg'}
    assert 'pandas' in loaded and not loaded & heavy
