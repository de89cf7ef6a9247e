"""mm_configs/metafile.yml says of each config what the config says, for mmpretrain and mim.

python -m tests.test_metafile writes it.
"""
import subprocess
import sys
from pathlib import Path

import mmpretrain
import pytest
import torch
import yaml
from mim.commands import search
from mmpretrain.apis.model import ModelHub

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import semmae
from semmae.config.length import length_of
from semmae.config.options import read_config
from tests.tiny import REPO

FILE = REPO / 'mm_configs/metafile.yml'
# mmpretrain.get_model cannot build these: it reads ``test_dataloader``, which k-NN sets to None;
# online parts read their file when they are built.
LEFT_OUT = {'semmae_knn', 'knn_vit-base-p16', 'semmae_vit-base-p16_online-parts'}
ON_CPU = {'semmae_segmenter_ade20k'}  # reads values of a tensor when it is built
CONFIGS = sorted(path for folder in ('mm_configs', 'mm_configs/ablations')
                 for path in (REPO / folder).glob('*.py') if path.stem not in LEFT_OUT)
HEADER = '''\
# For mmpretrain.list_models and mim search. Written from the configs: python -m tests.test_metafile
# There are no weights: nothing was trained at the paper's size. The results of smaller runs are in
# benchmarks/results.
'''
PAPER = dict(Title='SemMAE: Semantic-Guided Masking for Learning Masked Autoencoders',
             URL='https://arxiv.org/abs/2206.10207')


def model_of(path):
    """The entry of a config."""
    cfg = read_config(path)
    told = cfg.get('recipe') or cfg.get('result')
    key, length = length_of(cfg)
    unit = 'Epochs' if key.endswith('max_epochs') else 'Iterations'
    batch = (told.get('full') or {}).get('batch_size')
    return dict(
        Name=path.stem, **{'In Collection': 'SemMAE'}, Config=path.relative_to(REPO).as_posix(),
        Metadata={'Training Data': told.get('dataset', 'ImageNet-1k'),
                  **({unit: length} if length else {}), **({'Batch Size': batch} if batch else {})},
        Results=None)


def metafile():
    """The text of the file."""
    collection = dict(Name='SemMAE', Metadata={'Architecture': ['ViT']}, Paper=PAPER,
                      README='README.md')
    content = dict(Collections=[collection], Models=[model_of(path) for path in CONFIGS])
    return HEADER + yaml.safe_dump(content, sort_keys=False, width=99)


def test_the_file_is_what_the_configs_say():
    assert FILE.read_text() == metafile(), 'run: python -m tests.test_metafile'


def test_no_weights_and_no_results_are_claimed():
    models = yaml.safe_load(FILE.read_text())['Models']
    assert len(models) > 50
    assert all(model['Results'] is None and 'Weights' not in model for model in models)


@pytest.fixture(scope='module')
def hub():
    semmae.register_models()
    semmae.register_models()  # a second call changes nothing
    return ModelHub


def test_mmpretrain_lists_every_config_besides_its_own(hub):
    listed = mmpretrain.list_models()
    assert {path.stem for path in CONFIGS} <= {*listed}
    assert 'mae_vit-base-p16_8xb512-amp-coslr-300e_in1k' in listed
    assert mmpretrain.list_models('semmae_pretrain') == ['semmae_pretrain']


@pytest.mark.parametrize('name', [path.stem for path in CONFIGS])
def test_mmpretrain_builds_every_model_by_its_name(hub, name):
    with torch.device('cpu' if name in ON_CPU else 'meta'):
        model = mmpretrain.get_model(name)
    assert sum(p.numel() for p in model.parameters()) > 1e6


def test_mim_finds_them_from_the_checkout(monkeypatch):
    monkeypatch.setattr(search, 'is_installed', lambda _: True)
    monkeypatch.setattr(search, 'get_installed_path', lambda _: str(REPO))
    found = search.get_model_info('semmae', configs=['semmae_pretrain', 'semmae_upernet_ade20k'])
    assert found['epochs'].tolist()[0] == 800 and found['batch_size'].tolist()[0] == 4096
    assert found['training_data'].tolist() == ['imagenet-1k', 'ade20k']
    assert found['config'].tolist()[0] == 'mm_configs/semmae_pretrain.py'


def test_importing_semmae_registers_nothing():
    code = ('import semmae, mmpretrain, sys\n'
            'sys.exit("semmae_pretrain" in mmpretrain.list_models())')
    assert subprocess.run([sys.executable, '-c', code], cwd=REPO).returncode == 0


if __name__ == '__main__':
    FILE.write_text(metafile())
