"""Weights load completely or not at all, and no file runs code."""
import argparse
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from semmae.checkpoints import load
from semmae.checkpoints.read import read_checkpoint
from semmae.mmengine_patches import AtomicBackend
from semmae.registry import MODELS

ARCH = dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=48)


def vit(**kwargs):
    model = MODELS.build(dict(type='semmae.ViT', **{
        **dict(arch=ARCH, img_size=32, patch_size=8, out_type='raw'), **kwargs}))
    model.init_weights()
    return model


def timm_names(state):
    return load.renamed(state, load.OURS_TO_TIMM)


def behind(prefix, state):
    return {f'{prefix}{k}': v for k, v in state.items()}


def ibot_run(teacher, student=None, teacher_prefix=''):
    """What iBOT's and DINO's training saves (main_ibot.py): DDP around the student only."""
    head = {'head.mlp.0.bias': torch.zeros(1), 'head.last_layer.weight_g': torch.zeros(1)}
    student = teacher if student is None else student
    return dict(
        student=behind('module.', behind('backbone.', timm_names(student)) | head
                       | {'backbone.masked_embed': torch.zeros(1, 24)}),
        teacher=behind(teacher_prefix, behind('backbone.', timm_names(teacher)) | head),
        optimizer=dict(state={0: dict(step=torch.tensor(1.), exp_avg=torch.zeros(2))},
                       param_groups=[dict(lr=np.float64(5e-4), betas=(.9, .999), params=[0])]),
        epoch=800, args=argparse.Namespace(arch='vit_small', patch_size=16, use_fp16=True),
        ibot_loss=dict(center=torch.zeros(1, 4)), fp16_scaler=dict(scale=65536.))


LAYOUTS = {
    'mmengine, ours': lambda s: dict(meta={}, state_dict={f'backbone.{k}': v for k, v in s.items()}
                                     | {'decoder.mask_token': torch.zeros(1)}),
    'mmengine, a learner of parts': lambda s: dict(
        state_dict=behind('encoder.backbone.', s) | {'w1': torch.zeros(1)}),
    'MAE': lambda s: dict(model=timm_names(s) | {'mask_token': torch.zeros(1),
                                                 'decoder_norm.bias': torch.zeros(1)},
                          args=argparse.Namespace(model='mae_vit_base_patch16')),
    'iBOT, DINO full': ibot_run,
    'iBOT full, teacher under DDP': lambda s: ibot_run(s, teacher_prefix='module.'),
    # extract_backbone_weights.py strips backbone. and module.backbone. and may leave the head.
    'iBOT extracted': lambda s: dict(state_dict=timm_names(s)),
    'iBOT extracted with the head': lambda s: dict(
        state_dict=timm_names(s) | {'head.mlp.0.bias': torch.zeros(1)}),
    'iBOT extracted student with the head': lambda s: dict(
        state_dict=timm_names(s) | {'masked_embed': torch.zeros(1, 24),
                                    'module.head.mlp.0.bias': torch.zeros(1)}),
    'wrappers in another order': lambda s: dict(state_dict=behind('backbone.module.', s)),
    'timm with its head': lambda s: dict(state_dict=timm_names(s)
                                         | {'head.weight': torch.zeros(1000, 24)}),
    'bare timm, DINO, iBOT': timm_names,
    'bare ours': dict}


@pytest.mark.parametrize('layout', LAYOUTS)
def test_every_layout_loads_every_tensor(layout, tmp_path):
    source, target = vit(), vit()
    for p in source.parameters():
        p.data.normal_()
    torch.save(LAYOUTS[layout](source.state_dict()), tmp_path / 'x.pth')
    report = load.load_backbone(target, tmp_path / 'x.pth')
    assert report['matched'] == len(target.state_dict()) and not report['new']
    for name, value in target.state_dict().items():
        assert value.equal(source.state_dict()[name]), name


def test_safetensors_are_read_like_any_other_file(tmp_path):
    from safetensors.torch import save_file
    state = behind('module.backbone.', timm_names(vit().state_dict()))
    save_file(state, tmp_path / 'x.safetensors')
    assert load.load_backbone(vit(), tmp_path / 'x.safetensors')['new'] == []
    (tmp_path / 'x.safetensors').write_bytes(b'<html>')
    with pytest.raises(ValueError, match=r'x.safetensors \(6 bytes\) is not a checkpoint'):
        read_checkpoint(tmp_path / 'x.safetensors')


def test_the_teacher_is_read_unless_the_student_is_asked_for(tmp_path):
    teacher, student, model = vit().state_dict(), vit().state_dict(), vit()
    student['cls_token'] = teacher['cls_token'] + 1
    torch.save(ibot_run(teacher, student), tmp_path / 'x.pth')
    load.load_backbone(model, tmp_path / 'x.pth')
    assert model.cls_token.equal(teacher['cls_token'])
    load.load_backbone(model, tmp_path / 'x.pth', checkpoint_key='student')
    assert model.cls_token.equal(student['cls_token'])
    with pytest.raises(ValueError, match="holds no state dict 'momentum'; state dicts in it: "
                                         'student, teacher, ibot_loss. Set checkpoint_key'):
        load.load_backbone(model, tmp_path / 'x.pth', checkpoint_key='momentum')


@pytest.mark.parametrize('core', [b'numpy.core', b'numpy._core'])
def test_options_and_learning_rates_are_read_from_files_of_either_numpy(core, tmp_path):
    torch.save(ibot_run(vit().state_dict()), tmp_path / 'now.pth')
    with zipfile.ZipFile(tmp_path / 'now.pth') as now, \
            zipfile.ZipFile(tmp_path / 'then.pth', 'w') as then:
        for name in now.namelist():
            data = now.read(name)
            written = data.replace(b'numpy._core', b'numpy.core').replace(b'numpy.core', core)
            then.writestr(name, written if name.endswith('data.pkl') else data)
            assert not name.endswith('data.pkl') or core + b'.multiarray' in written
    content = read_checkpoint(tmp_path / 'then.pth')
    assert content['optimizer']['param_groups'][0]['lr'] == 5e-4
    assert content['args'].arch == 'vit_small' and content['args'].patch_size == 16


@pytest.mark.parametrize('kind', [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_cast_to_the_models(kind, tmp_path):
    source, target = vit(), vit(img_size=64)
    torch.save({k: v.to(kind) for k, v in source.state_dict().items()}, tmp_path / 'x.pth')
    load.load_backbone(target, tmp_path / 'x.pth')
    assert {v.dtype for v in target.state_dict().values()} == {torch.float32}
    weight = 'layers.1.attn.qkv.weight'
    torch.testing.assert_close(target.state_dict()[weight], source.state_dict()[weight],
                               rtol=2 ** -8, atol=1e-7)


def refusal(tmp_path, state, **kwargs):
    """The message with which a model of ``kwargs`` refuses ``state``, left as it was."""
    torch.save(state, tmp_path / 'x.pth')
    target = vit(**kwargs)
    before = {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(ValueError) as error:
        load.load_backbone(target, tmp_path / 'x.pth')
    assert all(v.equal(before[k]) for k, v in target.state_dict().items()), 'half-loaded'
    assert str(tmp_path / 'x.pth') in str(error.value)
    return str(error.value)


NAN = torch.tensor([float('nan'), float('inf')] + 22 * [0.])


@pytest.mark.parametrize('change, complaint', [
    (lambda s: s.pop('layers.1.attn.qkv.weight'),
     'layers.1.attn.qkv.weight: missing in the file, (72, 24) in the model'),
    (lambda s: s.update({'layers.0.ls1.gamma': torch.zeros(24)}),
     'layers.0.ls1.gamma: (24) in the file, unknown to the model'),
    (lambda s: s.update(pos_embed=torch.zeros(1, 16, 24)),
     'pos_embed: (1, 16, 24) in the file, (1, 17, 24) in the model'),
    (lambda s: s.update({'ln1.weight': NAN}), 'ln1.weight: 2 of 24 values are NaN or infinite'),
    (lambda s: s.update({'ln1.bias': torch.zeros(24, dtype=torch.int8)}),
     'ln1.bias: torch.int8 in the file, torch.float32 in the model')])
def test_one_tensor_that_does_not_fit_is_refused_and_named(change, complaint, tmp_path):
    state = dict(vit().state_dict())
    change(state)
    said = refusal(tmp_path, state)
    assert f': 1 tensors differ from the 30 of ViT:\n  {complaint}\n' in said, said


@pytest.mark.parametrize('file, words, tensors', [
    (dict(patch_size=4, img_size=16), 'patch size 4 in the file, 8 in the model', 1),
    (dict(arch=dict(ARCH, embed_dims=48)), 'width 48 in the file, 24 in the model', 28),
    (dict(arch=dict(ARCH, num_layers=3)), 'depth 3 in the file, 2 in the model', 12),
    (dict(arch=dict(ARCH, num_layers=1)), 'depth 1 in the file, 2 in the model', 12)])
@pytest.mark.parametrize('names', [dict, timm_names])
def test_another_patch_size_width_or_depth_is_named_in_the_error(
        file, words, tensors, names, tmp_path):
    said = refusal(tmp_path, names(vit(**file).state_dict()))
    assert f'does not fit the backbone: {words}; {tensors} tensors differ' in said, said


def test_eight_tensors_are_listed_with_both_shapes_and_the_rest_is_counted(tmp_path):
    said = refusal(tmp_path, vit(arch=dict(ARCH, embed_dims=48)).state_dict()).splitlines()
    assert len(said) == 1 + 8 + 1 + 1 and said[9] == '  and 20 more'
    assert said[1] == '  cls_token: (1, 1, 48) in the file, (1, 1, 24) in the model'
    assert said[2] == '  pos_embed: (1, 17, 48) in the file, (1, 17, 24) in the model'


def two_vits(state):
    return behind('backbone.', state) | behind('encoder.', state)


@pytest.mark.parametrize('content, complaint', [
    (lambda s: behind('encoder_q.', s), r'no ViT, its tensors are \[.encoder_q.cls_token'),
    (lambda s: dict(state_dict={}), 'no ViT, its tensors are none'),
    (lambda s: dict(student=s), 'no ViT, .*state dicts in it: student.*checkpoint_key'),
    (lambda s: dict(state_dict=two_vits(s)), r"2 ViTs, under \['backbone.', 'encoder.'\]"),
    (lambda s: dict(model=s, teacher=s), 'more than one state dict; .* in it: model, teacher. Set'),
    (lambda s: s | timm_names(s), 'names: .*patch_embed.projection.weight.* Expected each once'),
    (lambda s: list(s.values()), 'holds a list instead of a dict'),
    (lambda s: s['cls_token'], 'holds a Tensor instead of a dict')])
def test_a_file_that_is_ambiguous_or_strange_is_refused(content, complaint, tmp_path):
    torch.save(content(dict(vit().state_dict())), tmp_path / 'x.pth')
    with pytest.raises(ValueError, match=complaint) as error:
        load.load_backbone(vit(), tmp_path / 'x.pth')
    assert str(tmp_path / 'x.pth') in str(error.value)


def test_the_position_embedding_follows_the_grid_and_the_report_says_so(tmp_path):
    torch.save(vit().state_dict(), tmp_path / 'x.pth')
    bigger = vit(img_size=64)
    report = load.load_backbone(bigger, tmp_path / 'x.pth')
    assert report['resized'] == ['pos_embed (1, 17, 24) -> (1, 65, 24)']
    # The mean over the grid is about the same, so it was interpolated and not drawn anew.
    small = vit().pos_embed[:, 1:].mean(1)
    torch.testing.assert_close(bigger.pos_embed[:, 1:].mean(1), small, atol=0.1, rtol=0)


@pytest.mark.parametrize('no_embed_class', [False, True])
def test_a_timm_vit_may_leave_the_class_token_out_of_the_position_embedding(
        no_embed_class, tmp_path):
    from timm.models.vision_transformer import VisionTransformer
    small, large = (VisionTransformer(img_size=side, patch_size=8, embed_dim=24, depth=1,
                                      num_heads=2, no_embed_class=no_embed_class, num_classes=0)
                    for side in (32, 64))
    small.pos_embed.data.normal_()
    torch.save(small.state_dict(), tmp_path / 'x.pth')
    load.load_backbone(large, tmp_path / 'x.pth', load.OURS_TO_TIMM)
    extra = 0 if no_embed_class else 1
    assert large.pos_embed[:, :extra].equal(small.pos_embed[:, :extra])
    grid = torch.nn.functional.interpolate(
        small.pos_embed[:, extra:].reshape(1, 4, 4, 24).permute(0, 3, 1, 2), (8, 8), mode='bicubic')
    torch.testing.assert_close(large.pos_embed[:, extra:], grid.flatten(2).mT)


def test_fine_tuning_may_add_pooled_norm_and_relative_positions_only(tmp_path):
    torch.save(vit().state_dict(), tmp_path / 'x.pth')
    model = vit(out_type='avg_featmap', final_norm=False, rel_pos_bias=True)
    report = load.load_backbone(model, tmp_path / 'x.pth')
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


class NamespaceAttack(argparse.Namespace):
    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class NamespaceThatSetsItsState:
    """argparse.Namespace whose state asks for a call when it is set."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return argparse.Namespace, (), {'__setstate__': os.mkdir, 'path': str(self.path)}


class NamespaceOfArguments:
    def __reduce__(self):
        return argparse.Namespace, ('arguments that it does not take',)


@pytest.mark.parametrize('make', [
    Attack, lambda p: GetattrAttack(),
    lambda p: NamespaceAttack(path=p),
    lambda p: argparse.Namespace(output_dir=Attack(p)),
    lambda p: argparse.Namespace(out=argparse.FileType('w')),
    NamespaceThatSetsItsState, lambda p: NamespaceOfArguments()])
def test_a_malicious_pickle_is_refused_and_never_runs(make, tmp_path):
    proof = tmp_path / 'ran'
    torch.save(dict(state_dict=vit().state_dict(), meta=dict(x=make(proof))), tmp_path / 'x.pth')
    with pytest.raises(ValueError, match='not a checkpoint .* not executed') as error:
        read_checkpoint(tmp_path / 'x.pth')
    assert 'weights_only' not in str(error.value), "torch's advice to trust the file"
    assert not proof.exists()
    with open(tmp_path / 'y.pth', 'wb') as f:
        pickle.dump(Attack(proof), f)
    with pytest.raises(ValueError, match='not executed'):
        read_checkpoint(tmp_path / 'y.pth')
    assert not proof.exists()


@pytest.mark.parametrize('content', [b'', b'<html>not found</html>', b'version https://git-lfs'])
def test_a_file_that_is_no_checkpoint_is_named(content, tmp_path):
    (tmp_path / 'x.pth').write_bytes(content)
    with pytest.raises(ValueError, match=rf'x.pth \({len(content)} bytes\)'):
        read_checkpoint(tmp_path / 'x.pth')


def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    backend = AtomicBackend()
    backend.put(b'old', tmp_path / 'x.pth')
    monkeypatch.setattr(os, 'fsync', lambda fd: (_ for _ in ()).throw(OSError(28, 'disk full')))
    with pytest.raises(OSError, match='disk full'):
        backend.put(b'new and longer', tmp_path / 'x.pth')
    assert (tmp_path / 'x.pth').read_bytes() == b'old'


def test_mmengine_writes_its_files_through_the_atomic_backend():
    from mmengine.fileio import get_file_backend
    assert type(get_file_backend('work_dirs/x.pth')) is AtomicBackend


def test_the_wrong_config_for_a_whole_checkpoint_is_refused(tmp_path):
    torch.save(dict(state_dict=vit().state_dict()), tmp_path / 'x.pth')
    with pytest.raises(ValueError, match='not a checkpoint of this config: 12 tensors differ:\n'
                                         r'  layers.2.ln1.weight: missing in the file, \(24\)'):
        load.load_whole(vit(arch=dict(ARCH, num_layers=3)), tmp_path / 'x.pth')


def converted(tmp_path, to):
    source = vit(out_type='featmap', final_norm=to != 'mmseg-mae', out_indices=[1])
    for p in source.parameters():
        p.data += 0.1 * torch.randn_like(p)
    torch.save(dict(state_dict={f'backbone.{k}': v for k, v in source.state_dict().items()}
                    | {'decoder.decoder_pred.bias': torch.zeros(3)}), tmp_path / 'ours.pth')
    load.convert(tmp_path / 'ours.pth', tmp_path / 'theirs.pth', to)
    images = torch.randn(2, 3, 32, 32)
    source.eval()
    return tmp_path / 'theirs.pth', images, source(images)[-1]


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
        load.convert(tmp_path / 'x.pth', tmp_path / 'y.pth', 'timm')
    with pytest.raises(ValueError, match='ends in .pth'):
        load.convert(tmp_path / 'x.pth', tmp_path / 'y.bin', 'timm')
