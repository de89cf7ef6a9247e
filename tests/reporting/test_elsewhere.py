import statistics

import pandas as pd
import pytest

from semmae.reporting.elsewhere import COLUMNS, elsewhere_table
from semmae.reporting.tables import load_numbers

from ..tiny import REPO

FILE = REPO / 'semmae/reporting/later_numbers.csv'

# Typed a second time from the sources, in their own groups: (part of the source, method): values.
PRINTED = {
    ('M2PT', 'SemMAE'): '83.4 65.0 46.3',
    ('VisionLLaMA', 'SemMAE'): '83.4 65.0',
    ('VisionLLaMA', 'MAE'): '65.1',
    ('comparison of methods', 'SemMAE'): '44.9 83.4 45.6',
    ('comparison of methods', 'MAE'): '46.5 83.2 49.2',
    ('comparison of methods', 'AttMask'): '45.3',
    ('comparison of methods', 'HPM'): '48.5 84.2 50.1',
    ('QiongWang1', 'SemMAE'): '74.06 83.23',
    ('QiongWang1', 'MAE'): '74.11 84.29',
    ('mmpretrain', 'MAE'): '65.1 83.3',
    ('CrossMAE', 'MAE'): '65.1',
    ('2407.13036)', 'MAE'): '46.5 83.2 49.2 83.17 46.46 47.46',
    ('FINETUNE.md', 'MAE'): '83.57',
    ('facebookresearch/mae, issue #91', 'MAE'): '83.454',
    ('HPM, README', 'MAE'): '40.5 48.1',
    ('HPM, README', 'HPM'): '84.2 48.5',
    ('implus', 'MAE'): '48.15',
    ('mmsegmentation, configs', 'MAE'): '48.13',
    ('AutoMAE', 'AutoMAE'): '83.32',
    ('AutoMAE', 'MAE'): '83.26',
    ('MODEL_ZOO', 'ColorMAE-G'): '83.01 45.90 83.61 49.18 83.77 49.26',
    ('lightly', 'MAE'): '11.2 46.0 81.3',
    ('solo-learn', 'MAE'): '81.60',
    ('SegNeXt, issue #48', 'SegNeXt'): '2',
    ('mmsegmentation, issue #2196', 'Segmenter'): '-1.16',
    ('dinov3@6876159 MODEL_CARD.md', 'DINOv3'): '47.0 51.8 0.403 0.373',
    ('dinov2@b8931f7 README.md', 'DINOv2'): '79.0 82.1 81.1 84.5',
    ('dinov2@b8931f7 MODEL_CARD.md', 'DINOv2'): '47.2 51.3 0.417 0.362',
    ('dino@7c446df README.md', 'DINO'): '74.5 76.1 78.2',
    ('ibot@da316d8 README.md', 'iBOT'): '75.2 77.1 79.5',
    ('Franca@24f8c60 README.md', 'Franca'): '80.9 39.1',
    ('perception_models@3e352cc README.md', 'PE-Spatial'): '37.5 44.4',
    ('open-hummingbird-eval@5e79da2 README.md', 'DINO'): '46.6 55.7',
    ('open-hummingbird-eval@5e79da2 README.md', 'DINOv2'): '77.0 76.9',
    ('lightly-train@8f5a75c predict_autolabel.md', 'EoMT-DINOv3'): '54.4',
    ('capi@98b4fa1 README.md', 'CAPI-LVD'): '32.1',
}


@pytest.fixture(scope='module')
def numbers():
    return pd.read_csv(FILE, dtype=str, keep_default_na=False)


def group(numbers, source, method):
    # QiongWang1 has a repository named after AutoMAE, which is no source of AutoMAE's numbers.
    of = numbers['source'].str.contains(source, regex=False) & (numbers['method'] == method)
    return numbers[of & (numbers['source'].str.startswith('QiongWang1') == source.startswith('Q'))]


@pytest.mark.parametrize('source, method', PRINTED)
def test_every_number_is_that_of_its_source(numbers, source, method):
    assert ' '.join(group(numbers, source, method)['value']) == PRINTED[source, method]


def test_no_number_stands_here_that_was_not_typed_twice(numbers):
    typed = set().union(*(group(numbers, *key).index for key in PRINTED))
    assert typed == set(numbers.index) and len(numbers) == 76


def test_every_line_has_a_source_a_certainty_and_a_number_that_parses(numbers):
    assert list(numbers) == ['method', 'setting', 'dataset', 'metric', 'value', 'spread', 'n',
                             'unit', 'source', 'certainty']
    assert set(numbers['certainty']) == {'primary', 'secondary', 'unverified'}
    for column in ('method', 'setting', 'dataset', 'metric', 'unit', 'source'):
        assert (numbers[column].str.strip() != '').all(), column
    assert numbers['source'].str.contains(r'arXiv|issue #\d|README|\.md|docs\.').all()
    assert not numbers.duplicated().any()
    for line in numbers.itertuples():
        assert -2 < float(line.value) < 100 and (line.n == '' or int(line.n) > 0)
        assert line.spread == '' or (float(line.spread) > 0 and int(line.n) > 1)


def test_what_has_no_known_origin_is_marked_and_a_copy_is_never_called_primary(numbers):
    unknown = numbers[numbers['setting'].str.contains('not known')]
    assert list(unknown['value']) == ['44.9', '45.6'] and set(unknown['method']) == {'SemMAE'}
    assert set(unknown['certainty']) == {'unverified'}
    assert set(numbers[numbers['certainty'] == 'unverified']['method']) == {'SemMAE', 'DINOv3'}
    copied = numbers['source'].str.contains('quoted|comparison of methods')
    assert 'primary' not in set(numbers[copied]['certainty'])


def test_it_never_mixes_with_the_numbers_of_the_paper(numbers):
    rows = set(load_numbers()['row'])
    assert not rows & {cell for column in numbers for cell in numbers[column]}
    assert 'row' not in numbers and not numbers['source'].str.startswith('SemMAE paper').any()


def test_the_spread_of_mae_is_the_one_its_four_values_have():
    values = [83.63, 83.66, 83.52, 83.46]
    assert round(statistics.fmean(values), 2) == 83.57
    assert round(statistics.pstdev(values), 2) == 0.08
    assert round(statistics.stdev(values), 2) == 0.09


def test_the_table_shows_texts_and_says_how_to_read_them():
    frame = elsewhere_table()
    assert list(frame) == COLUMNS and len(frame) == 76
    assert frame.map(lambda cell: isinstance(cell, str) and cell == cell.strip()).all(axis=None)
    assert '83.57 ± 0.08 (n=4)' in set(frame['value']) and '83.454 (n=5)' in set(frame['value'])
    assert 'ADE20K, mIoU in %' in set(frame['measured on'])
    said = ' '.join(frame.attrs['legend'])
    for text in ('83.34 against 83.26', '65.0 against 65.1', '46.3 against 46.1', '8x8',
                 '44.9 against 46.5', '68.7 and 84.50', 'no independent number', '1 to 2 mIoU'):
        assert text in said
    assert frame.attrs['bold'] == [] and 'not ours' in frame.attrs['title']
