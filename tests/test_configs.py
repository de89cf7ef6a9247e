"""Every config in mm_configs/ loads, builds, trains one step at toy size and is evaluated.

Only sizes and paths are replaced. Data readers, models, losses, optimiser groups, schedules and the
result line are those of the file.
"""
import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import DefaultScope

from semmae.config.length import follow_length, length_of
from semmae.registry import DATASETS, HOOKS, MODELS
from semmae.training import run as training

from .datasets.dense import copy_of

REPO = Path(__file__).resolve().parents[1]
LEAVES = sorted(p.relative_to(REPO).as_posix() for p in (REPO / 'mm_configs').rglob('*.py')
                if '_base_' not in p.parts)
# Frozen probes train no network: tests/probes/test_dense_configs.py runs them.
PROBES = [leaf for leaf in LEAVES if '/dense/' in leaf and 'upernet' not in leaf]
ARCH = dict(embed_dims=24, num_layers=4, num_heads=2, feedforward_channels=48)
TINY = dict(embed_dim=24, depth=4, num_heads=2)  # arguments of timm's models
SIDE = 64  # pixels of downstream images
STEPS = 2  # images of a batch; one batch an epoch


def test_the_paper_has_its_eight_configs_and_names_are_unique_for_mim():
    names = [Path(leaf).name for leaf in LEAVES]
    assert len(set(names)) == len(names)
    assert {f'semmae_{n}.py' for n in ('parts', 'pretrain', 'linprobe', 'finetune', 'inat19', 'cub',
                                       'cars', 'upernet_ade20k')} <= set(names)


@pytest.mark.parametrize('leaf', LEAVES)
def test_the_header_has_the_command_and_the_source_of_the_recipe(leaf):
    header = (REPO / leaf).read_text().split('"""')[1]
    assert 'Run:' in header and leaf in header
    if 'mini' not in leaf:
        assert 'Status:' in header
        assert 'Paper' in header or 'MAE:' in header or (
            '/dense/' in leaf and 'Ours:' in header)
        assert 'Needs:' in header or '/dense/' not in leaf


@HOOKS.register_module(force=True)
class InitialWeights(Hook):
    """Keeps the weights at the beginning of a training."""
    weights = {}

    def before_train(self, runner):
        self.weights.update({k: v.clone() for k, v in runner.model.named_parameters()})


@pytest.mark.parametrize('leaf', PROBES)
def test_the_model_of_a_probe_can_be_built(leaf):
    cfg = Config.fromfile(REPO / leaf)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        MODELS.build(cfg.model)


@pytest.mark.slow
@pytest.mark.parametrize('leaf', [leaf for leaf in LEAVES if leaf not in PROBES])
def test_config_builds_and_takes_one_step(leaf, toy, cars, inat, tmp_path, monkeypatch):
    cfg = Config.fromfile(REPO / leaf)
    shrink(cfg, toy, cars, inat, tmp_path)
    cfg.custom_hooks.append(dict(type='semmae.InitialWeights'))
    before = {}
    monkeypatch.setattr(InitialWeights, 'weights', before)
    monkeypatch.setattr(training, 'read_config', lambda *_: cfg)
    model = training.train(leaf, work_dir=tmp_path / 'run', seed=0, accept_batch=True)
    changed = {k for k, v in model.named_parameters() if k in before and not v.equal(before[k])}
    trained = {k for k, v in model.named_parameters() if v.requires_grad}
    assert before and trained or cfg.result.task == 'knn'
    # The gradient of the first step does not reach all parameters.
    assert changed <= trained and (len(changed) > 0.5 * len(trained) or not trained), sorted(
        trained - changed)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    if 'result' in cfg:
        line = json.loads((tmp_path / 'run/results.jsonl').read_text())
        assert line['task'] == cfg.result.task and line['reduced']
        if cfg.model.backbone.init_cfg:
            assert line['load_report']['matched'] > 0
        else:
            assert line['kind'] == 'from scratch' and line['load_report'] is None


def shrink(cfg, toy, cars, inat, tmp_path):
    """Toy sizes and paths in place of the real ones."""
    cfg.train_dataloader.update(batch_size=STEPS, num_workers=0, persistent_workers=False,
                                pin_memory=False)
    # A step at the first rate of the warm-up, 1e-9, changes nothing.
    for schedule in cfg.param_scheduler:
        if schedule.type == 'LinearLR':
            schedule.start_factor = 0.5
    train = cfg.train_dataloader.dataset.dataset
    cfg.train_dataloader.dataset.min_length = 0
    if cfg.model.type in ('semmae.SemMAE', 'semmae.PartLearner', 'mmpretrain.SimMIM'):
        shrink_self_supervised(cfg, train, toy, tmp_path)
    else:
        for loader in evaluated(cfg):
            loader.update(batch_size=STEPS, num_workers=0, persistent_workers=False)
        shrink_labelled(cfg, train, toy, cars, inat, tmp_path)
        classes = DATASETS.build(dict(train, pipeline=[])).metainfo.get('classes')
        if classes and cfg.model.get('head'):
            for node in (cfg.model.head, cfg.model.get('data_preprocessor') or {}):
                if 'num_classes' in node:
                    node['num_classes'] = len(classes)
        shrink_model(cfg, tmp_path)
    length = length_of(cfg)[1]
    if cfg.train_cfg.get('max_iters'):
        cfg.train_cfg.update(max_iters=1, val_interval=1)
    elif cfg.train_cfg.get('max_epochs'):
        cfg.train_cfg.update(max_epochs=1)
        train.indices = STEPS
    follow_length(cfg, length, {})


def evaluated(cfg):
    return [loader for loader in (cfg.val_dataloader, cfg.test_dataloader) if loader]


def shrink_self_supervised(cfg, train, toy, tmp_path):
    train.data_root = str(toy / 'imagenet' / 'train')
    if cfg.model.type == 'semmae.SemMAE':
        grid = 16 if cfg.model.num_candidates else 8
        patch = cfg.model.backbone.patch_size
        train.grid = cfg.model.decoder.grid = grid
        for step in train.pipeline:
            for key in {'size', 'scale'} & {*step}:
                step[key] = grid * patch
            if step.get('grid'):  # the model's; that of the store is finer
                step.grid, train.grid = grid, 2 * grid
        cfg.model.backbone.update(arch=ARCH, img_size=grid * patch)
        cfg.model.decoder.update(embed_dim=24, decoder_embed_dim=16, decoder_depth=1,
                                 decoder_num_heads=2)
        if cfg.model.num_candidates:
            cfg.model.num_candidates = grid ** 2 // 4
        if cfg.model.get('online_parts'):
            learner = Config.fromfile(REPO / 'mm_configs/mini/semmae_parts_mini.py').model
            learner.encoder.backbone.arch = ARCH
            weights = tmp_path / 'learner.pth'
            torch.save(dict(state_dict=MODELS.build(learner).state_dict()), weights)
            cfg.model.online_parts.update(learner=learner, checkpoint=str(weights), grid=grid)
        if train.part_store:
            train.part_store = str(toy / 'parts' / f'train_{train.grid}')
            train.num_parts = 6
            if 'num_parts' in cfg.model.masking:
                cfg.model.masking.num_parts = 6
            train.foreground = None  # scores of the toy store are random
    elif cfg.model.type == 'mmpretrain.SimMIM':
        cfg.model.backbone.update(arch=ARCH, img_size=64)
        cfg.model.neck.in_channels = 24
        train.pipeline[1].scale = train.pipeline[3].input_size = 64
    else:
        encoder = cfg.model.encoder
        weights = tmp_path / 'encoder.pth'
        is_timm = encoder.backbone.type == 'semmae.TimmViT'
        encoder.backbone.update(TINY if is_timm else dict(arch=ARCH), img_size=64)
        vit = MODELS.build(encoder.backbone)
        torch.save((vit.vit if is_timm else vit).state_dict(), weights)
        encoder.update(grid=4, checkpoint=str(weights))
        cfg.model.blur_kernel = 3
        for node in (encoder, cfg.model.get('object'), cfg.model.get('parts')):
            if node and node.get('layer') is not None:
                node.layer = 0
        train.pipeline[0].size = 64


def shrink_labelled(cfg, train, toy, cars, inat, tmp_path):
    copy_of(tmp_path, 'camvid', count=4, size=(SIDE, 2 * SIDE))
    homes = {'semmae.INaturalist2019': inat, 'semmae.CUBParts': toy / 'CUB_200_2011',
             'semmae.StanfordCars': cars, 'mmseg.ADE20KDataset': toy / 'ADEChallengeData2016',
             'mmseg.BaseSegDataset': toy / 'ADEChallengeData2016'}
    for split, data in (('train', train), *(('val', x.dataset) for x in evaluated(cfg))):
        data.data_root = str(tmp_path / 'CamVid' if 'CamVid' in data.data_root else
                             homes.get(data.type, toy / 'imagenet' / split))
        for step in data.pipeline:
            if step.type == 'semmae.LoadParts':  # scores of the toy store are random
                step.update(store=str(toy / 'parts' / f'{split}_8'), grid=8, foreground=None,
                            root=str(toy / 'imagenet' / split))


def shrink_model(cfg, tmp_path):
    model, backbone = cfg.model, cfg.model.backbone
    is_timm = backbone.type == 'semmae.TimmViT'
    backbone.update(TINY if is_timm else dict(arch=ARCH), img_size=SIDE)
    if model.get('decode_head'):
        model.data_preprocessor.size = (SIDE, SIDE)
        if model.test_cfg.mode == 'slide':
            model.test_cfg.update(crop_size=(SIDE, SIDE), stride=(43, 43))
    if backbone.get('out_indices'):
        backbone.out_indices = [0, 1, 2, 3]
        model.neck.embed_dim = 24
        model.decode_head.update(in_channels=[24] * 4, channels=8)
        model.auxiliary_head.update(in_channels=24, channels=8)
    elif model.get('decode_head'):
        model.decode_head.in_channels = 24
        if 'embed_dims' in model.decode_head:
            model.decode_head.update(embed_dims=24, channels=24, num_heads=2)
    else:
        model.head.update(dict(k=2, also=(1, 4)) if 'k' in model.head else dict(in_channels=24))
        if model.get('neck'):
            model.neck.input_features = 24
        if model.get('num_candidates'):
            model.num_candidates = 16
    for loader in (cfg.train_dataloader.dataset, *evaluated(cfg)):
        for step in loader.dataset.pipeline:
            kind = step.type.split('.')[-1]
            if kind in ('RandomResizedCrop', 'ResizeEdge'):
                step.scale = SIDE
            elif kind in ('RandomResize', 'Resize'):
                step.scale = (SIDE * 4, SIDE)
            elif kind in ('CenterCrop', 'RandomCrop'):
                step.crop_size = SIDE if kind == 'CenterCrop' else (SIDE, SIDE)
    if not backbone.init_cfg:
        return  # from scratch
    weights = tmp_path / 'pretrained.pth'
    torch.save(dict(state_dict={f'backbone.{k}': v for k, v in MODELS.build(dict(
        backbone, init_cfg=None, out_type='raw', final_norm=True,
        **({} if is_timm else dict(rel_pos_bias=False)))).state_dict().items()}), weights)
    backbone.init_cfg = dict(type='Pretrained', checkpoint=str(weights))
