"""The feature store gives back what was written, resumes, and is complete or clearly incomplete."""
import os
import shutil
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from semmae.probes.features import ArrayFeatures
from semmae.probes.store import FeatureStore, FeatureStoreWriter, fingerprint
from tests.tiny import fork, wait

NAMES = [f'a/{i}.jpg' for i in range(7)]
GRID = (2, 3)
FILES = ['images.txt', 'labels.npy', 'layer1_class.npy', 'layer1_patches.npy', 'manifest.json']


def tokens(seed=0):
    """Tokens of 7 images in layer 1; float16 keeps them."""
    rng = np.random.default_rng(seed)
    return {(1, 'class'): rng.normal(size=(7, 4)).astype(np.float16),
            (1, 'patches'): rng.normal(size=(7, 6, 4)).astype(np.float16)}


def maps(dtype=np.uint8, highest=255):
    """Label maps of different sizes."""
    rng = np.random.default_rng(1)
    return [rng.integers(highest + 1, size=(5 + i, 9 - i)).astype(dtype) for i in range(7)]


CLASSES = np.arange(7) % 3


def make(out, labels=CLASSES, shard_size=3, pause=0., die_after=None, log=None, **manifest):
    """Write a store as `ProbeLoop` does. die_after: shards after which the process is killed."""
    writer, found, done = writer_of(out, shard_size, **manifest), tokens(), 0
    while writer.todo():
        while shard := writer.claim():
            time.sleep(pause)
            part = slice(*shard)
            writer.write(shard[0], {k: v[part] for k, v in found.items()}, labels[part])
            done += 1
            if log:
                (log / f'{shard[0]}_{os.getpid()}').touch()
            if done == die_after:
                os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(pause)
    return writer.finish()


def writer_of(out, shard_size=3, **manifest):
    return FeatureStoreWriter(out, NAMES, dict(grid=list(GRID), **manifest), shard_size)


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes()
            for p in Path(folder).rglob('*') if p.is_file()}


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """A store with classes, and one with label maps; tests copy them before a change."""
    root = tmp_path_factory.mktemp('stores')
    make(root / 'classes')
    make(root / 'maps', maps())
    return root


# ------------------------------------------------------------------ what is written comes back
def test_tokens_and_classes_come_back(whole):
    store = FeatureStore(whole / 'classes')
    assert (len(store), store.names, store.grid, store.layers) == (7, NAMES, GRID, (1,))
    assert store.labels.tolist() == CLASSES.tolist() and store.labels.dtype == np.int64
    memory = ArrayFeatures(tokens(), CLASSES, GRID)
    for kind in ('class', 'patches'):
        for index in (slice(None), slice(2, 5), np.array([6, 0, 3])):
            found = store.tokens(1, kind, index)
            assert found.dtype == torch.float32 and found.equal(memory.tokens(1, kind, index))
    assert sorted(contents(whole / 'classes')) == FILES


def test_tokens_are_stored_in_half_precision_and_read_through_a_memory_map(whole):
    array = FeatureStore(whole / 'classes').arrays[1, 'patches']
    assert isinstance(array, np.memmap) and array.dtype == np.float16 and array.mode == 'r'
    read = FeatureStore(whole / 'classes').tokens(1, 'patches')
    read += 1  # a copy: the file stays
    FeatureStore(whole / 'classes').verify()


@pytest.mark.parametrize('dtype, highest', [(np.uint8, 255), (np.uint16, 65535)])
def test_label_maps_come_back_at_their_own_sizes(tmp_path, dtype, highest):
    written = maps(dtype, highest)
    store = make(tmp_path / 's', written)
    assert len(store.labels) == 7
    for i in (6, 0, 3):
        assert store.labels[i].dtype == dtype and (store.labels[i] == written[i]).all()


def test_depth_comes_back_in_metres(tmp_path):
    steps = maps(np.uint16, 50_000)
    store = make(tmp_path / 's', steps, depth_step=2e-4)
    for i, written in enumerate(steps):
        assert store.labels[i].dtype == np.float32
        np.testing.assert_allclose(store.labels[i], written * 2e-4, rtol=1e-6)


def test_tokens_that_are_not_stored_are_refused_with_those_that_are(whole):
    store = FeatureStore(whole / 'classes')
    for layer, kind in ((0, 'class'), (1, 'mean')):
        with pytest.raises(ValueError, match=f'has no {kind} tokens of layer {layer}, it has: '
                                             'layer 1 class, layer 1 patches. Set model.layers'):
            store.tokens(layer, kind)


# ------------------------------------------------------------------ writing
@pytest.mark.parametrize('value', [np.nan, np.inf, 7e4])
def test_features_that_half_precision_cannot_hold_are_refused(tmp_path, value):
    found = {key: array.astype(np.float32) for key, array in tokens().items()}
    found[1, 'patches'][4, 2, 1] = value
    writer = writer_of(tmp_path / 's', 7)
    with pytest.raises(ValueError, match='layer 1: the patches tokens of images 0 to 6 are NaN, '
                                         'infinite or above 65504'):
        writer.write(0, found, CLASSES)
    assert writer.todo() == [(0, 7)]


@pytest.mark.parametrize('labels', ['classes', 'maps'])
@pytest.mark.parametrize('shards', [1, 2])
def test_a_writer_that_was_killed_between_shards_is_resumed_to_the_same_bytes(
        whole, tmp_path, labels, shards):
    given = dict(classes=CLASSES, maps=maps())[labels]
    child = fork(partial(make, tmp_path / 's', given, die_after=shards), tmp_path / 'said')
    assert wait(child) == -signal.SIGKILL
    with pytest.raises(FileNotFoundError, match='an unfinished feature store'):
        FeatureStore(tmp_path / 's')
    assert writer_of(tmp_path / 's').todo() == [(0, 3), (3, 6), (6, 7)][shards:]
    make(tmp_path / 's', given)
    assert contents(tmp_path / 's') == contents(whole / labels)


def test_two_processes_share_the_shards_and_write_the_same_bytes(tmp_path):
    make(tmp_path / 'one', maps(), 1)
    (tmp_path / 'log').mkdir()
    share = partial(make, tmp_path / 's', maps(), 1, pause=.03, log=tmp_path / 'log')
    children = [fork(share, tmp_path / f'said{i}') for i in range(2)]
    assert [wait(child) for child in children] == [0, 0]
    assert contents(tmp_path / 's') == contents(tmp_path / 'one')
    shards, pids = zip(*(p.name.split('_') for p in (tmp_path / 'log').iterdir()))
    assert sorted(map(int, shards)) == list(range(7)) and len(set(pids)) == 2


def test_a_store_is_not_finished_without_all_shards(tmp_path):
    writer = writer_of(tmp_path / 's')
    writer.write(3, {k: v[3:6] for k, v in tokens().items()}, CLASSES[3:6])
    with pytest.raises(ValueError, match='shards are missing, from image 0 on'):
        writer.finish()


def test_a_damaged_shard_is_named(tmp_path):
    writer, found = writer_of(tmp_path / 's', 4), tokens()
    for start, stop in writer.todo():
        writer.write(start, {k: v[start:stop] for k, v in found.items()}, CLASSES[start:stop])
    path = writer.shard_file(4)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=f'{path} cannot be read: .*. Remove the file and run'):
        writer.finish()


@pytest.mark.parametrize('is_complete', [True, False])
def test_a_folder_of_other_features_is_not_overwritten(tmp_path, is_complete):
    (make if is_complete else writer_of)(tmp_path / 's', weights='a')
    with pytest.raises(ValueError, match="weights a, expected b. Remove the folder, or give "
                                         'another train_cfg.store'):
        writer_of(tmp_path / 's', weights='b')


def test_the_fingerprint_follows_every_field_in_any_order():
    made = dict(weights='a', layers=(-1,), view={'pipeline.0.type': 'Resize'})
    assert fingerprint(made) == fingerprint(dict(reversed(made.items())))
    assert fingerprint(made) == fingerprint(dict(made, layers=[-1]))  # as read from JSON
    assert len({fingerprint(dict(made, **{key: 'other'})) for key in made}
               | {fingerprint(made)}) == 4


# ------------------------------------------------------------------ reading
def changed(path, at=-5):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize('labels, name', [
    ('classes', 'labels.npy'), ('classes', 'layer1_class.npy'), ('classes', 'layer1_patches.npy'),
    ('classes', 'images.txt'), ('classes', 'manifest.json'), ('maps', 'maps.npy'),
    ('maps', 'maps.bin')])
def test_a_changed_byte_is_found_and_its_file_named(whole, tmp_path, labels, name):
    shutil.copytree(whole / labels, tmp_path / 's')
    FeatureStore(tmp_path / 's').verify()
    if name == 'manifest.json':
        path = tmp_path / 's' / name
        path.write_text(path.read_text().replace('"count": 7', '"count": 6'))
    else:
        changed(tmp_path / 's' / name)
    with pytest.raises(ValueError, match=f'{name} was changed after it was written.*Remove the '
                                         f'feature store. Remove {tmp_path}/s and run'):
        FeatureStore(tmp_path / 's').verify()


def test_a_missing_file_is_named(whole, tmp_path):
    shutil.copytree(whole / 'classes', tmp_path / 's')
    store = FeatureStore(tmp_path / 's')
    (tmp_path / 's/layer1_class.npy').unlink()
    with pytest.raises(FileNotFoundError, match='layer1_class.npy is missing. Remove .*/s and run'):
        store.verify()
    with pytest.raises(ValueError, match='layer1_class.npy cannot be read'):
        FeatureStore(tmp_path / 's')


def test_an_array_with_other_rows_than_images_is_named(whole, tmp_path):
    shutil.copytree(whole / 'classes', tmp_path / 's')
    np.save(tmp_path / 's/layer1_class.npy', np.zeros((6, 4), np.float16))
    with pytest.raises(ValueError, match='layer1_class.npy has 6 rows, the manifest says 7'):
        FeatureStore(tmp_path / 's')


def test_a_damaged_label_map_is_named(whole, tmp_path):
    shutil.copytree(whole / 'maps', tmp_path / 's')
    index = np.load(tmp_path / 's/maps.npy')
    changed(tmp_path / 's/maps.bin', index[2, 0])  # the first byte of the third PNG
    labels = FeatureStore(tmp_path / 's').labels
    with pytest.raises(ValueError, match='maps.bin: label map 2 is damaged. Remove the feature'):
        labels[2]
    assert (labels[1] == maps()[1]).all()
