"""The part store is complete or clearly incomplete, and refuses what it was not made for."""
import builtins
import json
import os
import pickle
import random
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from semmae import files
from semmae.datasets.geometry import view_of
from semmae.datasets.part_dataset import PartDataset
from semmae.datasets.part_store import PartStore, PartStoreWriter, list_images
from semmae.datasets.transforms import LoadParts
from tests.tiny import fork, wait


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


def make(photos, out, shard_size=3, pause=0, log=None, **manifest):
    """Write a store as an extraction does; returns it with what was written."""
    names = list_images(photos)
    writer = PartStoreWriter(out, names, dict(dict(grid=4, num_parts=3), **manifest), shard_size)
    ids, foreground = parts(len(names))
    while writer.todo():
        while shard := writer.claim():
            time.sleep(pause)
            part = slice(*shard)
            writer.write(shard[0], ids[part], foreground[part])
            if log:
                (log / f'{shard[0]}_{os.getpid()}').touch()
        time.sleep(pause)
    return writer.finish(), ids, foreground


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes()
            for p in Path(folder).rglob('*') if p.is_file()}


def test_what_is_written_comes_back(photos, tmp_path):
    store, ids, foreground = make(photos, tmp_path / 'store')
    assert len(store) == 5 and store.images() == list_images(photos)
    for i in range(5):
        assert (store[i][0] == ids[i]).all() and (store[i][1] == foreground[i]).all()
    assert sorted(contents(tmp_path / 'store')) == [
        'foreground.npy', 'images.txt', 'manifest.json', 'part_ids.npy']


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


@pytest.mark.parametrize('is_complete', [True, False])
@pytest.mark.parametrize('change, complaint', [
    (dict(grid=2), 'grid 4, expected 2'), (dict(num_parts=2), 'num_parts 3, expected 2'),
    (dict(source='heads'), 'source learned, expected heads'),
    (dict(learner_sha256='b' * 64), f'learner_sha256 {"a" * 12}, expected {"b" * 12}'),
    ('other images', 'images_sha256 .{12}, expected .{12}')])
def test_a_store_made_of_something_else_is_neither_overwritten_nor_mixed(
        photos, tmp_path, is_complete, change, complaint):
    made = dict(grid=4, num_parts=3, source='learned', learner_sha256='a' * 64)
    if is_complete:
        make(photos, tmp_path / 's', **made)
    else:
        PartStoreWriter(tmp_path / 's', list_images(photos), made, 3)
    before = contents(tmp_path / 's')
    if change == 'other images':
        change = {}
        (photos / '0/0.png').rename(photos / '0/9.png')
    with pytest.raises(ValueError, match=f'that differs: {complaint}. Remove the folder'):
        make(photos, tmp_path / 's', **{**made, **change})
    before.pop('lock', None)
    assert before.items() <= contents(tmp_path / 's').items()


def test_a_complete_store_of_the_same_is_returned_untouched(photos, tmp_path):
    make(photos, tmp_path / 's', batch_size=2)
    before = contents(tmp_path / 's')
    writer = PartStoreWriter(tmp_path / 's', list_images(photos),
                             dict(grid=4, num_parts=3, batch_size=4), shard_size=1)
    assert writer.is_complete() and writer.todo() == [] and writer.claim() is None
    assert len(writer.finish()) == 5 and contents(tmp_path / 's') == before


def test_an_unfinished_store_keeps_its_batches(photos, tmp_path):
    PartStoreWriter(tmp_path / 's', list_images(photos), dict(grid=4, num_parts=3, batch_size=2))
    with pytest.raises(ValueError, match='an unfinished part store .* batch_size 2, expected 4'):
        make(photos, tmp_path / 's', batch_size=4, shard_size=1024)


def die_at(moment):
    """Have this process killed at its ``moment``-th change of the file system, halfway if it can.

    Changes are writes into files, syncs, renames, new folders and removals.
    """
    left = [moment]

    def dies(change):
        def wrapped(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return change(*args, **kwargs)
        return wrapped

    class Dying:
        def __init__(self, path, mode):
            self.file = builtins.open(path, mode)

        def write(self, data):
            left[0] -= 1
            if left[0] == 0:
                self.file.write(bytes(data)[:len(data) // 2])
                self.file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            return self.file.write(data)

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

    Path.open = lambda path, mode='r', *args, **kwargs: (
        Dying(path, mode) if 'w' in mode else builtins.open(path, mode, *args, **kwargs))
    for name in ('fsync', 'replace', 'mkdir', 'unlink', 'rmdir'):
        setattr(os, name, dies(getattr(os, name)))


def die_while_making(moment, photos, out):
    """Whether a process that makes the store was killed, by `die_at`, before it was done."""
    def action():
        die_at(moment)
        make(photos, out)
    code = wait(fork(action, photos / 'said'))
    assert code in (0, -signal.SIGKILL), f'moment {moment}: exit status {code}'
    return code != 0


@pytest.mark.slow
def test_killed_at_any_change_on_disk_and_started_again_it_ends_in_the_same_bytes(
        photos, tmp_path, monkeypatch):
    monkeypatch.setattr(os, 'fsync', lambda descriptor: None)  # it is slow, and no power is lost
    make(photos, tmp_path / 'whole')
    moment = 1
    while die_while_making(moment, photos, tmp_path / f'{moment}'):
        make(photos, tmp_path / f'{moment}')
        assert contents(tmp_path / f'{moment}') == contents(tmp_path / 'whole'), moment
        moment += 1
    assert moment > 45  # 8 files written, synced and renamed; 8 files and a folder removed


def test_killed_three_times_it_still_ends_in_the_same_bytes(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(os, 'fsync', lambda descriptor: None)
    make(photos, tmp_path / 'whole')
    rng = random.Random(0)
    for trial in range(5):
        out = tmp_path / f'{trial}'
        assert sum(die_while_making(rng.randint(1, 30), photos, out) for _ in range(3)) >= 2
        make(photos, out)
        assert contents(out) == contents(tmp_path / 'whole'), trial


def test_processes_share_the_shards_and_make_the_same_bytes(photos, tmp_path):
    make(photos, tmp_path / 'whole', shard_size=1)
    (tmp_path / 'log').mkdir()
    share = partial(make, photos, tmp_path / 's', shard_size=1, pause=.05, log=tmp_path / 'log')
    children = [fork(share, tmp_path / f'said{i}') for i in range(3)]
    assert [wait(pid) for pid in children] == [0, 0, 0]
    assert contents(tmp_path / 's') == contents(tmp_path / 'whole')
    shards, pids = zip(*(p.name.split('_') for p in (tmp_path / 'log').iterdir()))
    assert sorted(shards) == list('01234') and len(set(pids)) > 1


def test_a_shard_that_was_written_since_one_looked_is_not_claimed_again(
        photos, tmp_path, monkeypatch):
    names, manifest = list_images(photos), dict(grid=4, num_parts=3)
    mine, theirs = (PartStoreWriter(tmp_path / 's', names, manifest, 2) for _ in range(2))
    looked = mine.todo()
    theirs.write(0, *(a[:2] for a in parts(5)))
    monkeypatch.setattr(mine, 'todo', lambda: looked)
    assert mine.claim() == (2, 4)


def test_a_claimed_shard_is_free_again_when_its_process_is_killed(photos, tmp_path):
    manifest = dict(grid=4, num_parts=3)
    mine = PartStoreWriter(tmp_path / 's', list_images(photos), manifest, shard_size=2)
    claimed, there = os.pipe()

    def hold():
        theirs = PartStoreWriter(tmp_path / 's', list_images(photos), manifest, shard_size=2)
        os.write(there, str(theirs.claim()).encode())
        time.sleep(60)
    child = fork(hold, tmp_path / 'said')
    assert os.read(claimed, 100) == b'(0, 2)'
    assert mine.claim() == (2, 4)
    os.kill(child, signal.SIGKILL)
    assert wait(child) == -signal.SIGKILL
    assert mine.claim() == (0, 2) and mine.claim() == (4, 5) and mine.claim() is None
    mine.release()
    other = PartStoreWriter(tmp_path / 's', list_images(photos), manifest, shard_size=2)
    assert other.claim() == (0, 2)


def test_more_parts_than_a_byte_can_name_are_refused_before_anything_is_written(photos, tmp_path):
    with pytest.raises(ValueError, match='257 parts; a part store holds at most 256'):
        make(photos, tmp_path / 's', num_parts=257)
    assert not (tmp_path / 's').exists()
    make(photos, tmp_path / 's', num_parts=256)


@pytest.mark.parametrize('wanted, complaint', [
    (dict(grid=8), 'grid 4, expected 8'), (dict(num_parts=6), 'num_parts 3, expected 6')])
def test_another_grid_or_number_of_parts_is_refused_with_the_command(
        photos, tmp_path, wanted, complaint):
    make(photos, tmp_path / 's')[0]
    with pytest.raises(ValueError, match=f'{complaint}.*tools/extract_parts.py'):
        PartDataset(str(photos), part_store=tmp_path / 's', **wanted)


LOAD = dict(type='LoadImageFromFile')
HALF = [LOAD, dict(type='mmpretrain.ResizeEdge', scale=16), dict(type='CenterCrop', crop_size=8)]


def test_a_store_of_another_view_of_the_images_is_refused(photos, tmp_path):
    same = [LOAD, dict(type='mmpretrain.ResizeEdge', scale=64),
            dict(type='mmpretrain.CenterCrop', crop_size=32)]
    whole = [LOAD, dict(type='mmpretrain.ResizeEdge', scale=8),
             dict(type='CenterCrop', crop_size=8)]
    make(photos, tmp_path / 's', view=view_of(HALF))
    PartDataset(str(photos), part_store=tmp_path / 's', pipeline=same)  # at another resolution
    for read in (lambda: LoadParts(store=tmp_path / 's', root=photos),
                 lambda: PartDataset(str(photos), part_store=tmp_path / 's', pipeline=whole)):
        with pytest.raises(ValueError, match='crop of 0.500.*expected .*centre crop of 1.000'):
            read()


def test_the_probes_pipelines_show_the_view_that_their_parts_are_looked_up_for():
    from mmengine.config import Config
    cfg = Config.fromfile('mm_configs/semmae_linprobe.py')
    for data in (cfg.train_dataloader.dataset.dataset, cfg.val_dataloader.dataset):
        at = [step.type for step in data.pipeline].index('semmae.LoadParts')
        assert view_of(data.pipeline[:at]) == ['short side resized', 'centre crop of 1.000']


@pytest.mark.parametrize('kind', ['RandomResizedCrop', 'mmpretrain.RandomCrop', 'RandomFlip'])
def test_steps_that_leave_the_part_map_behind_are_refused(photos, tmp_path, kind):
    make(photos, tmp_path / 's')[0]
    with pytest.raises(ValueError, match='away from their part maps'):
        PartDataset(str(photos), part_store=tmp_path / 's',
                    pipeline=[LOAD, dict(type=kind, scale=8)])


def test_other_images_are_refused(photos, tmp_path):
    make(photos, tmp_path / 's')
    Image.new('RGB', (8, 8)).save(photos / 'new.png')
    with pytest.raises(ValueError, match='does not fit: images_sha256 .{12}, expected .{12}'):
        PartDataset(str(photos), part_store=tmp_path / 's')


def test_a_store_whose_arrays_were_cut_is_refused(photos, tmp_path):
    make(photos, tmp_path / 's')
    path = tmp_path / 's/part_ids.npy'
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match='part_ids.npy cannot be read: .* Run: python tools'):
        PartStore(tmp_path / 's')
    np.save(path, np.zeros((4, 16), np.uint8))
    with pytest.raises(ValueError, match=r'part_ids.npy has shape \(4, 16\)'):
        PartStore(tmp_path / 's')


@pytest.mark.parametrize('name', ['part_ids.npy', 'foreground.npy', 'images.txt'])
@pytest.mark.parametrize('check', [PartStore.verify, PartStore.require])
def test_a_changed_byte_is_found_and_its_file_named_also_after_a_successful_check(
        photos, tmp_path, name, check):
    check(make(photos, tmp_path / 's')[0])
    content = bytearray((tmp_path / 's' / name).read_bytes())
    content[-5] ^= 1
    (tmp_path / 's' / name).write_bytes(content)
    with pytest.raises(ValueError, match=f'{name} was changed after it was written'):
        check(PartStore(tmp_path / 's'))


def test_a_store_that_was_checked_is_not_read_again(photos, tmp_path):
    make(photos, tmp_path / 's')
    PartStore(tmp_path / 's').require(grid=4)
    before = files._sha256.cache_info().misses
    PartStore(tmp_path / 's').require(grid=4)
    assert files._sha256.cache_info().misses == before


@pytest.mark.parametrize('damage, complaint', [
    (lambda text: text.replace('"num_parts": 3', '"num_parts": 2'), 'was changed after'),
    (lambda text: text[:-9], 'is damaged'), (lambda text: '[1]', 'holds a list'),
    (lambda text: '{"format": 1, "grid": "4"}', 'was changed after')])
def test_a_changed_manifest_is_refused_and_named(photos, tmp_path, damage, complaint):
    make(photos, tmp_path / 's')
    path = tmp_path / 's/manifest.json'
    path.write_text(damage(path.read_text()))
    with pytest.raises(ValueError, match=f'manifest.json {complaint}'):
        PartStore(tmp_path / 's')


def test_an_array_in_another_order_is_refused(photos, tmp_path):
    make(photos, tmp_path / 's')
    path = tmp_path / 's/part_ids.npy'
    np.save(path, np.asfortranarray(np.load(path)))
    with pytest.raises(ValueError, match='part_ids.npy holds uint8 in another order'):
        PartStore(tmp_path / 's')


def test_a_damaged_shard_is_named_and_not_joined(photos, tmp_path):
    writer = PartStoreWriter(tmp_path / 's', list_images(photos), dict(grid=4, num_parts=3))
    writer.write(0, ZEROS, ZEROS)
    (shard,) = (tmp_path / 's/shards').glob('*.npy')
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(ValueError, match=f'{shard.name} cannot be read'):
        writer.finish()
    assert not writer.is_complete()


def test_a_store_of_another_format_is_refused(photos, tmp_path):
    make(photos, tmp_path / 's')
    manifest = json.loads((tmp_path / 's/manifest.json').read_text())
    (tmp_path / 's/manifest.json').write_text(json.dumps(dict(manifest, format=99)))
    with pytest.raises(ValueError, match='has format 99'):
        PartStore(tmp_path / 's')


ZEROS = np.zeros((5, 16), int)


@pytest.mark.parametrize('ids, foreground, complaint', [
    (np.full((5, 16), 3), ZEROS, 'part_ids from 3 to 3 .* expected 0 to 2'),
    (np.full((5, 16), -1), ZEROS, 'part_ids from -1'),
    (ZEROS, np.full((5, 16), 256), 'foreground from 256 to 256 .* expected 0 to 255'),
    (ZEROS[1:], ZEROS[1:], r'shape \(4, 16\), expected \(5, 16\)')])
def test_what_does_not_belong_in_a_shard_is_refused_before_it_is_written(
        photos, tmp_path, ids, foreground, complaint):
    writer = PartStoreWriter(tmp_path / 's', list_images(photos), dict(grid=4, num_parts=3))
    with pytest.raises(ValueError, match=complaint):
        writer.write(0, ids, foreground)
    assert writer.todo() == [(0, 5)]


@pytest.fixture(scope='module')
def large(tmp_path_factory):
    """3000 images at 28x28 under names as long as ImageNet's, and what was written."""
    names = [f'n{i // 1300:08d}/n{i // 1300:08d}_{i:05d}.JPEG' for i in range(3000)]
    out = tmp_path_factory.mktemp('large')
    writer = PartStoreWriter(out, names, dict(grid=28, num_parts=6))
    arrays = [a.astype(np.uint8) for a in parts(3000, 28, 6)]
    while shard := writer.claim():
        writer.write(shard[0], *(a[slice(*shard)] for a in arrays))
    return writer.finish(), arrays


def test_an_image_costs_at_most_1600_bytes_at_28x28(large):
    assert sum(len(c) for c in contents(large[0].root).values()) <= 1600 * 3000


@pytest.mark.filterwarnings('ignore:This DataLoader will create')
def test_four_worker_processes_read_it_at_once(large):
    store, arrays = large
    batches = list(DataLoader(store, batch_size=50, num_workers=4, multiprocessing_context='fork'))
    for read, written in zip(zip(*batches), arrays):
        assert (np.concatenate(read) == written).all()


def test_a_spawned_worker_gets_the_store_without_its_arrays_and_opens_them(large):
    store, arrays = large
    store[0]
    sent = pickle.dumps(store)
    assert len(sent) < 10_000
    assert all((a == b).all() for a, b in zip(pickle.loads(sent)[2999], (a[2999] for a in arrays)))


def test_what_is_read_may_be_changed_without_changing_the_store(photos, tmp_path):
    store, ids, _ = make(photos, tmp_path / 's')
    store[1][0][:] = 7
    assert (store[1][0] == ids[1]).all()


def test_names_that_are_not_utf8_keep_their_bytes(tmp_path):
    (tmp_path / 'p').mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path / 'p') + b'/\xe9\xc2\x85.png')).touch()
    store = PartStoreWriter(tmp_path / 's', list_images(tmp_path / 'p'),
                            dict(grid=1, num_parts=1))
    store.write(0, np.zeros((1, 1)), np.zeros((1, 1)))
    store = store.finish()
    store.verify()
    assert store.images() == list_images(tmp_path / 'p')


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
