import json
import logging
import os
import re
import shutil
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from mmengine.runner import Runner
from mmengine.runner.checkpoint import load_state_dict

from semmae.results.mmengine_logs import read_work_dirs
from semmae.results.protocol import differing_fields
from semmae.results.results import REQUIRED, append_result, complaint, read_results
from tests.tiny import fork, wait

FIRST, SECOND, THIRD = '20260101_000000', '20260102_000000', '20260103_000000'

EPOCHS = """
default_hooks = dict(logger=dict(interval=50, type='LoggerHook'))
model = dict(
    backbone=dict(arch='b', drop_path_rate=0.1, img_size=224, patch_size=16,
                  type='mmpretrain.VisionTransformer'),
    head=dict(in_channels=768, num_classes=1000, type='mmpretrain.LinearClsHead'),
    train_cfg=dict(augments=[
        dict(alpha=0.8, type='Mixup'),
    ]),
    type='mmpretrain.ImageClassifier')
optim_wrapper = dict(
    constructor='LearningRateDecayOptimWrapperConstructor',
    optimizer=dict(betas=(0.9, 0.999), lr=-1e-3, type='AdamW', weight_decay=0.05),
    paramwise_cfg=dict(custom_keys=dict({'.cls_token': dict(decay_mult=0.0)}),
                       layer_decay_rate=0.65),
    type='AmpOptimWrapper')
param_scheduler = [
    dict(T_max=95, begin=5, by_epoch=True, type='CosineAnnealingLR'),
]
randomness = dict(seed=3)
train_cfg = dict(by_epoch=True, max_epochs=3, val_interval=1)
train_dataloader = dict(
    batch_size=128,
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(scale=224, type='RandomResizedCrop'),
            dict(prob=0.5, type='RandomFlip'),
        ],
        split='train', type='mmpretrain.ImageNet'))
val_dataloader = dict(
    batch_size=64,
    dataset=dict(
        pipeline=[
            dict(edge='short', scale=256, type='ResizeEdge'),
            dict(crop_size=224, type='CenterCrop'),
        ],
        split='val', type='mmpretrain.ImageNet'))
val_evaluator = dict(topk=(1, 5), type='Accuracy')
"""
ITERS = """
crop_size = (512, 512)
default_hooks = dict(logger=dict(interval=50, log_metric_by_epoch=False, type='LoggerHook'))
model = dict(
    data_preprocessor=dict(size=crop_size, type='SegDataPreProcessor'),
    decode_head=dict(num_classes=150, type='UPerHead'),
    test_cfg=dict(mode='whole'),
    type='EncoderDecoder')
train_cfg = dict(max_iters=120, type='IterBasedTrainLoop', val_interval=50)
train_dataloader = dict(
    batch_size=2,
    dataset=dict(
        pipeline=[dict(crop_size=crop_size, cat_max_ratio=0.75, type='RandomCrop')],
        type='ADE20KDataset'))
val_dataloader = dict(
    dataset=dict(
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        pipeline=[dict(keep_ratio=True, scale=(2048, 512), type='Resize')],
        type='ADE20KDataset'))
val_evaluator = dict(iou_metrics=['mIoU'], type='IoUMetric')
"""
OWN = """
randomness = dict(seed=4)
result = dict(dataset='ImageNet-1K', metric=['accuracy/top1', 'other'], split='val',
              tables=[1, 3], task='finetune')
train_cfg = dict(by_epoch=True, max_epochs=3)
"""


def trained(step, epoch=None, loss=0.5):
    epoch = {} if epoch is None else {'epoch': epoch}
    return {'lr': 1e-3, 'data_time': .01, 'loss': loss, 'time': .05, **epoch, 'iter': step,
            'step': step}


def validated(step, value, metric='accuracy/top1'):
    return {metric: value, 'data_time': .001, 'time': .003, 'step': step}


def epochs(*values, start=1):
    """Lines of a training of 100 steps an epoch with these validations."""
    return [line for epoch, value in enumerate(values, start)
            for line in (trained(100 * epoch - 50, epoch), trained(100 * epoch, epoch),
                         validated(epoch, value))]


def a_start(run, when=FIRST, lines=(), config=EPOCHS, test=None, log=''):
    """One start of a run, in the files that mmengine writes."""
    data = run / when / 'vis_data'
    data.mkdir(parents=True)
    (run / when / f'{when}.log').write_text(log)
    if lines:
        text = ''.join((line if isinstance(line, str) else json.dumps(line)) + '\n'
                       for line in lines)
        (data / 'scalars.json').write_text(text)
        (data / f'{when}.json').write_text(text)
    if test is not None:
        (run / when / f'{when}.json').write_text(json.dumps(test))
    if config is not None:
        (data / 'config.py').write_text(config)
        (run / 'vit-base_imagenet.py').write_text(config)
    return run


def only(*paths):
    records, problems = read_work_dirs(paths)
    assert len(records) == 1 and problems == []
    return records[0]


def test_the_last_validation_counts_and_not_the_best(tmp_path):
    record = only(a_start(tmp_path / 'vit', lines=epochs(70., 80., 75.)))
    assert (record['value'], record['status'], record['why']) == (75., 'ok', '')
    assert {k: record[k] for k in ('row', 'method', 'recipe', 'task', 'tables', 'dataset', 'split',
                                   'metric', 'unit', 'seed', 'epochs', 'iters')} == {
        'row': 'run/vit', 'method': 'vit', 'recipe': 'vit', 'task': 'run', 'tables': [],
        'dataset': 'ImageNet', 'split': 'val', 'metric': 'accuracy/top1', 'unit': '%', 'seed': 3,
        'epochs': 3, 'iters': 300}
    assert record['source'] == str(tmp_path / 'vit')
    assert Path(record['config']) == tmp_path / 'vit' / FIRST / 'vis_data' / 'config.py'
    assert 'selection' not in record['protocol']


def test_the_time_is_that_of_the_file_in_utc(tmp_path):
    run = a_start(tmp_path / 'vit', lines=epochs(70., 80., 75.))
    os.utime(run / FIRST / 'vis_data' / 'scalars.json', (1_700_000_000, 1_700_000_000))
    assert only(run)['time'] == '2023-11-14T22:13:20.000+00:00'


def test_every_metric_of_a_validation_gives_a_record_with_its_unit(tmp_path):
    line = {**validated(120, 47.5, 'mIoU'), 'aAcc': 82.5, 'mAcc': 58., 'coco/bbox_mAP': .41}
    a_start(tmp_path / 'upernet', lines=[trained(100), line], config=ITERS)
    records, _ = read_work_dirs([tmp_path])
    assert {r['metric']: (r['value'], r['unit']) for r in records} == {
        'mIoU': (47.5, '%'), 'aAcc': (82.5, '%'), 'mAcc': (58., '%'), 'coco/bbox_mAP': (.41, '')}
    assert {(r['dataset'], r['split']) for r in records} == {('ADE20KDataset', 'val')}


def test_a_hierarchical_log_gives_the_same_numbers(tmp_path):
    lines = [{'train/lr': .1, 'train/loss': .5, 'epoch': 3, 'iter': 300, 'step': 300},
             {'val/accuracy/top1': 75., 'val/time': .1, 'val/data_time': .1, 'step': 3}]
    record = only(a_start(tmp_path / 'vit', lines=lines))
    assert (record['metric'], record['value'], record['unit']) == ('accuracy/top1', 75., '%')


@pytest.mark.parametrize('first, second, value, why', [
    (dict(lines=epochs(70., 80., 10.)), dict(lines=epochs(78., start=3)), 78., ''),
    (dict(lines=epochs(70., 80., 90.)), dict(lines=epochs(60.)), None, 'epoch 1 of 3'),
    (dict(lines=epochs(70., 80., 75.)),
     dict(test={'accuracy/top1': 76., 'data_time': .1, 'time': .1}), 76., ''),
    (dict(lines=epochs(70., 80.)), dict(test={'accuracy/top1': 81.}), 81.,
     'tested after epoch 2 of 3'),
    (dict(test={'accuracy/top1': 99.}), dict(lines=epochs(70., 80., 75.)), 75., '')],
    ids=['resumed', 'started again', 'tested', 'tested unfinished', 'trained after a test'])
def test_the_later_start_of_a_run_counts(tmp_path, first, second, value, why):
    a_start(tmp_path / 'vit', FIRST, **first)
    record = only(a_start(tmp_path / 'vit', SECOND, **second))
    assert (record['metric'], record['value'], record['why']) == ('accuracy/top1', value, why)
    assert record['status'] == ('unfinished' if value is None else 'ok')
    assert record['protocol']['epochs'] == (2 if 'tested' in why else 3)


def test_a_resume_joins_the_validations_of_all_starts(tmp_path):
    run = a_start(tmp_path / 'vit', FIRST, lines=epochs(70., 80.))
    a_start(run, SECOND, lines=epochs(79., 75., start=2))
    a_start(run, THIRD, test={'accuracy/top1': 80.},
            log='2026/01/03 00:00:00 - mmengine - INFO - Load checkpoint from '
                'work_dirs/vit/best_accuracy_top1_epoch_2.pth\n')
    assert only(run)['protocol']['selection'] == 'best of 3 validations'


def test_torn_and_foreign_lines_are_skipped_and_counted(tmp_path):
    lines = epochs(70., 80., 75.)
    run = a_start(tmp_path / 'vit', lines=[
        *lines[:2], '{"lr": 0.001, "lo', '[1, 2]', '{"loss": 1}', *lines[2:]])
    file = run / FIRST / 'vis_data' / 'scalars.json'
    records, problems = read_work_dirs([run])
    assert [r['value'] for r in records] == [75.]
    assert problems == [f'{file}: 3 of 12 lines damaged and skipped (lines 3, 4, 5)']


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 10_000), junk=st.binary(max_size=40))
def test_no_damage_to_a_log_raises_or_changes_a_value(tmp_path_factory, cut, junk):
    run = a_start(tmp_path_factory.mktemp('runs') / 'vit', lines=epochs(70., 80., 75.))
    file = run / FIRST / 'vis_data' / 'scalars.json'
    text = file.read_bytes()
    file.write_bytes(text[:cut % len(text)] + junk)
    records, _ = read_work_dirs([run])
    assert {r['value'] for r in records if r['metric'] == 'accuracy/top1'} <= {None, 75.}


@pytest.mark.parametrize('token', ['NaN', 'Infinity', '-Infinity'])
def test_a_value_that_is_not_finite_is_no_number(tmp_path, token):
    record = only(a_start(tmp_path / 'vit', lines=[
        trained(300, 3), f'{{"accuracy/top1": {token}, "time": 0.1, "step": 3}}']))
    assert (record['status'], record['value'], record['why']) == (
        'non-finite', None, f'accuracy/top1 is {token}')


def test_a_value_after_a_loss_of_nan_does_not_count(tmp_path):
    record = only(a_start(tmp_path / 'vit', lines=[
        *epochs(70., 80.), trained(300, 3, float('nan')), validated(3, .1)]))
    assert (record['status'], record['value'], record['why']) == (
        'non-finite', None, 'loss is NaN at step 300')


IN_STEPS = EPOCHS.replace('interval=50', 'interval=50, log_metric_by_epoch=False')
IN_PASSES = ITERS.replace('log_metric_by_epoch=False, ', '')
LOG = '2026/01/01 00:00:00 - mmengine - INFO - Iter(train) [ 50/{}]  lr: 1e-3  loss: 0.5\n'


def steps(*pairs, metric='mIoU'):
    """Lines of a training validated in these (training step, validation step, value)."""
    return [line for step, at, value in pairs
            for line in (trained(step), validated(at, value, metric))]


@pytest.mark.parametrize('config, lines, log, value, why', [
    (EPOCHS, epochs(70., 80.), '', None, 'epoch 2 of 3'),
    (EPOCHS, [*epochs(70., 80.), trained(300, 3)], '', None, 'not validated after epoch 3 of 3'),
    (EPOCHS, (), 'CUDA out of memory', None, 'epoch 0 of 3'),
    # No line names its epoch: the validations count them.
    (EPOCHS, steps((100, 1, 70.), (200, 2, 70.), metric='accuracy/top1'), '', None, 'epoch 2 of 3'),
    (EPOCHS, steps((100, 1, 70.), (200, 2, 70.), (300, 3, 70.), metric='accuracy/top1'), '', 70.,
     ''),
    # Nothing counts epochs: the log has the number of iterations.
    (IN_STEPS, steps((100, 100, 70.), (200, 200, 75.), metric='accuracy/top1'), LOG.format(200),
     75., ''),
    (IN_STEPS, steps((100, 100, 70.), (200, 200, 75.), metric='accuracy/top1'), LOG.format(300),
     None, 'iteration 200 of 300'),
    (IN_STEPS, steps((100, 100, 70.), (200, 200, 75.), metric='accuracy/top1'), '', None,
     'the iterations in an epoch are not known'),
    (ITERS, [trained(50)], '', None, 'iteration 50 of 120'),
    (ITERS, steps((50, 50, 40.), (100, 100, 45.)), '', None, 'iteration 100 of 120'),
    (ITERS, [*steps((50, 50, 40.), (100, 100, 45.)), validated(120, 46., 'mIoU')], '', 46., ''),
    # Validations are counted in passes over the data; iterations 101 to 120 are not logged.
    (IN_PASSES, steps((50, 1, 40.), (100, 2, 45.)), '', 45., ''),
    (IN_PASSES, steps((50, 1, 40.)), '', None, 'iteration 50 of 120')])
def test_a_run_is_finished_exactly_if_it_was_validated_after_its_last_step(
        tmp_path, config, lines, log, value, why):
    record = only(a_start(tmp_path / 'vit', lines=lines, config=config, log=log))
    assert (record['status'], record['value'], record['why']) == (
        'ok' if why == '' else 'unfinished', value, why)
    assert record['metric'] == ('accuracy/top1' if 'Accuracy' in config else 'mIoU')


def what_mmengine_logs(file, model, state):
    """The text that mmengine writes when these weights are loaded into the model."""
    name = f'loading {file}'
    logger = MMLogger.get_instance(name, logger_name=name, log_file=str(file))
    load_state_dict(model, state, logger=logger)
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.close()
    MMLogger._instance_dict.pop(name)
    return file.read_text()


def a_model():
    return torch.nn.ModuleDict(dict(
        backbone=torch.nn.ModuleDict(dict(a=torch.nn.Linear(2, 3), ln2=torch.nn.LayerNorm(3))),
        head=torch.nn.Linear(3, 4), decode_head=torch.nn.Linear(3, 4)))


def without(state, prefix):
    return {key: value for key, value in state.items() if not key.startswith(prefix)}


@pytest.mark.parametrize('change, why', [
    (lambda s: without(s, 'backbone.a'),
     '2 tensors of the backbone missing, first: backbone.a.weight'),
    (lambda s: {**s, 'backbone.a.bias': torch.zeros(7)},
     '1 tensor of the backbone missing, first: backbone.a.bias'),
    (lambda s: {f'encoder.{k}': v for k, v in s.items()},
     '2 tensors of the backbone missing, first: backbone.a.weight')])
def test_a_backbone_that_was_not_loaded_gives_no_value(tmp_path, change, why):
    text = what_mmengine_logs(tmp_path / 'a.log', a_model(), change(a_model().state_dict()))
    record = only(a_start(tmp_path / 'vit', lines=epochs(70., 80., 75.), log=text))
    assert (record['status'], record['value'], record['why']) == ('not loaded', None, why)


@pytest.mark.parametrize('change', [
    lambda s: without(without(s, 'head.'), 'decode_head.'),
    lambda s: {**s, 'head.bias': torch.zeros(7)},
    lambda s: {**s, 'decoder.weight': torch.zeros(7)},
    lambda s: without(s, 'backbone.ln2.')])
def test_tensors_that_a_fine_tuning_initialises_may_be_missing(tmp_path, change):
    text = what_mmengine_logs(tmp_path / 'a.log', a_model(), change(a_model().state_dict()))
    assert 'do not match exactly' in text
    record = only(a_start(tmp_path / 'vit', lines=epochs(70., 80., 75.), log=text))
    assert (record['status'], record['value']) == ('ok', 75.)


def test_a_tested_checkpoint_without_its_head_gives_no_value(tmp_path):
    state = without(a_model().state_dict(), 'head')
    text = what_mmengine_logs(tmp_path / 'a.log', a_model(), state)
    run = a_start(tmp_path / 'vit', lines=epochs(70., 80., 75.))
    record = only(a_start(run, SECOND, test={'accuracy/top1': .1}, log=text))
    assert (record['status'], record['why']) == (
        'not loaded', '2 tensors of the model missing, first: head.weight')


def test_a_damaged_test_file_leaves_the_validation(tmp_path):
    run = a_start(tmp_path / 'vit', lines=epochs(70., 80., 75.))
    a_start(run, SECOND, test={})
    file = run / SECOND / f'{SECOND}.json'
    file.write_text('{"accuracy/top1": 9')
    records, problems = read_work_dirs([run])
    assert [r['value'] for r in records] == [75.]
    assert problems == [f'{file}: damaged and skipped']


@pytest.mark.parametrize('checkpoint, lines, selection', [
    ('best_accuracy_top1_epoch_2.pth', epochs(70., 80., 75.), 'best of 3 validations'),
    ('best_accuracy_top1_epoch_2.pth', (), 'best of several validations'),
    ('epoch_3.pth', epochs(70., 80., 75.), None)])
def test_a_test_of_the_best_checkpoint_is_named_in_its_protocol(
        tmp_path, checkpoint, lines, selection):
    run = a_start(tmp_path / 'vit', lines=lines)
    log = ('2026/01/02 00:00:00 - mmengine - INFO - Load checkpoint from '
           f'/data/work_dirs/vit/{checkpoint}\n')
    record = only(a_start(run, SECOND, test={'accuracy/top1': 80.}, log=log))
    assert record['protocol'].get('selection') == selection


def test_an_evaluation_of_this_project_without_a_result_is_unfinished(tmp_path):
    run = a_start(tmp_path / 'semmae_p8', lines=epochs(70., 80.), config=OWN)
    record = only(run)
    assert {k: record[k] for k in ('row', 'task', 'dataset', 'split', 'metric', 'tables', 'seed',
                                   'status', 'value', 'why', 'unit')} == {
        'row': 'finetune/semmae_p8', 'task': 'finetune', 'dataset': 'ImageNet-1K', 'split': 'val',
        'metric': 'accuracy/top1', 'tables': [1, 3], 'seed': 4, 'status': 'unfinished',
        'value': None, 'why': 'epoch 2 of 3', 'unit': '%'}


def test_a_start_without_a_config_uses_the_one_of_the_work_dir(tmp_path):
    run = a_start(tmp_path / 'semmae_p8', lines=epochs(70., 80., 75.), config=None)
    (run / 'config.py').write_text(OWN)
    record = only(run)
    assert (record['row'], record['why']) == ('finetune/semmae_p8', 'no results.jsonl')


def test_finished_evaluations_and_pretrainings_of_this_project_give_nothing(tmp_path):
    run = a_start(tmp_path / 'semmae_p8', lines=epochs(70., 80., 75.), config=OWN)
    (run / 'results.jsonl').write_text('')
    (record,), _ = read_work_dirs([tmp_path])  # an empty file holds no result
    assert record['status'] == 'unfinished'
    (run / 'results.jsonl').write_text('{}\n')
    a_start(tmp_path / 'pretrain', lines=[trained(100, 1)],
            config="recipe = dict(id='semmae_p8', method='SemMAE')\n" + EPOCHS)
    assert read_work_dirs([tmp_path]) == ([], [])


def test_a_foreign_pretraining_has_nothing_to_measure(tmp_path):
    config = "train_dataloader = dict(batch_size=2)\ntrain_cfg = dict(max_epochs=1)\n"
    a_start(tmp_path / 'mae', lines=[trained(100, 1)], config=config)
    assert read_work_dirs([tmp_path]) == ([], [])


def test_code_in_a_config_is_never_executed(tmp_path):
    victim = tmp_path / 'created'
    code = (f'import pathlib\npathlib.Path({str(victim)!r}).touch()\n'
            f'bad = pathlib.Path({str(victim)!r}).touch()\n'
            f'dict = lambda **k: pathlib.Path({str(victim)!r}).touch()\n'
            f'x = [open({str(victim)!r}, "w") for _ in range(1)]\n')
    exec(code, {})
    assert victim.exists()      # so it is code that works
    victim.unlink()
    record = only(a_start(tmp_path / 'vit', lines=epochs(70., 80., 75.), config=code + EPOCHS))
    assert not victim.exists()
    assert (record['value'], record['seed']) == (75., 3)


@pytest.mark.parametrize('text', [
    'model = dict(', 'a = ' + '[' * 5000 + ']' * 5000, 'a = ' + '-' * 100_000 + '1', 'a = "\0"',
    'a0 = [1]\n' + '\n'.join(f'a{i} = [{", ".join([f"a{i - 1}"] * 9)}]' for i in range(1, 30))])
def test_a_damaged_config_is_a_problem_and_keeps_the_value(tmp_path, text):
    run = a_start(tmp_path / 'vit', lines=epochs(70., 80., 75.), config=text)
    records, problems = read_work_dirs([run])
    assert [(r['value'], r['dataset'], r['seed']) for r in records] == [(75., 'unknown', None)]
    (problem,) = problems
    assert problem.startswith(f'{run}/{FIRST}/vis_data/config.py: damaged, config not used')


def test_a_run_without_a_config_is_read_with_a_problem(tmp_path):
    run = a_start(tmp_path / 'vit', lines=epochs(70., 80., 75.), config=None)
    records, problems = read_work_dirs([run])
    assert [(r['value'], r['dataset'], r['split']) for r in records] == [(75., 'unknown', 'val')]
    assert problems == [f'{run}: no config found; whether the run finished is not known']


@pytest.mark.parametrize('value', ['1e999', '9' * 400, '...', "b'x'", '1j', 'inf', 'f(x) + 1'])
def test_config_values_that_are_no_json_become_text(tmp_path, value):
    run = a_start(tmp_path / 'vit', lines=epochs(70., 80., 75.),
                  config=EPOCHS.replace('weight_decay=0.05', f'weight_decay={value}'))
    record = only(run)
    assert isinstance(record['protocol']['weight_decay'], str)
    assert append_result(tmp_path / 'results.jsonl', record)['value'] == 75.


def test_the_protocol_names_what_decides_a_comparison(tmp_path):
    protocol = only(a_start(tmp_path / 'vit', lines=epochs(70., 80., 75.)))['protocol']
    assert protocol == dict(
        recorded_by='mmengine', dataset='ImageNet', split='val', num_classes=1000,
        model='ImageClassifier', backbone=dict(type='VisionTransformer', arch='b'),
        heads=dict(head=['LinearClsHead(in_channels=768)']), input_size=[224, 224],
        crop_size=[224, 224], patch_size=16, drop_path=0.1,
        augmentation=['LoadImageFromFile()', 'RandomResizedCrop()', 'RandomFlip(prob=0.5)'],
        test_pipeline=['ResizeEdge(edge=short, scale=256)', 'CenterCrop()'],
        batch_augments=['Mixup(alpha=0.8)'], epochs=3, batch_size=128, optimizer='AdamW', lr=-1e-3,
        weight_decay=0.05, optimizer_args=dict(betas=[0.9, 0.999]), layer_decay=0.65,
        paramwise=dict(custom_keys={'.cls_token': dict(decay_mult=0.0)}),
        schedule=['CosineAnnealingLR(T_max=95, begin=5, by_epoch=True)'], precision='amp')


@pytest.mark.parametrize('config, old, new, fields', [
    (ITERS, '(512, 512)', '(640, 640)', {'crop_size', 'input_size'}),
    (EPOCHS, 'scale=224', 'scale=192', {'crop_size'}),
    (EPOCHS, 'crop_size=224', 'crop_size=256', {'input_size'}),
    (EPOCHS, 'scale=256', 'scale=232', {'test_pipeline'}),
    (EPOCHS, 'batch_size=128', 'batch_size=64', {'batch_size'}),
    (EPOCHS, 'AmpOptimWrapper', 'OptimWrapper', {'precision'})])
def test_runs_that_differ_in_one_setting_differ_in_its_field_alone(
        tmp_path, config, old, new, fields):
    line = validated(120, 50.)
    protocols = [only(a_start(tmp_path / name, lines=[trained(120, 3), line, validated(3, 50.)][
        :2 if config is ITERS else 3], config=text))['protocol']
        for name, text in (('one', config), ('two', config.replace(old, new)))]
    assert set(differing_fields(protocols)) == fields


def test_runs_of_equal_names_are_named_with_the_folders_above(tmp_path):
    for name in ('seed0/probe/vit', 'seed1/probe/vit', 'seed1/other'):
        a_start(tmp_path / name, lines=epochs(70., 80., 75.))
    records, problems = read_work_dirs([tmp_path])
    assert [r['row'] for r in records] == [
        'run/other', 'run/seed0/probe/vit', 'run/seed1/probe/vit'] and problems == []
    assert [r['method'] for r in records] == ['other', 'seed0/probe/vit', 'seed1/probe/vit']


def test_links_are_followed_once_and_rename_no_run(tmp_path):
    a_start(tmp_path / 'runs' / 'vit', lines=epochs(70., 80., 75.))
    (tmp_path / 'runs' / 'a_loop').symlink_to(tmp_path / 'runs')
    (tmp_path / 'runs' / 'latest').symlink_to(tmp_path / 'runs' / 'vit')
    a_start(tmp_path / 'elsewhere' / 'deit', lines=epochs(1., 2., 3.))
    (tmp_path / 'runs' / 'linked').symlink_to(tmp_path / 'elsewhere')
    records, problems = read_work_dirs([tmp_path / 'runs'])
    assert [(r['row'], r['value']) for r in records] == [('run/deit', 3.), ('run/vit', 75.)]
    assert problems == []


def test_folders_of_data_are_not_entered(tmp_path):
    for name in ('predictions/a', 'vis_image/b', 'vis_data/c', f'{FIRST}/e', 'f'):
        a_start(tmp_path / name, lines=epochs(70., 80., 75.))
    assert [r['row'] for r in read_work_dirs([tmp_path])[0]] == ['run/f']


def test_files_missing_paths_and_other_folders_give_nothing(tmp_path):
    (tmp_path / 'results.jsonl').write_text('')
    (tmp_path / 'run' / FIRST).mkdir(parents=True)
    assert read_work_dirs([tmp_path / 'results.jsonl', tmp_path / 'none', tmp_path]) == ([], [])


def test_what_cannot_be_read_is_a_problem(tmp_path):
    run = a_start(tmp_path / 'vit', lines=epochs(70., 80., 75.))
    file = run / FIRST / 'vis_data' / 'scalars.json'
    file.unlink()
    file.mkdir()
    records, problems = read_work_dirs([run])
    assert [r['status'] for r in records] == ['unfinished']
    assert problems == [f'{file}: not read further (Is a directory)']


@pytest.fixture
def many_kinds(tmp_path):
    """A work dir with a run of every kind."""
    root = tmp_path / 'work_dirs'
    a_start(root / 'seed0' / 'vit', lines=epochs(70., 80., 75.))
    a_start(root / 'seed1' / 'vit', lines=[*epochs(70., 80.), '{"torn'])
    a_start(root / 'upernet', lines=[trained(100), validated(120, 46., 'mIoU')], config=ITERS)
    a_start(root / 'nan', lines=[trained(300, 3, float('nan')), validated(3, float('nan'))])
    a_start(root / 'own', lines=epochs(70.), config=OWN)
    a_start(root / 'bare', lines=epochs(70.), config=None)
    a_start(root / 'tested', test={'accuracy/top1': 76., 'per_class': [1, 2]})
    return root


def test_the_order_of_paths_changes_nothing(many_kinds):
    paths = [many_kinds, many_kinds / 'seed0', many_kinds / 'upernet', many_kinds / 'own' / '..']
    expected = read_work_dirs(paths)
    assert len(expected[0]) == 7 and read_work_dirs(paths[::-1]) == expected


def test_every_record_has_the_fields_of_a_result_and_can_be_written_as_one(many_kinds):
    records, _ = read_work_dirs([many_kinds])
    for record in records:
        assert set(REQUIRED) <= set(record) and complaint(record) == ''
        assert append_result(many_kinds / 'results.jsonl', record) == record
    assert {r['status'] for r in records} == {'ok', 'unfinished', 'non-finite'}
    assert len(read_results([many_kinds / 'results.jsonl'])[0]) == len(records)


def test_a_thousand_runs_are_read(tmp_path):
    lines = [json.dumps(line) for line in (trained(1, 1), validated(1, 50.))]
    config = 'train_cfg = dict(max_epochs=1)\n'
    for i in range(1000):
        data = tmp_path / f'{i % 100}/run{i}/{FIRST}/vis_data'
        data.mkdir(parents=True)
        (data / 'scalars.json').write_text('\n'.join(lines))
        (data / 'config.py').write_text(config)
    records, problems = read_work_dirs([tmp_path])
    assert len(records) == 1000 and {r['value'] for r in records} == {50.} and problems == []


def a_real_run(folder):
    """Train for two epochs with mmengine, and test the best checkpoint."""
    class Line(BaseModel):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, inputs, mode='tensor'):
            difference = self.weight - torch.stack(inputs)
            return dict(loss=(difference ** 2).mean()) if mode == 'loss' else [difference]

    class Ones(torch.utils.data.Dataset):
        def __init__(self, split):
            pass

        def __len__(self):
            return 8

        def __getitem__(self, i):
            return dict(inputs=torch.ones(1))

    class Score(BaseMetric):
        values = [60., 50., 60.]

        def process(self, data_batch, data_samples):
            self.results.append(0)

        def compute_metrics(self, results):
            return {'accuracy/top1': self.values.pop(0)}

    for registry, found in ((MODELS, Line), (DATASETS, Ones), (METRICS, Score)):
        registry.register_module(module=found)
    loader = dict(batch_size=2, num_workers=0, dataset=dict(type='Ones', split='val'),
                  sampler=dict(type='DefaultSampler', shuffle=False))
    cfg = dict(
        work_dir=str(folder), experiment_name='training', model=dict(type='Line'),
        train_dataloader=loader, val_dataloader=loader, test_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=2), val_cfg=dict(), test_cfg=dict(),
        val_evaluator=dict(type='Score'), test_evaluator=dict(type='Score'),
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(logger=dict(type='LoggerHook', interval=3), checkpoint=dict(
            type='CheckpointHook', interval=1, save_best='accuracy/top1', rule='greater')),
        randomness=dict(seed=5), launcher='none')
    Runner.from_cfg(Config(cfg)).train()
    time.sleep(1.1)  # each start has its own second
    cfg.update(load_from=f'{folder}/best_accuracy_top1_epoch_1.pth', experiment_name='test')
    Runner.from_cfg(Config(cfg)).test()


def test_a_real_run_of_mmengine_is_read(tmp_path):
    said = tmp_path / 'said.txt'
    assert wait(fork(lambda: a_real_run(tmp_path / 'work'), said)) == 0, said.read_text()
    tested = only(tmp_path / 'work')
    assert (tested['row'], tested['value'], tested['unit'], tested['status'], tested['seed']) == (
        'run/work', 60., '%', 'ok', 5)
    assert tested['protocol'] == dict(
        recorded_by='mmengine', dataset='Ones', split='val', model='Line', epochs=2, batch_size=2,
        optimizer='SGD', lr=.1, precision='float32', selection='best of 2 validations')
    _, test = sorted(p for p in (tmp_path / 'work').iterdir() if re.match(r'\d{8}_', p.name)
                     and p.is_dir())
    shutil.rmtree(test)
    validation = only(tmp_path / 'work')
    assert (validation['metric'], validation['value'], validation['status']) == (
        'accuracy/top1', 50., 'ok')
    assert (validation['epochs'], validation['iters']) == (2, 7)     # of 8, every third of an epoch
    assert 'selection' not in validation['protocol']
