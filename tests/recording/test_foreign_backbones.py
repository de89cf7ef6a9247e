"""Any backbone of mmpretrain trains, saves, is validated and leaves a comparable result."""
import pytest

from semmae.reporting.tables import build_tables
from semmae.results.protocol import may_be_averaged
from semmae.results.results import read_results
from semmae.training.run import train

from ..tiny import REPO, fork, wait

pytestmark = pytest.mark.slow

CONFIG = '''
_base_ = [{base!r}]
model = dict(
    backbone=dict(_delete_=True, **{backbone!r}), neck={neck!r}, head=dict(in_channels={width}))
train_dataloader = _base_.train_dataloader
val_dataloader = _base_.val_dataloader
train_dataloader.batch_size = 8
train_dataloader.dataset.dataset.data_root = {data!r}
val_dataloader.dataset.data_root = {data!r}
test_dataloader = val_dataloader
optim_wrapper = dict(paramwise_cfg=dict(_delete_=True, norm_decay_mult=0.))
param_scheduler = []
train_cfg = dict(max_epochs=1, val_interval=1)
{more}
'''
POOLED = dict(_delete_=True, type='mmpretrain.GlobalAveragePooling')
BACKBONES = {
    'VisionTransformer': (dict(type='mmpretrain.VisionTransformer', arch=dict(
        embed_dims=32, num_layers=1, num_heads=2, feedforward_channels=64), img_size=64,
        patch_size=16, out_type='cls_token'), None, 32),
    'ResNet': (dict(type='mmpretrain.ResNet', depth=18, stem_channels=8, base_channels=8), POOLED,
               64),
    'TIMMBackbone': (dict(type='mmpretrain.TIMMBackbone', model_name='resnet10t',
                          features_only=True, out_indices=[4]), POOLED, 512)}


def run(folder, name, toy, more=''):
    """(exit code, what it printed, records) of one epoch on 16 toy images."""
    backbone, neck, width = BACKBONES[name]
    folder.mkdir(parents=True)
    path = folder / 'foreign.py'
    path.write_text(CONFIG.format(
        base=str(REPO / 'mm_configs/mini/semmae_cub_mini.py'), backbone=backbone,
        neck=neck, width=width, data=str(toy / 'CUB_200_2011'), more=more))
    code = wait(fork(lambda: train(str(path), work_dir=str(folder / 'work')), folder / 'said.txt'))
    lines = folder / 'work/results.jsonl'
    return code, (folder / 'said.txt').read_text(), read_results(lines)[0] if (
        lines.is_file()) else []


@pytest.mark.slow
def test_foreign_backbones_train_to_results_that_are_kept_apart(toy, tmp_path):
    found = {}
    for name in (*BACKBONES, 'ResNet again'):
        kind = name.split()[0]
        code, said, (record,) = run(tmp_path / name, kind, toy)
        assert code == 0, said[-2000:]
        assert record['row'] == 'cub/scratch' and record['kind'] == 'from scratch'
        assert record['protocol']['model.backbone.type'] == f'mmpretrain.{kind}'
        assert record['model']['parameters'] > 1000
        assert '64 of 224 pixels a side' in record['reduced_why']
        assert (tmp_path / name / 'work/epoch_1.pth').is_file()
        assert any((frame['ours'] != '').any() for frame in build_tables([record]).values())
        found[name] = may_be_averaged(record)
    assert found.pop('ResNet again') == found['ResNet']
    assert len(set(map(str, found.values()))) == 3


@pytest.mark.parametrize('wrong, told', [
    ("val_dataloader.dataset.pipeline[-1] = dict(type='mmseg.PackSegInputs')",
     'the first validation sample cannot be evaluated'),
    ("val_evaluator = dict(_delete_=True, type='mmseg.IoUMetric')",
     'the first validation sample cannot be evaluated'),
    ("result = dict(metric='mIoU')", "result.metric is ['mIoU'], the evaluator gives"),
    ("val_evaluator = dict(_delete_=True, type='mmpretrain.MultiLabelMetric')",
     "result.metric is ['accuracy/top1'], the evaluator gives")])
def test_a_validation_that_cannot_work_is_refused_before_the_first_step(
        wrong, told, toy, tmp_path):
    code, said, _ = run(tmp_path / 'a', 'VisionTransformer', toy, wrong)
    assert code == 2 and told in said, said[-1500:]
    assert 'Epoch(train)' not in said and not list(tmp_path.rglob('*.pth'))
