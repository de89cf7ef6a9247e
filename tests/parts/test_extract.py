"""From a part learner and images to a part store that pre-training accepts."""
import json
import os
import random
import shutil
import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config

from benchmarks.speed import parts as speed
from benchmarks.speed.record import machine
from semmae.datasets.part_store import PartStore, list_images
from semmae.datasets.stored import manifest_hash
from semmae.files import sha256
from semmae.functional.parts import foreground_ids
from semmae.parts import extract
from semmae.parts.extract import extract_parts, infer, to_bytes, verify_parts
from semmae.parts.learner import LearnerSource, own_device
from semmae.registry import DATASETS

from ..tiny import REPO, fork, start_tool, wait

CONFIG = REPO / 'mm_configs/mini/semmae_parts_mini.py'


@pytest.fixture
def images(toy, tmp_path):
    """A folder that a test may change."""
    return shutil.copytree(toy / 'imagenet/train', tmp_path / 'images')


@pytest.fixture
def source(learner):
    return LearnerSource(CONFIG, learner, 8)


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes()
            for p in Path(folder).rglob('*') if p.is_file()}


def test_a_store_holds_what_the_learner_sees_in_each_image(source, toy, tmp_path):
    images = toy / 'imagenet/train'
    store = extract_parts(source, images, tmp_path / 'store', batch_size=5)
    assert store.images() == list_images(images) and store.grid == 8 and store.num_parts == 6
    model, _ = source.load()
    data = DATASETS.build(dict(
        type='semmae.PartDataset', data_root=str(images), part_store=str(tmp_path / 'store'),
        grid=8, num_parts=6, pipeline=Config.fromfile(
            REPO / 'mm_configs/mini/semmae_p16_mini.py').train_dataloader.dataset.dataset.pipeline))
    np.random.seed(0)  # its first number is .55: no flip
    sample = data[7]
    ids, foreground = infer(model, dict(inputs=sample['inputs'][None]))
    assert ids[0].equal(sample['part_ids'].long())
    assert to_bytes(foreground)[0].equal(sample['foreground'])


def test_an_interrupted_extraction_ends_in_the_same_bytes(source, toy, tmp_path, monkeypatch):
    images, sizes = toy / 'imagenet/train', dict(shard_size=4, batch_size=2)
    extract_parts(source, images, tmp_path / 'a', **sizes)
    calls, original = [], extract.infer

    def stop(*args):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(*args)
    monkeypatch.setattr(extract, 'infer', stop)
    with pytest.raises(KeyboardInterrupt):
        extract_parts(source, images, tmp_path / 'b', **sizes)
    extract_parts(source, images, tmp_path / 'b', **sizes)
    assert len(calls) == 4 + 6  # the one finished shard of four was kept
    assert contents(tmp_path / 'a') == contents(tmp_path / 'b')


def test_decoding_in_worker_processes_changes_no_byte(source, toy, tmp_path):
    for workers in (0, 2):
        extract_parts(source, toy / 'imagenet/train', tmp_path / f'{workers}', 4, workers,
                      shard_size=6)
    assert contents(tmp_path / '0') == contents(tmp_path / '2')


def test_a_complete_store_is_returned_without_looking_at_an_image(
        source, toy, tmp_path, monkeypatch, capsys):
    made = (source, toy / 'imagenet/train', tmp_path / 's')
    extract_parts(*made)
    before = contents(tmp_path / 's')
    monkeypatch.setattr(extract, 'infer', None)
    assert len(extract_parts(*made, batch_size=3, shard_size=5)) == 16
    assert 'is complete and made of the same inputs' in capsys.readouterr().out
    assert contents(tmp_path / 's') == before


@pytest.mark.parametrize('change, complaint', [
    (dict(grid=4), 'grid 8, expected 4'), (dict(source='heads'), 'source learned, expected heads'),
    (dict(checkpoint='other'), 'learner_sha256 .{12}, expected .{12}'),
    (dict(images='val'), 'count 16, expected 8; images_sha256')])
def test_a_complete_store_of_other_inputs_is_refused(source, toy, tmp_path, change, complaint):
    images = toy / 'imagenet/train'
    extract_parts(source, images, tmp_path / 's')
    if 'checkpoint' in change:
        content = torch.load(source.checkpoint)
        content['state_dict']['w'] += 1
        torch.save(content, tmp_path / 'other.pth')
        change = dict(checkpoint=tmp_path / 'other.pth')
    if 'images' in change:
        images, change = toy / 'imagenet/val', {}
    with pytest.raises(ValueError, match=f'that differs: .*{complaint}.* another --out'):
        extract_parts(replace(source, **change), images, tmp_path / 's')


@pytest.mark.parametrize('damage, workers', [('empty', 0), ('cut', 2), ('not an image', 0)])
def test_an_image_that_cannot_be_read_is_named_and_the_other_shards_are_kept(
        source, images, tmp_path, damage, workers):
    made = dict(source=source, images=images, out=tmp_path / 's', batch_size=4, shard_size=4)
    broken = images / list_images(images)[9]
    good = broken.read_bytes()
    broken.write_bytes({'empty': b'', 'cut': good[:len(good) // 2],
                        'not an image': b'<html>'}[damage])
    with pytest.raises(ValueError, match=f'{broken} cannot be read.*run the same command again'):
        extract_parts(**made, num_workers=workers)
    assert sorted(p.name for p in (tmp_path / 's/shards').glob('*.npy')) == [
        '0000000000.npy', '0000000004.npy']
    with pytest.raises(FileNotFoundError, match='unfinished part store'):
        PartStore(tmp_path / 's')
    broken.write_bytes(good)
    assert len(extract_parts(**made)) == 16


@pytest.mark.parametrize('kind, num_parts', [
    ('heads', 3), ('kmeans', 6), ('colour', 6), ('voronoi', 6)])
def test_each_source_of_parts_gives_a_store_that_its_verification_accepts(
        source, toy, tmp_path, kind, num_parts):
    made = (replace(source, source=kind), toy / 'imagenet/val', tmp_path / kind)
    store = extract_parts(*made)
    assert store.num_parts == num_parts and store.manifest['source'] == kind
    assert store.arrays()[0].max() < num_parts
    assert verify_parts(*made) == (0, 8 * 64)


def test_an_unknown_source_a_batch_of_no_images_and_another_model_are_refused(
        source, toy, tmp_path):
    for wrong, more, said in (
            (replace(source, source='head'), {}, "'head', expected one of learned, heads, kmeans"),
            (source, dict(batch_size=0), 'a batch of 0 images'),
            (replace(source, config=REPO / 'mm_configs/mini/mae_p16_mini.py'), {},
             'expected a part learner')):
        with pytest.raises(ValueError, match=said):
            extract_parts(wrong, toy / 'imagenet/val', tmp_path / 's', **more)


def set_part_ids(store, ids):
    """Replace the ids of a store together with their hash."""
    np.save(store / 'part_ids.npy', ids)
    manifest = json.loads((store / 'manifest.json').read_text())
    manifest['part_ids_sha256'] = sha256(store / 'part_ids.npy')
    manifest['manifest_sha256'] = manifest_hash(manifest)
    (store / 'manifest.json').write_text(json.dumps(manifest))


def test_verification_counts_the_patches_that_come_out_otherwise(source, toy, tmp_path):
    made = (source, toy / 'imagenet/train', tmp_path / 's')
    ids = extract_parts(*made).arrays()[0].copy()
    assert verify_parts(*made) == (0, 16 * 64)
    ids[3, 5] = (ids[3, 5] + 1) % 6
    set_part_ids(tmp_path / 's', ids)
    assert verify_parts(*made) == (1, 16 * 64)
    set_part_ids(tmp_path / 's', ids[::-1])
    with pytest.raises(ValueError, match='of 1024 patches of 16 images get another part'):
        verify_parts(*made)


def test_verification_finds_changed_bytes_other_images_and_no_store(source, images, tmp_path):
    made = (source, images, tmp_path / 's')
    with pytest.raises(FileNotFoundError, match='no part store'):
        verify_parts(*made)
    extract_parts(*made)
    first, last = (images / list_images(images)[i] for i in (0, -1))
    last.rename(images / 'zzz.jpg')
    with pytest.raises(ValueError, match='that differs: images_sha256'):
        verify_parts(*made)
    (images / 'zzz.jpg').rename(last)
    np.save(tmp_path / 's/foreground.npy', np.zeros((16, 64), np.uint8))
    with pytest.raises(ValueError, match='foreground.npy was changed after it was written'):
        verify_parts(*made)
    assert first.exists()


def test_each_process_of_a_node_takes_its_own_gpu(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 4)
    monkeypatch.setattr(torch.cuda, 'set_device', chosen.append)
    monkeypatch.setenv('SLURM_LOCALID', '2')
    assert own_device() == 'cuda'
    monkeypatch.setenv('LOCAL_RANK', '5')
    own_device()
    assert chosen == [2, 1]


def test_foreground_ranks_have_no_ties_up_to_256_patches_and_keep_the_order():
    scores = torch.rand(3, 256) ** 9  # a long tail
    ranks = to_bytes(scores)
    assert all(len(row.unique()) == 256 for row in ranks)
    assert ranks.long().argsort(-1).equal(scores.argsort(-1))


def test_of_equal_scores_a_store_keeps_the_patches_that_the_scores_themselves_would_keep():
    scores = torch.randint(3, (20, 64)).float()
    assert foreground_ids(to_bytes(scores), 16).equal(foreground_ids(scores, 16))


def started(source, images, out, where):
    """The pid of tools/extract_parts.py; its messages are in ``where``; its workers die with it."""
    return start_tool('extract_parts', [source.config, source.checkpoint, '--grid', 8, '--images',
                                        images, '--out', out], where, f'{where}.error')


@pytest.mark.slow
def test_processes_killed_at_random_moments_leave_what_the_next_ones_finish(
        source, toy, tmp_path):
    images, sizes = toy / 'imagenet/train', dict(batch_size=1, shard_size=2)
    extract_parts(source, images, tmp_path / 'whole', **sizes)
    start = time.perf_counter()
    extract_parts(source, images, tmp_path / 'again', **sizes)
    rng, seconds, kills, trial = random.Random(0), time.perf_counter() - start, 0, 0
    while kills < 6:
        assert trial < 30, f'{kills} were killed before they were done'
        out = tmp_path / f'{trial}'
        for _ in range(2):  # pairs of processes die, one of each with workers
            pids = [fork(partial(extract_parts, source, images, out, num_workers=n, **sizes),
                         os.devnull) for n in (0, trial % 2)]
            time.sleep(rng.uniform(.3, 1.3) * seconds)
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            died = [wait(pid) for pid in pids].count(-signal.SIGKILL)
            kills += died
            if not died:  # both were done: they are faster than what was measured
                seconds *= .7
                break
        extract_parts(source, images, out, **sizes)
        assert contents(out) == contents(tmp_path / 'whole'), trial
        trial += 1


def test_of_two_commands_one_is_killed_and_the_other_makes_the_whole_store(
        source, toy, tmp_path):
    images, out = toy / 'imagenet/train', tmp_path / 's'
    extract_parts(source, images, tmp_path / 'whole')
    killed, other = (started(source, images, out, tmp_path / name) for name in ('a', 'b'))
    while not out.exists():
        assert os.waitpid(killed, os.WNOHANG) == (0, 0), (tmp_path / 'a.error').read_text()
        time.sleep(.01)
    os.kill(killed, signal.SIGKILL)
    wait(killed)
    assert wait(other) == 0, (tmp_path / 'b.error').read_text()
    assert f'16 images, 8x8 patches, 6 parts -> {out}' in (tmp_path / 'b').read_text()
    assert contents(out) == contents(tmp_path / 'whole')


@pytest.mark.slow
def test_the_speed_benchmark_measures_every_stage(tmp_path, capsys):
    speed.main(['--out', str(tmp_path / 'new/speed.json'), '--sizes', 'mini', '--repeats', '2',
                '--seconds', '0.01'])
    record = json.loads((tmp_path / 'new/speed.json').read_text())
    assert [row['what'] for row in record['rows']] == [
        'learning, images in memory', 'extraction, from files', 'random reads']
    assert all(0 < row['lowest'] <= row['per_s'] <= row['highest'] for row in record['rows'])
    assert record['versions']['torch'] and record['command'].endswith('--seconds 0.01')
    if not torch.cuda.is_available():
        assert record['machine']['gpu'] == 'not measured on a GPU'
        assert 'GPU: not measured on a GPU' in capsys.readouterr().out


def test_the_hours_for_imagenet_follow_from_the_rate_and_the_epochs_of_the_config(monkeypatch):
    monkeypatch.setattr(speed, 'rates', lambda *_: [90., 100., 400.])
    monkeypatch.setattr(speed, 'write_photos', lambda *_: None)
    monkeypatch.setattr(speed, 'counted', lambda *_: (SimpleNamespace(flops=1), 1))
    monkeypatch.setattr(speed, 'here', lambda _: SimpleNamespace(lower_bound=lambda *_: 1.))
    learning, extraction, _ = speed.measure(['paper'], 3, .01)
    assert learning['epochs'] == Config.fromfile(REPO / learning['config']).train_cfg.max_epochs
    assert learning['imagenet_hours'] == pytest.approx(learning['epochs'] * 12811.67 / 3600)
    assert extraction['imagenet_hours'] == pytest.approx(12811.67 / 3600)
    assert '2 hours on one A100' in speed.table(dict(
        rows=[learning], paper=speed.PAPER, machine=machine(), date=''))


def test_learned_parts_are_made_in_bfloat16_on_a_cpu_if_asked_and_heads_never(
        source, toy, tmp_path, monkeypatch):
    monkeypatch.setattr('semmae.training.precision.multiplies_bfloat16', lambda: True)
    seen = set()
    original = extract.infer

    def look(model, batch):
        seen.add(torch.is_autocast_enabled('cpu') and torch.get_autocast_dtype('cpu'))
        return original(model, batch)
    monkeypatch.setattr(extract, 'infer', look)
    images = toy / 'imagenet/train'
    for kind, dtype in (('learned', torch.bfloat16), ('heads', False)):
        asked = replace(source, amp=True, source=kind)
        store = extract_parts(asked, images, tmp_path / kind)
        assert seen == {dtype} and store.manifest['precision'] == (
            'bfloat16' if dtype else 'float32')
        seen.clear()
