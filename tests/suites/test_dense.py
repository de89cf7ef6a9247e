"""Rows of the dense suite: any backbone on each data set, and what is refused before a run."""
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch

from semmae.commands.train import parse
from semmae.files import sha256
from semmae.registry import MODELS
from semmae.suites.catalogue import DENSE
from semmae.suites.dense import dense_rows
from semmae.suites.display import name_of
from semmae.suites.schedule import plan

from ..datasets.dense import save
from ..probes.dense_configs import SIZE, shrink_probes
from ..tiny import tool
from .conftest import overridden

DINOV2 = 'vit_small_patch14_dinov2.lvd142m'
MINI = dict(embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=384)
CAMVID = 'mm_configs/dense/dense_camvid.py'


def configs(tmp_path, *only, **backbone):
    """{data set: the config that its row trains}."""
    rows = dense_rows(DENSE, only=only, **backbone)
    runs = plan(replace(DENSE, rows=tuple(rows)), tmp_path)
    return {run.id.split('/')[0]: overridden(run.command) for run in runs}


def vit_file(path, arch=MINI, meta=None, **more):
    """A file of a `semmae.ViT`, a checkpoint if it has ``meta``; returns its path."""
    torch.manual_seed(0)
    vit = MODELS.build(dict(type='semmae.ViT', img_size=64, patch_size=8, arch=arch, **more))
    state = {f'backbone.{k}': v for k, v in vit.state_dict().items()}
    torch.save(dict(state_dict=state, meta=meta) if meta else state, path)
    return str(path)


def mae_file(path, width=768, depth=12):
    """A file with the names of MAE's official code and its classes of tensors; returns its path."""
    block = {'norm1.weight': (width,), 'norm1.bias': (width,),
             'attn.qkv.weight': (3 * width, width), 'attn.qkv.bias': (3 * width,),
             'attn.proj.weight': (width, width), 'attn.proj.bias': (width,),
             'norm2.weight': (width,), 'norm2.bias': (width,),
             'mlp.fc1.weight': (4 * width, width), 'mlp.fc1.bias': (4 * width,),
             'mlp.fc2.weight': (width, 4 * width), 'mlp.fc2.bias': (width,)}
    shapes = {'cls_token': (1, 1, width), 'pos_embed': (1, 197, width),
              'patch_embed.proj.weight': (width, 3, 16, 16), 'patch_embed.proj.bias': (width,),
              'norm.weight': (width,), 'norm.bias': (width,),
              **{f'blocks.{i}.{k}': v for i in range(depth) for k, v in block.items()}}
    one = torch.zeros(())
    torch.save(dict(model={k: one.expand(v).clone() for k, v in shapes.items()}), path)
    return str(path)


# ------------------------------------------------------------------ a model of timm
def test_a_timm_model_runs_on_every_data_set_with_its_own_weights(tmp_path):
    found = configs(tmp_path, timm=DINOV2)
    assert list(found) == [task for task in DENSE.tasks if task not in DENSE.optional]
    for cfg in found.values():
        backbone = cfg.model.backbone
        assert (backbone.model_name, backbone.pretrained, backbone.init_cfg) == (DINOV2, True, None)
        assert (cfg.result.recipe, cfg.result.method) == (DINOV2, DINOV2)
        assert cfg.result.tables == ['dense']


@pytest.mark.parametrize('name, width, depth', [('vit_tiny_patch16_224', 192, 12),
                                                ('vit_large_patch16_224', 1024, 24)])
def test_widths_and_layers_of_the_heads_follow_the_model(tmp_path, name, width, depth):
    found = configs(tmp_path, timm=name)
    for task in ('upernet_ade20k', 'upernet_camvid'):
        model = found[task].model
        assert model.backbone.out_indices == [depth * i // 4 - 1 for i in (1, 2, 3, 4)]
        assert model.neck.embed_dim == model.auxiliary_head.in_channels == width
        assert model.decode_head.in_channels == [width] * 4
    assert found['cub'].model.backbone.out_indices == [-4, -3, -2, -1]
    assert found['camvid'].model.backbone.out_indices == [-1]


def test_a_huge_model_is_planned_without_its_memory(tmp_path):
    cfg = configs(tmp_path, 'upernet_camvid', timm='vit_7b_patch16_dinov3')['upernet_camvid']
    assert cfg.model.neck.embed_dim == 4096 and cfg.model.backbone.out_indices == [9, 19, 29, 39]


def test_a_file_of_a_timm_model_has_its_name_and_hash_in_the_row(tmp_path):
    path = tmp_path / 'my weights.pth'
    torch.save(timm.create_model('vit_tiny_patch16_224', num_classes=0).state_dict(), path)
    [row] = dense_rows(DENSE, timm='vit_tiny_patch16_224', checkpoint=path, only=['cub25'])
    assert row.id == 'cub25/vit_tiny_patch16_224-my-weights'
    assert row.home == f'{row.id}-{sha256(path)[:8]}'
    cfg = configs(tmp_path, 'cub25', timm='vit_tiny_patch16_224', checkpoint=path)['cub25']
    assert cfg.model.backbone.init_cfg == dict(type='Pretrained', checkpoint=str(path))
    assert cfg.model.backbone.get('pretrained') is None
    assert cfg.result.method == 'vit_tiny_patch16_224 (my weights)'


def test_an_untrained_model_says_so_in_its_name(tmp_path):
    cfg = configs(tmp_path, 'cub25', timm='vit_tiny_patch16_224', is_untrained=True)['cub25']
    assert cfg.result.recipe == 'vit_tiny_patch16_224-untrained'
    assert cfg.result.method == 'untrained vit_tiny_patch16_224'
    assert cfg.model.backbone.init_cfg is None and not cfg.model.backbone.get('pretrained')


@pytest.mark.parametrize('task', ['camvid', 'nyu', 'cub25', 'upernet_camvid'])
def test_the_options_build_and_the_heads_take_the_features(tmp_path, task):
    cfg = configs(tmp_path, task, timm='vit_tiny_patch16_224', is_untrained=True)[task]
    cfg.model.backbone.update(embed_dim=192, depth=12)
    model = MODELS.build(cfg.model).eval()
    with torch.no_grad():
        outs = model.backbone(torch.zeros(1, 3, 32, 32))
        if task == 'upernet_camvid':
            assert model.decode_head(model.neck(outs)).shape[:2] == (1, 11)
        else:
            tokens, grid = model.encode(torch.zeros(1, 3, 32, 32))
            assert grid == (2, 2) and tokens[11, 'patches'].shape == (1, 4, 192)


# ------------------------------------------------------------------ a file alone
def test_a_checkpoint_of_ours_brings_its_own_arch(tmp_path):
    path = vit_file(tmp_path / 'epoch_16.pth', meta=dict(
        semmae=dict(id='semmae_p16', method='SemMAE'),
        semmae_config={f'model.backbone.arch.{k}': v for k, v in MINI.items()}))
    [row] = dense_rows(DENSE, checkpoint=path, only=['cub25'])
    assert row.id == 'cub25/semmae_p16' and not any('result' in key for key in row.options)
    for task, cfg in configs(tmp_path, 'cub25', 'camvid', 'upernet_camvid',
                             checkpoint=path).items():
        backbone = cfg.model.backbone
        assert (backbone.type, backbone.arch) == ('semmae.ViT', MINI)
        assert 'model_name' not in backbone
        crop = 112 if task == 'upernet_camvid' else 64  # positions are those of the crops
        assert (backbone.img_size, backbone.patch_size, backbone.interpolate_offset) == (crop, 8, 0)
        model = MODELS.build(cfg.model).eval()
        model.backbone.init_weights()
        assert model.backbone.load_report['matched'] > 0
        if task != 'upernet_camvid':
            tokens, grid = model.encode(torch.zeros(1, 3, 64, 64))
            assert grid == (8, 8) and tokens[3, 'patches'].shape == (1, 64, 96)
            assert tokens.keys() >= ({(i, 'class') for i in range(4)} if task == 'cub25' else set())


def test_a_vit_b_of_mae_is_known_by_its_width_and_depth(tmp_path):
    path = mae_file(tmp_path / 'mae_pretrain_vit_base.pth')
    found = configs(tmp_path, 'ade20k', 'upernet_ade20k', checkpoint=path)
    for task, cfg in found.items():
        backbone = cfg.model.backbone
        side = 448 if task == 'upernet_ade20k' else 224
        assert (backbone.type, backbone.arch, backbone.img_size) == ('semmae.ViT', 'base', side)
        assert (backbone.patch_size, backbone.interpolate_offset) == (16, 0)
        assert cfg.result.recipe == cfg.result.method == 'mae_pretrain_vit_base'
    assert found['ade20k'].model.backbone.out_type == 'raw'
    assert found['ade20k'].model.backbone.is_frozen
    assert found['upernet_ade20k'].model.backbone.out_indices == [2, 5, 8, 11]
    assert found['upernet_ade20k'].model.backbone.out_type == 'featmap'


def test_positions_are_resized_as_told_or_refused(tmp_path):
    path = mae_file(tmp_path / 'dino.pth', 192)
    assert configs(tmp_path, 'camvid', checkpoint=path)[
        'camvid'].model.backbone.interpolate_offset == .1
    path = vit_file(tmp_path / 'weights.pth', 'deit-tiny')
    with pytest.raises(ValueError, match='the file does not say how its code does it. Add '
                                         '--interpolate-offset 0.1 for DINO'):
        dense_rows(DENSE, checkpoint=path)
    assert configs(tmp_path, 'camvid', checkpoint=path, offset=0.)[
        'camvid'].model.backbone.interpolate_offset == 0


@pytest.mark.parametrize('more, said', [
    (dict(), 'a ViT 96 wide with 4 layers, whose number of heads is not in the file'),
    (dict(layer_scale_init_value=.1), 'a ViT 96 wide with 4 layers and layer scale, whose number')])
def test_a_file_of_an_unknown_network_is_refused(tmp_path, more, said):
    path = vit_file(tmp_path / 'mae.pth', **more)
    with pytest.raises(ValueError, match=f'{path}: {said}.* Give the name .*--timm NAME'):
        dense_rows(DENSE, checkpoint=path)


# ------------------------------------------------------------------ which rows
def test_a_data_set_or_one_of_its_probes_is_chosen(tmp_path):
    [row] = dense_rows(DENSE, 'vit_tiny_patch16_224', only=['cub25'])
    assert 'train_cfg.only' not in row.options
    rows = dense_rows(DENSE, 'vit_tiny_patch16_224', only=['cub25/knn', 'camvid', 'cub25/linear'])
    assert [r.id.split('/')[0] for r in rows] == ['cub25', 'camvid']
    assert rows[0].options['train_cfg.only'] == ['knn', 'linear']
    found = configs(tmp_path, 'cub25/knn', timm='vit_tiny_patch16_224')['cub25']
    assert found.train_cfg.only == ['knn']


def test_a_probe_has_a_folder_of_its_own_so_that_the_others_are_not_skipped():
    homes = {dense_rows(DENSE, 'vit_tiny_patch16_224', only=only)[0].home for only in (
        ['cub25'], ['cub25/knn'], ['cub25/linear'], ['cub25/knn', 'cub25/linear'])}
    assert len(homes) == 4
    [row] = dense_rows(DENSE, 'vit_tiny_patch16_224', only=['cub25/knn', 'cub25'])
    assert 'train_cfg.only' not in row.options


def test_each_seed_and_choice_of_probes_has_a_rule_of_its_own(tmp_path):
    runs = [run for only in (['cub25', 'camvid'], ['cub25/knn'], ['cub25/linear'])
            for run in plan(replace(DENSE, rows=tuple(dense_rows(
                DENSE, 'vit_tiny_patch16_224', only=only))), tmp_path, seeds=(0, 1))]
    assert len({name_of(run) for run in runs}) == len(runs) == 8


@pytest.mark.parametrize('only, said', [
    ('cub26', "the dense suite has no data set 'cub26', it has: cub, cub25, imagenet"),
    ('cub25/cnn', "cub25 has no probe 'cnn', it has: knn, linear, attentive, logistic"),
    ('imagenet/attentive', "imagenet has no probe 'attentive', it has: knn, linear, linear_10pct"),
    ('upernet_camvid/knn', "upernet_camvid has no probe 'knn', it has: one fine-tuning")])
def test_unknown_names_are_refused_with_those_that_exist(only, said):
    with pytest.raises(ValueError, match=said):
        dense_rows(DENSE, 'vit_tiny_patch16_224', only=[only])


# ------------------------------------------------------------------ one line, exit status 2
def dense(*arguments):
    """(exit status, lines on stderr) of tools/run_suite.py dense."""
    done = tool('run_suite', 'dense', '--dry-run', *arguments)
    return done.returncode, done.stderr.splitlines()


@pytest.mark.parametrize('arguments, said', [
    ((), 'the dense suite evaluates one backbone: got none, expected --timm NAME'),
    (('--untrained',), 'the dense suite evaluates one backbone: got none'),
    (('--timm', 'vit_enormous'), "timm has no model 'vit_enormous'. Expected a vision transformer"),
    (('--timm', 'vit_tiny_patch16_224', '--untrained', '--checkpoint', 'x.pth'),
     '--untrained goes with --timm NAME alone'),
    (('--checkpoint', '/nonexistent.pth'), '/nonexistent.pth'),
    (('--timm', 'vit_tiny_patch16_224', '--checkpoint', '/nonexistent.pth'), '/nonexistent.pth'),
    (('--timm', 'vit_tiny_patch16_224', '--only', 'cub26'), "has no data set 'cub26'")])
def test_a_mistake_in_the_backbone_is_one_line(arguments, said):
    status, lines = dense(*arguments)
    assert status == 2 and len(lines) == 1 and said in lines[0], lines


def test_a_network_without_patches_is_one_line_that_says_so():
    status, lines = dense('--timm', 'resnet18')
    assert status == 2 and len(lines) == 1
    assert 'resnet18' in lines[0] and 'Expected a vision transformer' in lines[0]


def test_a_file_of_another_architecture_is_refused_before_any_row_starts(tmp_path):
    status, lines = dense('--timm', 'vit_tiny_patch16_224', '--checkpoint',
                          vit_file(tmp_path / 'other.pth'))
    assert status == 2 and 'does not fit vit_tiny_patch16_224: width 96 in the file' in lines[0]


def test_the_flags_of_the_dense_suite_are_refused_elsewhere():
    done = tool('run_suite', 'mini', '--dry-run', '--timm', 'vit_tiny_patch16_224')
    assert done.returncode == 2 and done.stderr.splitlines() == [
        '--timm and --untrained go with the dense suite: python tools/run_suite.py dense --timm '
        'NAME']


def small_row(tmp_path, **backbone):
    """The folder of a row on four small images: config.py and CamVid."""
    cfg = shrink_probes(CAMVID, None, tmp_path)
    cfg.model.probes = dict(seg_knn=dict(type='semmae.KNNSegProbe', protocol='capi', k=(1,)))
    cfg.model.backbone.update(backbone)
    cfg.dump(tmp_path / 'config.py')
    return tmp_path


def mistake_of(folder):
    """The line with which a row in ``folder`` ends, with exit status 2."""
    done = tool('train', folder / 'config.py', '--work-dir', folder / 'work')
    line, hint = done.stderr.splitlines()
    assert done.returncode == 2 and 'SEMMAE_TRACEBACK' in hint
    return line


def test_a_file_of_another_architecture_is_one_line_with_the_tensors(tmp_path):
    path = vit_file(tmp_path / 'other.pth')
    said = mistake_of(small_row(tmp_path, init_cfg=dict(type='Pretrained', checkpoint=path)))
    assert f'{path} does not fit vit_small_patch14_dinov2' in said
    assert 'tensors differ from the' in said and 'pos_embed' in said


def test_images_of_a_size_that_the_network_does_not_take_are_one_line(tmp_path):
    said = mistake_of(small_row(tmp_path, model_name='beit_base_patch16_224', img_size=32))
    assert said.endswith('takes images of 32x32 pixels only, got 42x56. Set img_size=(42, 56) of '
                         'the backbone, or the size in the pipeline')


def test_a_label_map_of_another_size_than_its_photo_is_one_line(tmp_path):
    small_row(tmp_path)
    save(tmp_path / 'CamVid/annotations/train/a1.png', np.zeros((32, 96), np.uint8))
    said = mistake_of(tmp_path)
    assert 'CamVid/annotations/train/a1.png has 96x32 pixels' in said


def test_a_label_that_is_no_class_is_one_line(tmp_path):
    small_row(tmp_path)
    save(tmp_path / 'CamVid/annotations/train/a1.png', np.full(SIZE, 99, np.uint8))
    assert 'train/a1.png: got label 99, expected 0 to 10, or 11 (ignored)' in mistake_of(tmp_path)


def test_images_of_several_sizes_are_one_line(tmp_path):
    small_row(tmp_path)
    text = (tmp_path / 'config.py').read_text()
    (tmp_path / 'config.py').write_text(text + """
for loader in (train_dataloader, val_dataloader):
    loader['batch_size'] = 1
    loader['dataset']['pipeline'][1].update(scale=(56, 56), keep_ratio=True)
""")
    for kind, pixels in (('images', np.zeros((64, 64, 3), np.uint8)),
                         ('annotations', np.ones((64, 64), np.uint8))):
        save(next((tmp_path / 'CamVid' / kind / 'train').glob('a2.*')), pixels)
    assert mistake_of(tmp_path) == (
        'ValueError: train/a2.jpg: got a grid of (4, 4) patches, the first image has (3, 4); '
        'expected a pipeline that gives all images one size')


def test_the_command_of_a_row_is_read_by_tools_train(tmp_path):
    rows = dense_rows(DENSE, 'vit_tiny_patch16_224', only=['cub25/knn'])
    [run] = plan(DENSE.__class__(rows=tuple(rows), tasks={}, images='x'), tmp_path)
    args = parse(run.command[2:])
    assert args.cfg_options['train_cfg.only'] == ['knn'] and args.resume
