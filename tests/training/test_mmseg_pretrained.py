"""A user's own config that starts from one of mmseg's, and its pre-trained weights."""
from pathlib import Path

import pytest
import torch
from mmengine.config.utils import MODULE2PACKAGE

from semmae.config.options import read_config
from semmae.models import ViT
from semmae.training.run import train

from ..tiny import fork, wait

pytestmark = pytest.mark.slow

ARCH = dict(embed_dims=24, num_layers=4, num_heads=2, feedforward_channels=48)
SIZE = dict(arch=ARCH, img_size=64, patch_size=8)
BASE = 'mmseg::vit/vit_vit-b16-ln_mln_upernet_8xb2-160k_ade20k-512x512.py'
OWN = '''
_base_ = [{base!r}]
bn = dict(type='BN')
model = dict(
    {more}
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(_delete_=True, type='semmae.ViT', out_type='featmap', final_norm=False,
                  out_indices=[0, 1, 2, 3], **{size!r}),
    neck=dict(in_channels=[24] * 4, out_channels=24),
    decode_head=dict(in_channels=[24] * 4, channels=8, norm_cfg=bn),
    auxiliary_head=dict(in_channels=24, channels=8, norm_cfg=bn))
train_dataloader = _base_.train_dataloader
val_dataloader = _base_.val_dataloader
for _data in (train_dataloader, val_dataloader):
    _data.update(num_workers=0, persistent_workers=False)
    _data.dataset.data_root = {data!r}
train_dataloader.dataset.pipeline[2].scale = (64, 64)
train_dataloader.dataset.pipeline[3].crop_size = (64, 64)
val_dataloader.dataset.pipeline[1].scale = (64, 64)
test_dataloader = val_dataloader
train_cfg = dict(max_iters=2, val_interval=2)
'''


def trained(folder, toy, more):
    """(exit code, what it printed) of two iterations and a validation on the toy set."""
    path = folder / 'own.py'
    path.write_text(OWN.format(base=BASE, more=more, size=SIZE,
                               data=str(toy / 'ADEChallengeData2016')))
    child = fork(lambda: train(str(path), work_dir=str(folder / 'work'), seed=0),
                 folder / 'said.txt')
    return wait(child), (folder / 'said.txt').read_text()


def checkpoint(path, add=0.):
    state = ViT(**SIZE).state_dict()
    torch.save(dict(state, cls_token=state['cls_token'] + add), path)
    return str(path)


def test_a_config_with_a_base_of_mmseg_trains_from_model_pretrained_and_is_validated(
        toy, tmp_path):
    file = checkpoint(tmp_path / 'a.pth', add=3.)
    code, said = trained(tmp_path, toy, f'pretrained={file!r},')
    assert code == 0, said[-2000:]
    assert 'Iter(val) [2/2]' in said and 'mIoU' in said
    state = torch.load(tmp_path / 'work/iter_2.pth', weights_only=False)['state_dict']
    assert (state['backbone.cls_token'] - 3).abs().max() < 0.1


def test_a_missing_file_that_the_base_names_is_an_error_of_one_sentence(toy, tmp_path):
    code, said = trained(tmp_path, toy, '')
    assert code == 2 and 'no checkpoint at pretrain/vit_base_patch16_224.pth' in said
    assert 'Traceback' not in said


@pytest.mark.parametrize('name', ['_base_/models/upernet_mae.py',
                                  'vit/vit_deit-s16_upernet_8xb2-80k_ade20k-512x512.py'])
def test_parts_and_whole_configs_of_mmseg_are_found(name, tmp_path):
    path = tmp_path / 'own.py'
    path.write_text(f"_base_ = ['mmseg::{name}']\n")
    assert read_config(path).model.type == 'EncoderDecoder'


def test_the_names_of_mmengine_stay_when_a_config_fails(tmp_path):
    path, before = tmp_path / 'own.py', dict(MODULE2PACKAGE)
    path.write_text("_base_ = ['mmseg::vit/no-such-config.py']\n")
    with pytest.raises(ValueError) as error:
        read_config(path)
    assert before == MODULE2PACKAGE
    assert 'no-such-config' in str(error.value) and len(str(error.value)) < 1000


@pytest.mark.parametrize('init_cfg', [
    dict(type='Pretrained', checkpoint='b.pth'), dict(type='TruncNormal', layer='Linear', std=.02),
    [dict(type='TruncNormal', layer='Linear', std=.02)]])
def test_pretrained_beside_another_init_cfg_is_refused(init_cfg):
    with pytest.raises(ValueError, match=r'pretrained=a\.pth and init_cfg=.*expected one of them'):
        ViT(**SIZE, pretrained='a.pth', init_cfg=init_cfg)


@pytest.mark.parametrize('init_cfg', [
    None, dict(type='Pretrained', checkpoint=''), dict(type='Pretrained', checkpoint='a.pth')])
def test_pretrained_is_the_same_as_an_init_cfg_with_its_file(init_cfg):
    found = ViT(**SIZE, pretrained='a.pth', init_cfg=init_cfg).init_cfg
    assert found == dict(type='Pretrained', checkpoint='a.pth')


def test_pretrained_and_init_cfg_load_the_same_weights_and_leave_the_same_report(tmp_path):
    file = checkpoint(tmp_path / 'a.pth', add=1.)
    one = ViT(**SIZE, pretrained=file)
    two = ViT(**SIZE, init_cfg=dict(type='Pretrained', checkpoint=file))
    one.init_weights()
    two.init_weights()
    assert all(v.equal(two.state_dict()[k]) for k, v in one.state_dict().items())
    assert one.load_report == two.load_report
    assert Path(one.load_report['path']).name == 'a.pth'
