"""Weights load whole or not at all, and no file runs code."""
import os
import pickle

import pytest
import torch
from mmengine.logging import HistoryBuffer

from semmae.engine import checkpoint
from semmae.registry import MODELS

ARCH = dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=48)


def vit(**kwargs):
    model = MODELS.build(dict(type='semmae.ViT', **{
        **dict(arch=ARCH, img_size=32, patch_size=8, out_type='raw'), **kwargs}))
    model.init_weights()
    return model


def timm_names(state):
    return checkpoint.renamed(state, checkpoint.OURS_TO_TIMM)


LAYOUTS = {
    'mmengine, ours': lambda s: dict(meta={}, state_dict={f'backbone.{k}': v for k, v in s.items()}
                                     | {'decoder.mask_token': torch.zeros(1)}),
    'MAE': lambda s: dict(model=timm_names(s) | {'mask_token': torch.zeros(1),
                                                 'decoder_norm.bias': torch.zeros(1)}),
    'DINO, iBOT full': lambda s: dict(
        student={}, teacher={f'module.backbone.{k}': v for k, v in timm_names(s).items()}
        | {'module.head.mlp.0.bias': torch.zeros(1)}),
    'bare timm': timm_names,
    'bare ours': dict}


@pytest.mark.parametrize('layout', LAYOUTS)
def test_every_layout_loads_every_tensor(layout, tmp_path):
    source, target = vit(), vit()
    for p in source.parameters():
        p.data.normal_()
    torch.save(LAYOUTS[layout](source.state_dict()), tmp_path / 'x.pth')
    report = checkpoint.load_backbone(target, tmp_path / 'x.pth')
    assert report['matched'] == len(target.state_dict()) and not report['new']
    for name, value in target.state_dict().items():
        assert value.equal(source.state_dict()[name]), name


def test_safetensors_load_too(tmp_path):
    from safetensors.torch import save_file
    source, target = vit(), vit()
    save_file(source.state_dict(), tmp_path / 'x.safetensors')
    checkpoint.load_backbone(target, tmp_path / 'x.safetensors')
    assert target.cls_token.equal(source.cls_token)


@pytest.mark.parametrize('change, complaint', [
    (lambda s: s.pop('layers.1.attn.qkv.weight'), r'1 tensors missing .*layers.1.attn.qkv.weight'),
    (lambda s: s.pop('pos_embed'), r'tensors missing .*pos_embed'),
    (lambda s: s.update({'layers.2.ln1.weight': torch.zeros(24)}), r'unknown .*layers.2.ln1'),
    (lambda s: s.update({'patch_embed.projection.weight': torch.zeros(24, 3, 4, 4)}),
     r'patch_embed.projection.weight \(24, 3, 4, 4\) in the file, \(24, 3, 8, 8\) in the model')])
def test_what_does_not_fit_is_refused_and_named(change, complaint, tmp_path):
    state = dict(vit().state_dict())
    change(state)
    torch.save(state, tmp_path / 'x.pth')
    target = vit()
    before = {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(ValueError, match=complaint):
        checkpoint.load_backbone(target, tmp_path / 'x.pth')
    assert all(v.equal(before[k]) for k, v in target.state_dict().items()), 'nothing half-loaded'


def test_a_file_of_noise_names_loads_nothing_and_says_so(tmp_path):
    torch.save({f'encoder_q.{k}': v for k, v in vit().state_dict().items()}, tmp_path / 'x.pth')
    with pytest.raises(ValueError, match='tensors missing'):
        checkpoint.load_backbone(vit(), tmp_path / 'x.pth')


def test_the_position_embedding_follows_the_grid_and_the_report_says_so(tmp_path):
    torch.save(vit().state_dict(), tmp_path / 'x.pth')
    bigger = vit(img_size=64)
    report = checkpoint.load_backbone(bigger, tmp_path / 'x.pth')
    assert report['resized'] == ['pos_embed (1, 17, 24) -> (1, 65, 24)']
    # The mean over the grid is about the same, so it was interpolated and not drawn anew.
    small = vit().pos_embed[:, 1:].mean(1)
    torch.testing.assert_close(bigger.pos_embed[:, 1:].mean(1), small, atol=0.1, rtol=0)


def test_fine_tuning_may_add_pooled_norm_and_relative_positions_only(tmp_path):
    torch.save(vit().state_dict(), tmp_path / 'x.pth')
    model = vit(out_type='avg_featmap', final_norm=False, rel_pos_bias=True)
    report = checkpoint.load_backbone(model, tmp_path / 'x.pth')
    assert report['new'] == ['layers.0.attn.relative_position_bias_table',
                             'layers.1.attn.relative_position_bias_table', 'ln2.bias', 'ln2.weight']


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class GetattrAttack:
    def __reduce__(self):
        return getattr, (HistoryBuffer, 'set_default_statistics')


@pytest.mark.parametrize('make', [lambda p: Attack(p), lambda p: GetattrAttack()])
def test_a_malicious_pickle_is_refused_and_never_runs(make, tmp_path):
    proof = tmp_path / 'ran'
    torch.save(dict(state_dict=vit().state_dict(), meta=dict(x=make(proof))), tmp_path / 'x.pth')
    with pytest.raises(ValueError, match='not a checkpoint .* not executed'):
        checkpoint.read_checkpoint(tmp_path / 'x.pth')
    assert not proof.exists()
    with open(tmp_path / 'y.pth', 'wb') as f:
        pickle.dump(Attack(proof), f)
    with pytest.raises(ValueError, match='not executed'):
        checkpoint.read_checkpoint(tmp_path / 'y.pth')
    assert not proof.exists()


@pytest.mark.parametrize('content', [b'', b'<html>not found</html>', b'version https://git-lfs'])
def test_a_file_that_is_no_checkpoint_is_named(content, tmp_path):
    (tmp_path / 'x.pth').write_bytes(content)
    with pytest.raises(ValueError, match=rf'x.pth \({len(content)} bytes\)'):
        checkpoint.read_checkpoint(tmp_path / 'x.pth')


def test_a_truncated_checkpoint_is_refused(tmp_path):
    torch.save(vit().state_dict(), tmp_path / 'x.pth')
    whole = (tmp_path / 'x.pth').read_bytes()
    (tmp_path / 'x.pth').write_bytes(whole[:len(whole) // 2])
    with pytest.raises(ValueError, match='x.pth'):
        checkpoint.read_checkpoint(tmp_path / 'x.pth')


def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    backend = checkpoint.AtomicBackend()
    backend.put(b'old', tmp_path / 'x.pth')
    monkeypatch.setattr(os, 'fsync', lambda fd: (_ for _ in ()).throw(OSError(28, 'disk full')))
    with pytest.raises(OSError, match='disk full'):
        backend.put(b'new and longer', tmp_path / 'x.pth')
    assert (tmp_path / 'x.pth').read_bytes() == b'old'


def test_mmengine_writes_its_files_through_the_atomic_backend():
    from mmengine.fileio import get_file_backend
    assert type(get_file_backend('work_dirs/x.pth')) is checkpoint.AtomicBackend


def test_the_wrong_config_for_a_whole_checkpoint_is_refused(tmp_path):
    torch.save(dict(state_dict=vit().state_dict()), tmp_path / 'x.pth')
    with pytest.raises(ValueError, match='not a checkpoint of this config'):
        checkpoint.load_whole(vit(arch=dict(ARCH, num_layers=3)), tmp_path / 'x.pth')


def converted(tmp_path, to, suffix='pth'):
    source = vit(out_type='featmap', final_norm=to != 'mmseg-mae', out_indices=[1])
    for p in source.parameters():
        p.data += 0.1 * torch.randn_like(p)
    torch.save(dict(state_dict={f'backbone.{k}': v for k, v in source.state_dict().items()}
                    | {'decoder.decoder_pred.bias': torch.zeros(3)}), tmp_path / 'ours.pth')
    checkpoint.convert(tmp_path / 'ours.pth', tmp_path / f'theirs.{suffix}', to)
    images = torch.randn(2, 3, 32, 32)
    source.eval()
    return tmp_path / f'theirs.{suffix}', images, source(images)[-1]


def test_timm_reads_a_converted_checkpoint_and_gives_our_features(tmp_path):
    from safetensors.torch import load_file
    from timm.models.vision_transformer import VisionTransformer
    path, images, ours = converted(tmp_path, 'timm', 'safetensors')
    theirs = VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2,
                               mlp_ratio=2, num_classes=0).eval()
    theirs.load_state_dict(load_file(path), strict=True)
    tokens = theirs.forward_features(images)[:, 1:]
    torch.testing.assert_close(tokens.transpose(1, 2).reshape_as(ours), ours, rtol=1e-4, atol=1e-5)


def test_mmpretrain_reads_a_converted_checkpoint_and_gives_our_features(tmp_path):
    from mmpretrain.models import VisionTransformer
    path, images, ours = converted(tmp_path, 'mmpretrain')
    theirs = VisionTransformer(arch=ARCH, img_size=32, patch_size=8, out_type='featmap',
                               init_cfg=dict(type='Pretrained', checkpoint=str(path),
                                             prefix='backbone.'))
    theirs.init_weights()
    theirs.eval()
    torch.testing.assert_close(theirs(images)[0], ours, rtol=1e-4, atol=1e-5)


def test_mmseg_reads_a_converted_checkpoint_and_gives_our_features(tmp_path):
    from mmseg.models.backbones import MAE
    path, images, ours = converted(tmp_path, 'mmseg-mae')
    theirs = MAE(img_size=(32, 32), patch_size=8, embed_dims=24, num_layers=2, num_heads=2,
                 mlp_ratio=2, init_values=1.0, norm_cfg=dict(type='LN', eps=1e-6), out_indices=[1],
                 init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    theirs.init_weights()
    theirs.eval()
    torch.testing.assert_close(theirs(images)[0], ours, rtol=1e-4, atol=1e-5)


def test_conversion_refuses_a_file_without_a_vit_and_a_strange_suffix(tmp_path):
    torch.save(dict(model=dict(weight=torch.zeros(1))), tmp_path / 'x.pth')
    with pytest.raises(ValueError, match='holds no ViT'):
        checkpoint.convert(tmp_path / 'x.pth', tmp_path / 'y.pth', 'timm')
    with pytest.raises(ValueError, match='ends in .pth'):
        checkpoint.convert(tmp_path / 'x.pth', tmp_path / 'y.bin', 'timm')
