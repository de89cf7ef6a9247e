"""The scripts in benchmarks/speed run at tiny sizes, and their records are consistent."""
import functools
import gc
import json
from types import SimpleNamespace

import pytest
import torch

from benchmarks.speed import backbones, floor, growth, plain_probes, probes, summary, tables


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
    rows = record_of(backbones, tmp_path, '--quick')['rows']
    classifiers = ['semmae.ViT', 'semmae.TimmViT', 'mmpretrain.VisionTransformer', 'timm']
    by_task = {task: [row for row in rows if row['task'] == task] for task in backbones.TASKS}
    assert {task: [row['backbone'] for row in found] for task, found in by_task.items()} == {
        'fine-tuning': classifiers, 'linear probing': classifiers,
        'UPerNet': ['semmae.ViT', 'mmseg.MAE'],
        'UPerNet, plain': ['semmae.ViT', 'semmae.TimmViT', 'mmseg.VisionTransformer']}
    for ours, *others in by_task.values():
        assert ours['times_ours'] == 1
        for row in others:
            assert row['gflops_per_image'] == pytest.approx(ours['gflops_per_image'], rel=.01)
            # mmseg's has a layer scale, and neither class position nor patch positions
            assert row['parameters'] == pytest.approx(ours['parameters'], rel=.02)
            assert row['times_ours_lowest'] <= row['times_ours'] <= row['times_ours_highest']
    assert [row['task'] for row in rows if 'times_timm' in row] == ['fine-tuning',
                                                                   'linear probing']


@pytest.mark.parametrize('task', backbones.TASKS)
def test_a_task_has_one_size_for_all_of_its_backbones(task):
    for cfg in backbones.variants(task, 'small').values():
        backbone = cfg.model.backbone
        width = backbone.get('embed_dim') or backbone.get('embed_dims')
        assert (width, backbone.get('arch')) in ((384, None), (None, 'deit-small'))
        head = cfg.model.get('decode_head') or cfg.model.head
        assert head.in_channels in (384, [384] * 4)


def test_the_summary_puts_the_backbones_of_a_task_on_one_line(tmp_path):
    rows = [dict(task='fine-tuning', size='small', mode=mode, backbone=name, times_ours=times)
            for mode, of in (('eager', (1, 1.016, .95)), ('compiled', (1, 1., .9)))
            for name, times in zip(('semmae.ViT', 'semmae.TimmViT', 'timm'), of)]
    (tmp_path / 'speed_backbones.json').write_text(json.dumps(dict(rows=rows)))
    assert list(summary.backbones(tmp_path)) == [
        ('fine-tuning, ViT-S/16, step', '', 'semmae.TimmViT takes 1.02, timm 0.95 times as long as '
         '`semmae.ViT`; compiled 1.00, 0.90')]


@pytest.mark.slow
def test_extrapolated_probes_are_a_multiple_of_measured_epochs(tmp_path):
    record = record_of(probes, tmp_path, '--model', 'test_vit', '--limit', 6, '--epochs', 3,
                       '--few', 4, '--few-epochs', 1, '--repeats', 2, '--classes', 10)
    rows = {row['what']: row for row in record['rows']}
    assert rows[probes.GRID]['probes'] == 78 and rows[probes.FEW]['probes'] == 8
    for what, measured, factor in (
            ('one probe after the other, through the network', probes.ONE, 78 * 3),
            ('all probes at once, through the network', probes.ALL, 3)):
        assert rows[what]['s'] == pytest.approx(factor * rows[measured]['s'])
        assert rows[what]['extrapolated_from_epochs'] == 2
    extrapolated = [row['what'] for row in record['rows'] if row['extrapolated_from_epochs']]
    text = (tmp_path / 'new/speed.md').read_text()
    assert len(extrapolated) == 2 == text.count('extrapolated from 2 measured epochs')
    assert all(row['cpu_s'] >= 0 for row in record['rows'])
    (tmp_path / 'new/speed.json').rename(tmp_path / 'speed_probes.json')
    together, small, reading = summary.probes(tmp_path)
    assert 'extrapolated from 2 epochs' in together[2] and 'extrapolated' not in small[2]
    assert 'images/s' in reading[1]


def test_probes_through_the_network_see_all_images_in_each_epoch(monkeypatch):
    steps = []
    monkeypatch.setattr(plain_probes.PlainProbe, 'step', lambda probe, features, labels: (
        steps.append((probe.kinds, sorted(labels.tolist()), len(features['mean'])))))
    monkeypatch.setattr(plain_probes, 'encode', lambda loop, batch: torch.zeros(
        len(batch['data_samples']), 5, 8))
    images = [dict(data_samples=SimpleNamespace(gt_label=i)) for i in range(7)]
    loader = torch.utils.data.DataLoader(images, 2, collate_fn=lambda samples: {
        'data_samples': [sample['data_samples'] for sample in samples]})
    model = SimpleNamespace(backbone=SimpleNamespace(num_prefix=1, embed_dims=8),
                            task=SimpleNamespace(num_classes=7))
    loop = SimpleNamespace(runner=SimpleNamespace(model=model), dataloader=loader)
    settings = [dict(tokens=kind, lr=.1, weight_decay=0.) for kind in ('class', 'class+mean')]
    plain_probes.through_network(loop, loader, settings, epochs=2, batch_size=4)
    assert [kinds for kinds, _, _ in steps] == [['class'], ['class', 'mean']] * 4
    assert [count for *_, count in steps] == [4, 4, 3, 3] * 2
    for epoch in (steps[0:4:2], steps[4::2]):
        assert sorted(label for _, labels, _ in epoch for label in labels) == list(range(7))


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
    assert tables.make_tables([str(tmp_path / 'runs'), '--out', str(out)]) == 0
    assert out.read_text().count('±') > 40, 'lines with several seeds'
