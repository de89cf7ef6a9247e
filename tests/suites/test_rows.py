"""Rows of the suites and cells of the paper: what fills a cell, and what nothing of ours fills."""
import json
import re

import numpy as np
import pytest
import torch
from mmengine.config import Config

from semmae.config.options import config_of, read_config
from semmae.config.recipes import recipe_fields, shipped
from semmae.datasets.part_store import PartStoreWriter, list_images
from semmae.datasets.transforms import LoadParts
from semmae.parts.extract import extract_parts
from semmae.parts.learner import LearnerSource
from semmae.registry import DATASETS
from semmae.reporting.tables import load_numbers
from semmae.suites.builders import MAPS
from semmae.suites.catalogue import PAPER, SUITES, TABLE3_LEARNED
from semmae.suites.rows import Train
from semmae.suites.schedule import plan
from semmae.training import run as training

from ..conftest import REPO
from ..test_configs import shrink
from .conftest import overridden

NUMBERS = load_numbers().set_index('row')


def commands(suite, only, tmp_path):
    return {run.id: ' '.join(run.command) for run in plan(suite, tmp_path, only)}


# ------------------------------------------------------------------ the foreground of Sec. 4.2
@pytest.mark.parametrize('suite, stores', [
    (PAPER, ('store_28_maps', 'store_28_maps_val')),
    (TABLE3_LEARNED, ('store_maps', 'store_val_maps'))])
def test_the_papers_foreground_has_a_row_whose_stores_all_rank_by_the_maps(
        tmp_path, suite, stores):
    found = commands(suite, [f'linprobe/{MAPS}'], tmp_path)
    train, val = (f'{tmp_path}/seed0/{store}' for store in stores)
    for store in stores:
        assert found[store].endswith('--cfg-options model.parts.foreground=parts')
    assert f'train_dataloader.dataset.dataset.part_store={train}' in found[MAPS]
    cfg = overridden(found[f'linprobe/{MAPS}'].split())
    for data, store in ((cfg.train_dataloader.dataset.dataset, train),
                        (cfg.val_dataloader.dataset, val), (cfg.test_dataloader.dataset, val)):
        assert (data.pipeline[3].store, data.pipeline[3].foreground) == (store, 'parts')
    row = {r.id: r for r in suite.rows}[MAPS]
    cfg = Config.fromfile(REPO / row.config)
    assert cfg.recipe.id == MAPS and cfg.recipe.parts == dict(foreground='parts')
    assert cfg.train_dataloader.dataset.dataset.foreground == 'parts'


def test_it_is_evaluated_as_the_main_recipe_is():
    rows = {r.id for r in PAPER.rows}
    tasks = {r.split('/')[0] for r in rows if r.endswith('/semmae_p8')}
    assert len(tasks) == 6 and {f'{task}/{MAPS}' for task in tasks} <= rows


def test_a_checkpoint_that_says_so_is_probed_with_these_stores(tmp_path):
    torch.save(dict(meta=dict(semmae=dict(id=MAPS)), state_dict={
        'backbone.patch_embed.projection.weight': torch.zeros(8, 3, 8, 8)}), tmp_path / 'x.pth')
    runs = {r.id: r for r in plan(PAPER, tmp_path, checkpoint=tmp_path / 'x.pth')}
    assert 'store_28_maps_val' in runs and 'store_28' not in runs
    data = overridden(runs[f'linprobe/{MAPS}'].command).val_dataloader.dataset
    assert data.pipeline[3].store == str(runs['store_28_maps_val'].work_dir)
    assert data.pipeline[3].foreground == 'parts'


def test_a_probe_refuses_a_store_with_another_ranking(toy, tmp_path):
    images = toy / 'imagenet' / 'val'
    names = list_images(images)
    writer = PartStoreWriter(tmp_path / 'store', names, dict(
        grid=8, num_parts=6, parts=dict(type='semmae.LearnedParts', foreground='border')))
    writer.write(0, *np.zeros((2, len(names), 64), 'uint8'))
    store = writer.finish()
    LoadParts(store.root, images, grid=8, foreground='border')
    LoadParts(store.root, images, grid=8)
    with pytest.raises(ValueError, match='foreground'):
        LoadParts(store.root, images, grid=8, foreground='parts')
    cfg = Config.fromfile(REPO / 'mm_configs/semmae_linprobe.py')
    for data in (cfg.train_dataloader.dataset.dataset, cfg.val_dataloader.dataset):
        assert data.pipeline[3].foreground == 'border'


def test_a_store_made_by_the_rows_options_is_the_recipes_and_the_default_one_is_refused(
        toy, learner, tmp_path):
    images, config = toy / 'imagenet' / 'train', str(REPO / 'mm_configs/mini/semmae_parts_mini.py')
    extraction = {r.id: r for r in TABLE3_LEARNED.rows}['store_maps']
    data = Config.fromfile(REPO / 'mm_configs/mini/table3_maps_mini.py').train_dataloader.dataset
    data.dataset.data_root = str(images)
    for name, options in (('maps', extraction.options), ('default', None)):
        source = LearnerSource(config, learner, 8, options=options)
        store = extract_parts(source, images, tmp_path / name)
        data.dataset.part_store = str(store.root)
        if name == 'default':
            with pytest.raises(ValueError, match='foreground'):
                DATASETS.build(data.dataset)
            continue
        made = DATASETS.build(data.dataset).store.manifest['parts']['foreground']
        assert made == recipe_fields(shipped(MAPS))['parts.parts.foreground'] == 'parts'


# ------------------------------------------------------------------ from scratch
def test_the_cell_of_a_vit_from_scratch_is_trained_from_scratch(tmp_path):
    (run,) = plan(PAPER, tmp_path, ['finetune/vit'])
    assert 'mm_configs/ablations/scratch_vit-base-p16.py' in run.command
    assert not any('init_cfg' in part for part in run.command)
    with pytest.raises(ValueError, match='finetune/vit is trained from scratch, got --check'):
        plan(PAPER, tmp_path, ['finetune/vit'], checkpoint='any.pth')


@pytest.mark.parametrize('row, why', [('finetune/deit', 'repeated augmentation'),
                                      ('finetune/vit384', '224 pixels and then fine-tuned at 384')])
@pytest.mark.parametrize('checkpoint', [None, 'any.pth'])
def test_cells_that_no_recipe_of_ours_fills_are_refused_with_the_reason(
        tmp_path, row, why, checkpoint):
    with pytest.raises(ValueError, match=f'{row} cannot be filled: .*{why}'):
        plan(PAPER, tmp_path, [row], checkpoint=checkpoint)


def test_a_training_from_scratch_says_so_in_its_result(toy, cars, inat, tmp_path, monkeypatch):
    leaf = 'mm_configs/ablations/scratch_vit-base-p16.py'
    cfg = Config.fromfile(REPO / leaf)
    assert cfg.model.backbone.init_cfg is None
    shrink(cfg, toy, cars, inat, tmp_path)
    assert cfg.model.backbone.init_cfg is None
    monkeypatch.setattr(training, 'read_config', lambda *_: cfg)
    training.train(leaf, work_dir=tmp_path / 'run', seed=0)
    line = json.loads((tmp_path / 'run/results.jsonl').read_text())
    assert (line['row'], line['kind'], line['method']) == (
        'finetune/vit', 'from scratch', 'ViT, from scratch')
    assert line['load_report'] is None


# ------------------------------------------------------------------ what a cell is
def test_every_cell_says_the_network_the_pixels_and_the_kind_of_training_that_fill_it():
    assert set(NUMBERS['kind']) == {'from scratch', 'fine-tuned', 'frozen'}
    for row, cell in NUMBERS.iterrows():
        task, recipe = row.split('/')
        assert (cell['kind'] == 'frozen') == (task == 'linprobe'), row
        assert cell['pixels'] == ('512' if task == 'ade20k' else
                                  '384' if recipe == 'vit384' else '224'), row
        assert cell['arch'] == ('vit-small' if recipe == 'attmask' else 'vit-base'), row
    scratch = NUMBERS[NUMBERS['kind'] == 'from scratch']
    assert list(scratch.index) == ['finetune/vit384', 'finetune/deit', 'finetune/vit']
    assert [bool(text) for text in scratch['recipe']] == [True, True, False]
    assert set(PAPER.unavailable) == {'finetune/vit384', 'finetune/deit'}


def test_table_5_has_its_groups_and_its_pretraining_data():
    cells = load_numbers().query('table == 5')
    assert list(cells['section'].unique()) == [
        'Training from scratch', 'Contrastive-based SSL Pre-Training',
        'MIM-based SSL Pre-Training']
    assert cells.groupby('section', sort=False).size().tolist() == [3, 7, 8]
    assert (cells['pretrain_data'] == 'ImageNet-1K').equals(
        cells['section'] != 'Training from scratch')


def test_a_row_that_our_recipe_fills_has_no_patch_size_that_it_cannot_have():
    """SimMIM's 32x32 are blocks of the mask here; the network has 16x16 patches."""
    rows = {r.id: r for r in PAPER.rows}
    for row, cell in NUMBERS.iterrows():
        if row in rows and cell['patch_size']:
            backbone = config_of(rows[row].config).model.backbone
            patch = rows[row].options.get('model.backbone.patch_size', backbone.patch_size)
            assert str(patch) == cell['patch_size'], row


@pytest.mark.parametrize('name', sorted(set(SUITES) - {'dense'}))
def test_a_training_ends_with_the_checkpoint_that_is_its_product(name):
    for row in SUITES[name].rows:
        if isinstance(row, Train) and (last := re.fullmatch(r'epoch_(\d+)\.pth', row.product)):
            epochs = read_config(row.config).train_cfg.max_epochs
            assert row.options.get('train_cfg.max_epochs', epochs) == int(last[1]), row.id
