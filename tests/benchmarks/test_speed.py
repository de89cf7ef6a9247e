"""The scripts in benchmarks/speed run at tiny sizes, and their records are consistent."""
import functools
import gc
import json

import pytest
import torch

from benchmarks.speed import backbones, floor, growth, tables


def record_of(script, tmp_path, *arguments):
    """What the script wrote."""
    out = tmp_path / 'new/speed.json'
    script.main(['--out', str(out), *map(str, arguments)])
    record = json.loads(out.read_text())
    assert len(out.with_suffix('.md').read_text().splitlines()) == len(record['rows']) + 4
    for row in record['rows']:
        middle = next((row[key] for key in ('ms', 'image_s', 's') if key in row), None)
        assert middle is None or 0 < row['lowest'] <= middle <= row['highest']
    return record


@pytest.mark.slow
def test_the_lower_bound_of_a_stage_follows_from_the_device_and_its_operations(
        tmp_path, monkeypatch):
    stages = floor.STAGES['mini']
    monkeypatch.setitem(floor.STAGES, 'mini', {
        stage: stages[stage] for stage in ('part learning', 'part extraction')})
    record = record_of(floor, tmp_path, '--size', 'mini', '--repeats', 1, '--seconds', .01)
    learning, extraction = record['rows']
    assert learning['flops'] > extraction['flops'], 'the same encoder, and a decoder'
    for row in record['rows']:
        assert row['floor_s'] == pytest.approx(max(
            row['flops'] / record['tflops'] / 1e12, row['bytes'] / record['gb_per_s'] / 1e9))
        assert row['times_floor'] == pytest.approx(row['image_s'] / row['floor_s'])


@pytest.mark.slow
def test_the_lower_bound_for_another_device_needs_no_run(tmp_path, monkeypatch):
    stages = floor.STAGES['paper']
    monkeypatch.setitem(floor.STAGES, 'paper', {'part learning': stages['part learning']})
    monkeypatch.setattr(floor, 'action', None)
    (row,) = record_of(floor, tmp_path, '--tflops', 312, '--bandwidth', 1555)['rows']
    assert row['imagenet_hours_floor'] == pytest.approx(
        2 * 1281167 * row['flops'] / 312e12 / 3600) and row['bound'] == 'compute'
    assert 'not measured' in (tmp_path / 'new/speed.md').read_text()
    (row,) = record_of(floor, tmp_path, '--tflops', 1e6, '--bandwidth', 1)['rows']
    assert row['bound'] == 'memory' and row['floor_s'] == pytest.approx(row['bytes'] / 1e9)


@pytest.mark.slow
def test_backbones_are_compared_at_equal_operations_and_sizes(tmp_path):
    rows = record_of(backbones, tmp_path, '--size', 'mini', '--repeats', 1)['rows']
    assert [row['backbone'] for row in rows] == [
        'semmae.ViT', 'mmpretrain.VisionTransformer', 'semmae.ViT', 'mmseg.MAE']
    for ours, theirs in (rows[:2], rows[2:]):
        assert ours['times_ours'] == 1
        assert theirs['gflops_per_image'] == pytest.approx(ours['gflops_per_image'], rel=.01)
        # mmseg's has a layer scale, and neither class position nor patch positions
        assert theirs['parameters'] == pytest.approx(ours['parameters'], rel=.02)
        assert theirs['times_ours_lowest'] <= theirs['times_ours'] <= theirs['times_ours_highest']


@pytest.mark.slow
def test_growth_stands_beside_the_expected_growth(tmp_path, monkeypatch):
    monkeypatch.setitem(growth.SIZES['mini'], 'patches', (16, 4))
    monkeypatch.setattr(gc, 'collect', lambda: 0)  # by mmengine in each dataset; slow in a test run
    record = record_of(growth, tmp_path, '--size', 'mini', '--repeats', 1, '--images', 20, 80,
                       '--parts', 3, 6, '--ranks')
    rows = {}
    for row in record['rows']:
        rows.setdefault((row['grows'], row['what']), []).append(row)
    assert {grows for grows, _ in rows} == {'images', 'parts', 'patches'}
    for few, _ in rows.values():
        assert few['expected'] == few['times_first'] == 1
    few, many = rows['patches', 'pre-training, a step']
    assert (few['size'], many['size']) == (16, 256)
    # 16 times the patches: layers 16 times, attention 256 times, the pixels of an image once.
    assert 8 < many['expected'] < 20
    assert rows['images', 'list a folder'][1]['expected'] == 4


@pytest.mark.slow
def test_two_ranks_are_timed_against_one(monkeypatch):
    fork = functools.partial(torch.multiprocessing.start_processes, start_method='fork')
    monkeypatch.setattr(torch.multiprocessing, 'spawn', fork)  # new interpreters import for long
    one, two = growth.ranks([1, 2], growth.SIZES['mini']['rank'], 8, repeats=1)
    assert one['times_first'] == 1 and (one['size'], two['size']) == (1, 2)
    assert one['sent_mb'] == 0 < two['sent_mb'] and not one['is_oversubscribed']


def test_an_exponent_is_that_of_a_power_law():
    rows = growth.rows_of('any', 'any', {2: [1.], 4: [8.], 8: [64.]}, dict.fromkeys((2, 4, 8), 1))
    assert [row['exponent'] for row in rows] == [None, pytest.approx(3), pytest.approx(3)]


def test_the_runs_that_tables_are_timed_on_stand_in_the_tables(tmp_path):
    rows = record_of(tables, tmp_path, '--runs', 4, 8, '--repeats', 1)['rows']
    assert [(row['what'], row['runs']) for row in rows] == [
        ('results to tables', 4), ('of it, reading', 4),
        ('results to tables', 8), ('of it, reading', 8)]
    tables.write_runs(tmp_path / 'runs', 120)
    records, problems = tables.read_everything([str(tmp_path / 'runs')])
    assert len(records) == 120 and not problems
    out = tmp_path / 'tables.md'
    assert tables.tool()([str(tmp_path / 'runs'), '--out', str(out)]) == 0
    assert out.read_text().count('±') > 40, 'lines with several seeds'
