"""`ProbeLoop` as a run: one store for all probes, choice without test images, lines of results."""
import json
import shutil

import numpy as np
import pytest

from semmae.datasets.image_reading import LoadImage
from semmae.probes import loop as loops
from semmae.probes.loop import ProbeLoop
from semmae.probes.store import FeatureStore
from semmae.results.predictions import read_predictions, recount
from semmae.training import run as training

from ..tiny import tool
from .dense_configs import cub_of, shrink_probes

LEAF = 'mm_configs/dense/dense_cub.py'


def config_of(toy, root, **train_cfg):
    """The file of a config with two probes on 16 + 16 toy images of 4 classes, in shards of 4."""
    cfg = shrink_probes(LEAF, toy, root)
    cfg.model.probes = {name: cfg.model.probes[name] for name in ('knn', 'linear')}
    cfg.train_cfg.update(train_cfg)
    cfg.dump(root / 'config.py')
    return root / 'config.py'


def lines_of(work):
    return {line['task']: line for line in map(
        json.loads, (work / 'results.jsonl').read_text().splitlines())}


def stores_of(root):
    """{file: bytes} of all stores."""
    return {p.relative_to(root).as_posix(): p.read_bytes()
            for p in (root / 'features').rglob('*') if p.is_file()}


@pytest.fixture(scope='module')
def trained(toy, tmp_path_factory):
    """The folder of a run of tools/train.py: config.py, work, features, cub."""
    root = tmp_path_factory.mktemp('probes')
    done = tool('train', config_of(toy, root), '--work-dir', root / 'work', '--seed', 0)
    assert done.returncode == 0, done.stderr[-3000:]
    return root


def again(trained, tmp_path, name='work', **options):
    """Run the config of ``trained`` again; returns the work directory."""
    training.train(str(trained / 'config.py'), work_dir=tmp_path / name, seed=0, options=options)
    return tmp_path / name


# ------------------------------------------------------------------ lines
def test_a_line_for_each_probe_has_the_chosen_setting_and_how_it_was_chosen(trained):
    lines = lines_of(trained / 'work')
    assert list(lines) == ['knn', 'linear']
    assert lines['knn']['chosen'] == dict(layer=1, tokens='class', temperature=.07, tried=2,
                                          k=lines['knn']['chosen']['k'],
                                          held_out=lines['knn']['chosen']['held_out'])
    assert lines['linear']['chosen']['tried'] == 2 * 2 * 3  # layers, learning rates, poolings
    for name, line in lines.items():
        assert line['protocol']['selection'] == 'setting chosen on 10% of the training images'
        assert line['chosen']['held_out'] in (0, 25, 50, 75, 100)  # of four images
        assert line['row'] == f'{name}/scratch' and line['tables'] == ['dense']
        assert line['protocol']['num_train'] == 16 and line['protocol']['split_images'] == 16


def test_a_line_agrees_with_its_predictions(trained):
    labels = [1 + i // 2 % 4 for i in range(1, 32, 2)]
    for line in lines_of(trained / 'work').values():
        arrays = read_predictions(trained / 'work' / line['predictions'])
        assert line['value'] == pytest.approx(recount(arrays)['top1'])
        assert (arrays['labels'] + 1).tolist() == labels
        hits = arrays['predicted'] == arrays['labels']
        assert line['value'] == pytest.approx(100 * hits.mean())


def test_a_protocol_has_the_settings_of_its_own_probe_only(trained):
    lines = lines_of(trained / 'work')
    for name, other in (('knn', 'model.probe.lr'), ('linear', 'model.probe.k')):
        fields = lines[name]['protocol']
        assert other not in fields and not any(key.startswith('model.probes') for key in fields)
    assert lines['knn']['protocol']['model.probe.k'] == [1, 3]


# ------------------------------------------------------------------ the store
def test_a_second_run_with_other_probes_opens_no_image(trained, tmp_path, monkeypatch):
    before = stores_of(trained)
    monkeypatch.setattr(LoadImage, 'transform', lambda *_: pytest.fail('an image was opened'))
    work = again(trained, tmp_path, **{
        '+model.probes.logistic': dict(type='semmae.LogisticProbe', C=(.1, 1.)),
        '+train_cfg.only': ['knn', 'logistic']})
    lines = lines_of(work)
    assert list(lines) == ['knn', 'logistic'] and stores_of(trained) == before
    first = lines_of(trained / 'work')['knn']
    assert lines['knn']['fingerprint'] == first['fingerprint']
    assert lines['knn']['value'] == first['value']


def test_the_store_holds_the_images_and_classes_of_its_split(trained):
    lists = (trained / 'cub/images.txt').read_text().split()[1::2]
    found = [FeatureStore(path.parent) for path in (trained / 'features').rglob('manifest.json')]
    train, val = sorted(found, key=lambda store: lists.index(store.names[0]))
    assert train.names == lists[::2] and val.names == lists[1::2]
    for store in (train, val):
        assert (np.asarray(store.labels) + 1).tolist() == [1 + i % 4 for i in range(16)]
        assert {(layer, kind) for layer, kind in store.arrays} == {
            (0, 'class'), (0, 'mean'), (1, 'class'), (1, 'mean'), (1, 'patches')}
        assert store.grid == (4, 4) and store.arrays[1, 'patches'].shape == (16, 16, 48)


def test_choosing_a_setting_reads_no_test_image(trained, tmp_path, monkeypatch):
    read, real = {}, (FeatureStore.tokens, loops.choose)
    step = ['']

    def tokens(self, *args):
        read.setdefault(step[0], set()).add(self.names[0])
        return real[0](self, *args)

    def choose(*args):
        step[0] = 'choice'
        try:
            return real[1](*args)
        finally:
            step[0] = 'after'
    monkeypatch.setattr(FeatureStore, 'tokens', tokens)
    monkeypatch.setattr(loops, 'choose', choose)
    again(trained, tmp_path)
    first, second = (trained / 'cub/images.txt').read_text().split()[1:4:2]
    assert read['choice'] == {first} and read['after'] == {first, second}


class Refilled(Exception):
    """The loop would encode images into a new folder."""


@pytest.mark.parametrize('options', [
    {'randomness.seed': 1}, {'model.patch_layers': []}, {'model.backbone.final_norm': False},
    {'train_dataloader.dataset.pipeline.2.crop_size': 42}, {'train_cfg.precision': 'bfloat16'},
    {'model.data_preprocessor.mean': [0, 0, 0]}, 'other images', 'other classes'])
def test_other_weights_views_and_images_get_another_store(
        trained, toy, tmp_path, monkeypatch, options):
    """Untrained weights follow from the seed."""
    def refill(self, root, *_):
        assert root.parent == trained / 'features' and not root.exists()
        raise Refilled
    monkeypatch.setattr(ProbeLoop, 'fill', refill)
    if isinstance(options, str):
        home = cub_of(toy, tmp_path / 'cub', 2 if options == 'other classes' else 4)
        if options == 'other images':
            (image := home / 'images' / (home / 'images.txt').read_text().split()[5]).write_bytes(
                image.read_bytes() + b'more')
        options = {'train_dataloader.dataset.data_root': str(home)}
    seed = options.pop('randomness.seed', 0)
    before = stores_of(trained)
    with pytest.raises(Refilled):
        training.train(str(trained / 'config.py'), work_dir=tmp_path / 'work', seed=seed,
                       options=options)
    assert stores_of(trained) == before


@pytest.mark.parametrize('leaf, key, value', [
    ('camvid', 'train_dataloader.dataset.reduce_zero_label', True),
    ('camvid', 'train_dataloader.dataset.pipeline.1.scale', (56, 56)),
    ('nyu', 'model.task.depth_range', (1e-3, 80.))])
def test_labels_that_are_read_otherwise_get_another_store(
        tmp_path, monkeypatch, leaf, key, value):
    roots = []

    def fill(self, root, *_):
        roots.append(root)
        raise Refilled
    monkeypatch.setattr(ProbeLoop, 'fill', fill)
    cfg = shrink_probes(f'mm_configs/dense/dense_{leaf}.py', None, tmp_path)
    cfg.dump(tmp_path / 'config.py')
    for options in ({}, {}, {key: value}):
        with pytest.raises(Refilled):
            training.train(str(tmp_path / 'config.py'), work_dir=tmp_path / 'work', seed=0,
                           options=options)
    assert roots[0] == roots[1] != roots[2]


def test_a_store_whose_list_of_images_was_changed_is_refused_in_one_line(trained, tmp_path):
    root = tmp_path / 'features'
    shutil.copytree(trained / 'features', root)
    store = next(root.glob('*/images.txt'))
    store.write_text(store.read_text().replace('.jpg', '.png', 1))
    done = tool('train', trained / 'config.py', '--work-dir', tmp_path / 'work', '--seed', 0,
                '--cfg-options', f'train_cfg.store={root}')
    assert done.returncode == 2
    assert f'{store} was changed after it was written' in done.stderr.splitlines()[-2]
    assert f'Remove {store.parent} and run the command again' in done.stderr.splitlines()[-2]


def test_a_pass_that_was_stopped_is_resumed_to_the_same_store(
        trained, toy, tmp_path, monkeypatch):
    monkeypatch.setattr(loops, 'SHARD', 4)
    real = ProbeLoop.encode
    calls = []

    def encode(self, batch):
        calls.append(1)
        if len(calls) == 6:  # one for the grid, two for each shard
            raise KeyboardInterrupt
        return real(self, batch)
    monkeypatch.setattr(ProbeLoop, 'encode', encode)
    store = {'train_cfg.store': str(tmp_path / 'features')}
    with pytest.raises(KeyboardInterrupt):
        again(trained, tmp_path, **store)
    assert len(list((tmp_path / 'features').rglob('*.npz'))) == 2
    work = again(trained, tmp_path, 'resumed', **store)
    assert len(calls) == 6 + 1 + 4 + 1 + 8  # of the training images only what was missing
    arrays = {k: v for k, v in stores_of(tmp_path).items() if 'manifest' not in k}
    assert arrays == {k: v for k, v in stores_of(trained).items() if 'manifest' not in k}
    assert lines_of(work)['linear']['value'] == lines_of(trained / 'work')['linear']['value']


# ------------------------------------------------------------------ processes and options
def test_two_processes_encode_together_and_give_the_lines_of_one(trained, toy, tmp_path):
    done = tool('train', trained / 'config.py', '--work-dir', tmp_path / 'work', '--seed', 0,
                '--cfg-options', f'train_cfg.store={tmp_path}/features', processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert stores_of(tmp_path) == stores_of(trained)
    one, two = lines_of(trained / 'work'), lines_of(tmp_path / 'work')
    for name in ('knn', 'linear'):
        for key in ('value', 'chosen', 'fingerprint', 'predictions', 'row'):
            assert two[name][key] == one[name][key]


def test_only_the_named_probe_runs(trained, tmp_path):
    work = again(trained, tmp_path, **{'train_cfg.only': 'linear'})
    assert list(lines_of(work)) == ['linear']
    assert lines_of(work)['linear']['fingerprint'] == (
        lines_of(trained / 'work')['linear']['fingerprint'])


def test_a_probe_that_the_config_does_not_have_is_refused(trained, tmp_path):
    done = tool('train', trained / 'config.py', '--work-dir', tmp_path, '--cfg-options',
                'train_cfg.only=[knn,cnn]')
    assert done.returncode == 2
    assert ('train_cfg.only: got cnn, the probes of this config are knn, linear'
            in done.stderr.splitlines()[-2])


# ------------------------------------------------------------------ classes
def folders(toy, root, **changes):
    """A config of frozen probes on two folders of classes, and these folders."""
    cfg = shrink_probes('mm_configs/dense/dense_imagenet.py', toy, root)
    for split in ('train', 'val'):
        shutil.copytree(toy / 'imagenet' / split, root / split)
        cfg[f'{split}_dataloader'].dataset.data_root = str(root / split)
    cfg.merge_from_dict(changes)
    cfg.dump(root / 'config.py')
    return root / 'config.py', root / 'train', root / 'val'


def test_a_class_that_only_the_training_has_is_refused_before_images_are_read(toy, tmp_path):
    config, _, val = folders(toy, tmp_path)
    first, *_ = sorted(val.iterdir())
    shutil.rmtree(first)
    with pytest.raises(ValueError, match='label 0 is .* in the validation set and .* in the train'):
        training.train(str(config), work_dir=tmp_path / 'run', seed=0)
    assert not (tmp_path / 'features').exists()


def test_more_folders_than_classes_are_refused_and_fewer_are_told(toy, tmp_path):
    config, *_ = folders(toy, tmp_path, **{'model.task.num_classes': 7})
    with pytest.raises(ValueError, match='num_classes is 7, the training set has 8 classes'):
        training.train(str(config), work_dir=tmp_path / 'run', seed=0)
    assert not (tmp_path / 'features').exists()
    training.train(str(config), work_dir=tmp_path / 'fewer', seed=0,
                   options={'model.task.num_classes': 9})
    log, = (tmp_path / 'fewer').glob('*/*.log')
    assert 'num_classes is 9, the training set has 8 classes' in log.read_text()
