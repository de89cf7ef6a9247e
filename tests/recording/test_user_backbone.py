"""A backbone class in a user's file runs through the downstream configs by config alone."""
import json

import pytest

from semmae.datasets.toy import write_toy
from semmae.reporting.tables import build_tables
from semmae.results.results import read_results
from semmae.training.run import train

from ..tiny import REPO, fork, wait

pytestmark = pytest.mark.slow

# The fields of the class are those of no other backbone: no patch size, width or layer numbers.
FILE = '''
import torch
from semmae.registry import MODELS


@MODELS.register_module()
class MyNet(torch.nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.cls = torch.nn.Parameter(torch.zeros(1, 1, width))
        self.stem = torch.nn.Conv2d(3, width, 16, 16)
        self.stages = torch.nn.ModuleList([
            torch.nn.TransformerEncoderLayer(width, 2, width, batch_first=True) for _ in range(2)])

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1)
        for stage in self.stages:
            x = stage(x)
        return {'x_norm_clstoken': x[:, 0], 'x_norm_patchtokens': x[:, 1:]}


@MODELS.register_module()
class MyMaps(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 16, 16, 16)
        self.more = torch.nn.Conv2d(16, 16, 1)

    def forward(self, x):
        first = self.stem(x)
        return first, self.more(first)
'''
CONFIG = '''
_base_ = [{base!r}]
custom_imports = dict(imports=['my_net'], allow_failed_imports=False)
model = dict(backbone=dict(_delete_=True, **{backbone!r}))
train_dataloader = _base_.train_dataloader
val_dataloader = _base_.val_dataloader
_train = train_dataloader.dataset.get('dataset', train_dataloader.dataset)
_train.data_root = {data!r} + '/' + {train!r}
val_dataloader.dataset.data_root = {data!r} + '/' + {val!r}
for _loader in (train_dataloader, val_dataloader):
    _loader.update(batch_size=4, num_workers=0, persistent_workers=False)
{tested}
param_scheduler = []
model.update({model!r})
{more}
'''
NET = dict(type='semmae.WrappedBackbone', module=dict(type='MyNet'),
           patches='x_norm_patchtokens', cls_token='x_norm_clstoken')
MAPS = dict(type='semmae.MyMaps')
EPOCH = 'train_cfg = dict(max_epochs=1, val_interval=1)'
ITERATIONS = '''
train_cfg = dict(max_iters=2, val_interval=2)
default_hooks = dict(checkpoint=dict(interval=2))
'''
VIEW = '''
for _loader in (train_dataloader, val_dataloader):
    _loader.dataset.pipeline[1].scale = _loader.dataset.pipeline[2].crop_size = 64
train_cfg = dict(store={store!r}, only=['knn', 'linear'])
'''
LINSEG = dict(decode_head=dict(in_channels=16))
UPERNET = dict(neck=dict(embed_dim=16), decode_head=dict(in_channels=[16] * 4, channels=8),
               auxiliary_head=dict(in_channels=16, channels=8))
TWO = dict(neck=None, auxiliary_head=None,
           decode_head=dict(in_channels=[16] * 2, in_index=[0, 1], channels=8))
PROBES = dict(layers=[-1], task=dict(num_classes=16))
ADE = ('ADEChallengeData2016',) * 2
CUB = ('CUB_200_2011',) * 2
CASES = {  # config, backbone, data, changes of the model, more lines
    'linear': ('mini/linprobe_p16_mini', dict(NET, out_type='cls_token', is_frozen=True),
               ('imagenet/train', 'imagenet/val'),
               dict(neck=dict(input_features=16), head=dict(in_channels=16)), EPOCH),
    'fine-tuning': ('mini/semmae_cub_mini', dict(NET, out_type='avg_featmap'), CUB,
                    dict(head=dict(in_channels=16)), EPOCH),
    'upernet': ('mini/semmae_upernet_ade20k_mini', dict(NET, patches=[
        'x_norm_patchtokens'] * 4, cls_token=None), ADE, UPERNET, ITERATIONS),
    'linseg': ('mini/semmae_linseg_ade20k_mini', dict(NET, is_frozen=True), ADE, LINSEG,
               ITERATIONS),
    'dense': ('dense/dense_cub25', dict(NET, out_type='raw', is_frozen=True), CUB, PROBES, VIEW),
    'maps, linseg': ('mini/semmae_linseg_ade20k_mini', MAPS, ADE, LINSEG, ITERATIONS),
    'maps, upernet': ('mini/semmae_upernet_ade20k_mini', MAPS, ADE, TWO,
                      ITERATIONS + 'optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=1.))'),
    'maps, dense': ('dense/dense_cub25', MAPS, CUB, PROBES, VIEW)}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """The toy set with two training images of each class of CUB, for the choice of a setting."""
    root = tmp_path_factory.mktemp('data') / 'toy'
    write_toy(root, num_imagenet=(16, 8), num_cub=(32, 16), num_ade=(4, 2), progress=False)
    return root


@pytest.fixture
def run(data, tmp_path, monkeypatch):
    (tmp_path / 'my_net.py').write_text(FILE)
    monkeypatch.syspath_prepend(tmp_path)  # as PYTHONPATH

    def run(name, folder='work', **changes):
        """(exit code, what it printed, records) of one short run of a case."""
        config, backbone, (train_data, val), model, more = CASES[name]
        path, work = tmp_path / 'own.py', tmp_path / folder
        path.write_text(CONFIG.format(
            base=f'{REPO}/mm_configs/{config}.py', backbone={**backbone, **changes}, model=model,
            data=str(data), train=train_data, val=val, more=more.format(store=str(tmp_path)),
            tested='' if 'dense' in config else 'test_dataloader = val_dataloader'))
        code = wait(fork(lambda: train(str(path), work_dir=str(work)), tmp_path / 'said.txt'))
        lines = work / 'results.jsonl'
        return code, (tmp_path / 'said.txt').read_text(), (
            read_results(lines)[0] if lines.is_file() else [])
    return run


@pytest.mark.parametrize('name', CASES)
def test_a_class_in_a_users_file_gives_results_that_name_it(name, run, tmp_path):
    code, said, records = run(name)
    assert code == 0, said[-3000:]
    is_dense = 'dense' in name
    assert [record['task'] for record in records] == (
        ['knn', 'linear'] if is_dense else [records[0]['task']])
    for record in records:
        fields = record['pretraining']['identity'] if is_dense else record['protocol']
        if 'maps' in name:
            assert fields['model.backbone.type'] == 'semmae.MyMaps'
        else:
            assert fields['model.backbone.type'] == 'semmae.WrappedBackbone'
            assert fields['model.backbone.module.type'] == 'MyNet'
        assert record['model']['parameters'] > 1000 and record['reduced']
        assert record['kind'] == ('frozen' if CASES[name][1].get('is_frozen') or is_dense else
                                  'from scratch')
        if is_dense:  # a protocol compares networks, so it does not name one
            assert {key for key in record['protocol'] if '.backbone.' in key} <= {
                'model.backbone.out_type', 'model.backbone.is_frozen'}
    assert any((frame.astype(str) != '').any(axis=None)
               for frame in build_tables(records).values())
    for manifest in tmp_path.glob('CUB*/manifest.json'):
        assert json.loads(manifest.read_text())['grid'] == [4, 4]


def test_a_checkpoint_of_a_users_class_starts_another_training(run, tmp_path):
    assert run('fine-tuning')[0] == 0
    init = dict(type='Pretrained', checkpoint=str(tmp_path / 'work/epoch_1.pth'),
                prefix='backbone.module.')
    code, said, (record,) = run('fine-tuning', 'next', init_cfg=init)
    assert code == 0, said[-3000:]
    assert record['kind'] == 'fine-tuned' and record['load_report']['matched'] > 20
    code, said, _ = run('fine-tuning', 'wrong', init_cfg=dict(init, prefix=''))
    assert code == 2 and 'epoch_1.pth does not fit MyNet' in said


def test_layer_decay_of_a_class_without_layers_is_refused_with_the_option_to_set(run):
    code, said, _ = run('upernet', module=dict(type='MyMaps'), patches=[0, 1, 0, 1])
    assert code == 2 and 'needs the list of layers of MyMaps. Set model.backbone.blocks' in said
