"""The part store is complete or clearly incomplete, and refuses what it was not made for."""
import json
import pickle

import numpy as np
import pytest
from PIL import Image

from semmae.datasets.part_dataset import PartDataset
from semmae.datasets.part_store import PartStore, PartStoreWriter, list_images
from semmae.datasets.transforms import LoadParts, view_of


@pytest.fixture
def photos(tmp_path):
    for i in range(5):
        path = tmp_path / 'photos' / f'{i % 2}' / f'{i}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 40 * i, np.uint8)).save(path)
    return tmp_path / 'photos'


def parts(n, grid=4, num_parts=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(num_parts, size=(n, grid ** 2)), rng.integers(256, size=(n, grid ** 2))


def make(photos, out, **manifest):
    names = list_images(photos)
    writer = PartStoreWriter(out, names, dict(dict(grid=4, num_parts=3), **manifest), shard_size=2)
    ids, foreground = parts(len(names))
    for start, stop in writer.todo():
        writer.write(start, ids[start:stop], foreground[start:stop])
    return writer, ids, foreground


def test_what_is_written_comes_back(photos, tmp_path):
    writer, ids, foreground = make(photos, tmp_path / 'store')
    store = writer.finish()
    assert len(store) == 5 and store.images() == list_images(photos)
    for i in range(5):
        assert (store[i][0] == ids[i]).all() and (store[i][1] == foreground[i]).all()
    assert not (tmp_path / 'store/shards').exists()


def test_an_interrupted_store_goes_on_with_the_missing_shards(photos, tmp_path):
    names = list_images(photos)
    ids, foreground = parts(5)
    first = PartStoreWriter(tmp_path / 's', names, dict(grid=4, num_parts=3), shard_size=2)
    first.write(2, ids[2:4], foreground[2:4])
    with pytest.raises(FileNotFoundError, match='unfinished part store'):
        PartStore(tmp_path / 's')
    again = PartStoreWriter(tmp_path / 's', names, dict(grid=4, num_parts=3), shard_size=2)
    assert again.todo() == [(0, 2), (4, 5)]
    with pytest.raises(ValueError, match='shards are missing, from image 0'):
        again.finish()
    for start, stop in again.todo():
        again.write(start, ids[start:stop], foreground[start:stop])
    assert (again.finish()[3][0] == ids[3]).all()


def test_an_unfinished_store_of_another_learner_is_not_mixed(photos, tmp_path):
    names = list_images(photos)
    PartStoreWriter(tmp_path / 's', names, dict(grid=4, num_parts=3, learner_sha256='a'))
    with pytest.raises(ValueError, match='another checkpoint'):
        PartStoreWriter(tmp_path / 's', names, dict(grid=4, num_parts=3, learner_sha256='b'))


def test_a_complete_store_is_not_overwritten(photos, tmp_path):
    make(photos, tmp_path / 's')[0].finish()
    with pytest.raises(ValueError, match='already holds a complete part store'):
        make(photos, tmp_path / 's')


@pytest.mark.parametrize('wanted, complaint', [
    (dict(grid=8), 'grid 4, wanted 8'), (dict(num_parts=6), 'num_parts 3, wanted 6')])
def test_another_grid_or_number_of_parts_is_refused_with_the_command(
        photos, tmp_path, wanted, complaint):
    make(photos, tmp_path / 's')[0].finish()
    with pytest.raises(ValueError, match=f'{complaint}.*tools/extract_parts.py'):
        PartDataset(str(photos), part_store=tmp_path / 's', **wanted)


LOAD = dict(type='LoadImageFromFile')
HALF = [LOAD, dict(type='mmpretrain.ResizeEdge', scale=16), dict(type='CenterCrop', crop_size=8)]


def test_a_store_of_another_view_of_the_images_is_refused(photos, tmp_path):
    same = [LOAD, dict(type='mmpretrain.ResizeEdge', scale=64),
            dict(type='mmpretrain.CenterCrop', crop_size=32)]
    make(photos, tmp_path / 's', view=view_of(HALF))[0].finish()
    PartDataset(str(photos), part_store=tmp_path / 's', pipeline=same)  # at another resolution
    whole = [LOAD, dict(type='mmpretrain.ResizeEdge', scale=8),
             dict(type='CenterCrop', crop_size=8)]
    with pytest.raises(ValueError, match='centre crop of 0.500.*wanted .*centre crop of 1.000'):
        PartDataset(str(photos), part_store=tmp_path / 's', pipeline=whole)


def test_labelled_images_refuse_a_store_of_another_view_too(photos, tmp_path):
    make(photos, tmp_path / 's', view=view_of(HALF))[0].finish()
    with pytest.raises(ValueError, match='centre crop of 0.500.*wanted .*centre crop of 1.000'):
        LoadParts(store=tmp_path / 's', root=photos)
    LoadParts(store=tmp_path / 's', root=photos, view=view_of(HALF))


def test_the_probes_pipelines_show_the_view_that_their_parts_are_looked_up_for():
    from mmengine.config import Config
    cfg = Config.fromfile('mm_configs/semmae_linprobe.py')
    for data in (cfg.train_dataloader.dataset.dataset, cfg.val_dataloader.dataset):
        at = [step.type for step in data.pipeline].index('semmae.LoadParts')
        assert view_of(data.pipeline[:at]) == ['short side resized', 'centre crop of 1.000']


@pytest.mark.parametrize('kind', ['RandomResizedCrop', 'mmpretrain.RandomCrop', 'RandomFlip'])
def test_steps_that_leave_the_part_map_behind_are_refused(photos, tmp_path, kind):
    make(photos, tmp_path / 's')[0].finish()
    with pytest.raises(ValueError, match='away from their part maps'):
        PartDataset(str(photos), part_store=tmp_path / 's',
                    pipeline=[LOAD, dict(type=kind, scale=8)])


def test_other_images_are_refused(photos, tmp_path):
    make(photos, tmp_path / 's')[0].finish()
    Image.new('RGB', (8, 8)).save(photos / 'new.png')
    with pytest.raises(ValueError, match='images .*, wanted'):
        PartDataset(str(photos), part_store=tmp_path / 's')


def test_a_store_whose_arrays_were_cut_is_refused(photos, tmp_path):
    make(photos, tmp_path / 's')[0].finish()
    np.save(tmp_path / 's/part_ids.npy', np.zeros((4, 16), np.uint8))
    with pytest.raises(ValueError, match=r'part_ids.npy has shape \(4, 16\)'):
        PartStore(tmp_path / 's')


def test_a_store_of_another_format_is_refused(photos, tmp_path):
    make(photos, tmp_path / 's')[0].finish()
    manifest = json.loads((tmp_path / 's/manifest.json').read_text())
    (tmp_path / 's/manifest.json').write_text(json.dumps(dict(manifest, format=99)))
    with pytest.raises(ValueError, match='has format 99'):
        PartStore(tmp_path / 's')


def test_a_part_id_out_of_range_is_refused_before_it_is_written(photos, tmp_path):
    writer = PartStoreWriter(tmp_path / 's', list_images(photos), dict(grid=4, num_parts=3))
    with pytest.raises(ValueError, match='part id 3 in a store of 3 parts'):
        writer.write(0, np.full((5, 16), 3), np.zeros((5, 16)))


def test_a_store_travels_to_workers_and_an_image_costs_two_bytes_a_patch(photos, tmp_path):
    store = make(photos, tmp_path / 's')[0].finish()
    copy = pickle.loads(pickle.dumps(store))
    assert (copy[1][0] == store[1][0]).all()
    data = sum((tmp_path / 's' / f'{n}.npy').stat().st_size - 128
               for n in ('part_ids', 'foreground'))
    assert data == 5 * 2 * 16


def test_a_sample_of_a_folder_is_evenly_spaced_and_stays_the_same(photos, tmp_path):
    from semmae.datasets.part_store import sample_images
    for _ in range(2):
        out = sample_images(photos, tmp_path / 'sample', 2)
        names = list_images(photos)
        assert list_images(out) == [names[0], names[2]]
    assert list_images(sample_images(photos, tmp_path / 'all', 99)) == names


def test_an_empty_folder_says_what_it_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match='no image below .*jpeg'):
        list_images(tmp_path)
