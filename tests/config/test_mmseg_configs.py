"""A user's own config that starts from one of mmseg's."""
import pytest
import torch
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import DefaultScope

from semmae.config.options import read_config
from semmae.models import ViT
from semmae.registry import MODELS

ARCH = dict(embed_dims=24, num_layers=4, num_heads=2, feedforward_channels=48)
OWN = '''
_base_ = ['mmseg::vit/vit_vit-b16-ln_mln_upernet_8xb2-160k_ade20k-512x512.py']
model = dict(
    {more}
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(_delete_=True, type='semmae.ViT', arch={arch}, img_size=64, patch_size=8,
                  out_type='featmap', final_norm=False, out_indices=[0, 1, 2, 3]),
    neck=dict(in_channels=[24] * 4, out_channels=24),
    decode_head=dict(in_channels=[24] * 4, channels=8, num_classes=5),
    auxiliary_head=dict(in_channels=24, channels=8, num_classes=5))
'''


def own(tmp_path, more=''):
    path = tmp_path / 'own.py'
    path.write_text(OWN.format(arch=ARCH, more=more))
    return path


def test_a_config_of_mmseg_is_found_and_the_names_of_mmengine_stay(tmp_path):
    before = dict(MODULE2PACKAGE)
    cfg = read_config(own(tmp_path))
    assert cfg.default_scope == 'mmseg' and cfg.train_cfg.max_iters == 160000
    assert before == MODULE2PACKAGE


def test_its_pretrained_none_is_no_unexpected_keyword_and_the_network_builds(tmp_path):
    cfg = read_config(own(tmp_path, 'pretrained=None,'))
    cfg.model.decode_head.norm_cfg = cfg.model.auxiliary_head.norm_cfg = dict(type='BN')
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(cfg.model)
    features = model.extract_feat(torch.randn(2, 3, 64, 64))
    assert [f.shape[1] for f in features] == [24] * 4


def test_pretrained_loads_a_file_strictly_and_two_files_are_refused(tmp_path):
    vit = ViT(arch=ARCH, img_size=64, patch_size=8)
    vit.init_weights()
    torch.save(dict(model=vit.state_dict()), tmp_path / 'a.pth')
    other = ViT(arch=ARCH, img_size=64, patch_size=8, pretrained=str(tmp_path / 'a.pth'))
    other.init_weights()
    assert all(v.equal(other.state_dict()[k]) for k, v in vit.state_dict().items())
    assert other.load_report['path'].endswith('a.pth')
    wide = ViT(arch=dict(ARCH, embed_dims=48), img_size=64, patch_size=8,
               pretrained=str(tmp_path / 'a.pth'))
    with pytest.raises(ValueError, match='does not fit the backbone'):
        wide.init_weights()
    with pytest.raises(ValueError, match='two checkpoints'):
        ViT(arch=ARCH, img_size=64, patch_size=8, pretrained='a.pth',
            init_cfg=dict(type='Pretrained', checkpoint='b.pth'))
    assert ViT(arch=ARCH, img_size=64, patch_size=8, pretrained=None).init_cfg is None
