"""``semmae probe``: a frozen backbone on a labelled folder of the user."""
import shutil

import cv2
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from semmae.commands import main
from semmae.probes.own_folder import count_images, folder_options, require_same_folder
from semmae.results.results import read_results

NAME = 'vit_tiny_patch16_224'


def photos(folder, counts, suffix='.jpg', start=0):
    """Small pictures of classes that differ by colour. counts: {class: number}."""
    generator = np.random.default_rng(start)
    for number, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = generator.integers(0, 60, (40, 40, 3), np.uint8)
            pixels[..., number % 3] += 150
            cv2.imwrite(str(folder / name / f'{i}{suffix}'), pixels)


def two_classes(root, **counts):
    """Empty files in the folders a and b of each split. counts: {split: files of a class}."""
    for split, count in counts.items():
        for name in ('a', 'b'):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                (root / split / name / f'{i}.png').touch()


@pytest.fixture
def folder(tmp_path):
    photos(tmp_path / 'mine/train', dict(blue=6, green=6, red=6))
    photos(tmp_path / 'mine/val', dict(blue=2, green=2, red=2), '.webp', start=1)
    return tmp_path / 'mine'


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('vit') / 'vit.safetensors'
    save_file(timm.create_model(NAME).state_dict(), path)
    return path


def failed(capsys, *words):
    with pytest.raises(SystemExit) as end:
        main(['probe', *map(str, words)])
    assert end.value.code == 2
    return capsys.readouterr().err


@pytest.mark.slow
def test_a_labelled_folder_has_its_table(folder, weights, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(['probe', str(folder), '--timm', NAME, '--checkpoint', str(weights),
                 '--cfg-options', 'train_dataloader.num_workers=0',
                 'val_dataloader.num_workers=0']) == 0
    lines, problems = read_results(['work_dirs/probe/mine'])
    assert not problems and {line['task'] for line in lines} == {'knn', 'linear'}
    assert {line['dataset'] for line in lines} == {'mine'}
    found = {line['task']: line['value'] for line in lines}
    assert found['linear'] == 100  # the classes are colours
    said = capsys.readouterr().out
    assert f'{NAME} (vit)' in said and '100.00' in said
    line, = {line['work_dir'] if 'work_dir' in line else line['source'] for line in lines}
    assert 'work_dirs/probe/mine/' in line
    # A second backbone on the same folder is in the same table.
    main(['probe', str(folder), '--timm', NAME, '--untrained', '--cfg-options',
          'train_dataloader.num_workers=0', 'val_dataloader.num_workers=0'])
    said = capsys.readouterr().out
    assert f'untrained {NAME}' in said and f'{NAME} (vit)' in said


def test_folders_with_other_classes_are_refused_and_named(folder, weights, capsys):
    (folder / 'val/green').rename(folder / 'val/grun')
    said = failed(capsys, folder, '--timm', NAME, '--checkpoint', weights)
    assert f'only in {folder / "train"}: green; only in {folder / "val"}: grun' in said
    shutil.rmtree(folder / 'val/grun')
    said = failed(capsys, folder, '--timm', NAME, '--checkpoint', weights)
    assert 'same classes in both folders' in said and '/train: green\n' in said


def test_a_folder_without_classes_is_refused(folder, weights, tmp_path, capsys):
    flat = tmp_path / 'flat'
    shutil.copytree(folder / 'train/red', flat / 'train')
    shutil.copytree(folder / 'val', flat / 'val')
    said = failed(capsys, flat, '--timm', NAME, '--checkpoint', weights)
    assert 'holds no folders, but 6 images; expected one folder for each class' in said
    assert 'train/CLASS/*.jpg' in failed(capsys, tmp_path / 'no', '--timm', NAME)
    (folder / 'train/empty').mkdir()
    with pytest.raises(ValueError, match='no image in empty'):
        count_images(folder / 'train')


@pytest.mark.parametrize('name', ['.ipynb_checkpoints', '__MACOSX'])
def test_a_hidden_folder_is_no_class(folder, name):
    (folder / 'train' / name).mkdir()
    with pytest.raises(ValueError, match=f'{name} would be a class.*Remove it'):
        count_images(folder / 'train')


def test_a_single_class_a_hidden_file_and_a_dead_link_are_refused(folder, tmp_path):
    photos(tmp_path / 'one', dict(a=3))
    with pytest.raises(ValueError, match='one class, a; expected at least two'):
        count_images(tmp_path / 'one')
    (folder / 'train/red/._1.jpg').touch()
    with pytest.raises(ValueError, match=r'\._1.jpg is a hidden file'):
        count_images(folder / 'train')
    (folder / 'train/red/._1.jpg').unlink()
    (folder / 'train/red/x.jpg').symlink_to(tmp_path / 'nothing.jpg')
    with pytest.raises(ValueError, match='x.jpg is a link that leads nowhere'):
        count_images(folder / 'train')


def test_two_folders_of_one_name_have_a_table_each(tmp_path):
    require_same_folder(tmp_path, tmp_path / 'a/mine')
    require_same_folder(tmp_path, tmp_path / 'a/../a/mine')
    with pytest.raises(ValueError, match='has results of .*/a/mine; .* Give --name or --work-dir'):
        require_same_folder(tmp_path, tmp_path / 'b/mine')


@pytest.mark.parametrize('count, neighbours', [(2, [1]), (6, [10]), (200, [10, 20, 100, 200])])
def test_neighbours_are_at_most_the_images_that_are_fitted(tmp_path, count, neighbours):
    two_classes(tmp_path, train=count, test=1)
    options = folder_options(tmp_path, 'test', 'x')
    assert options['model.probes.knn.k'] == neighbours and options['result.split'] == 'test'
    (tmp_path / 'train/a/0.png').unlink()
    if count == 2:
        with pytest.raises(ValueError, match='one image in a; expected at least two'):
            folder_options(tmp_path, 'test', 'x')


def test_a_run_that_fails_leaves_nothing_for_the_table(folder, weights, tmp_path, capsys):
    (folder / 'val/red/0.webp').write_bytes(b'no image')
    assert '0.webp' in failed(capsys, folder, '--timm', NAME, '--checkpoint', weights,
                              '--work-dir', tmp_path / 'work', '--cfg-options',
                              'train_dataloader.num_workers=0', 'val_dataloader.num_workers=0',
                              f'train_cfg.store={tmp_path}/features')
    assert [path.name for path in (tmp_path / 'work').iterdir()] == ['folder.json']


def test_no_backbone_and_a_negative_seed_are_refused_before_a_folder_is_made(
        folder, tmp_path, capsys):
    assert 'expected a backbone' in failed(capsys, folder, '--work-dir', tmp_path / 'x')
    assert 'expected 0 or more' in failed(capsys, folder, '--timm', NAME, '--seed', '-1',
                                          '--work-dir', tmp_path / 'x')
    assert not (tmp_path / 'x').exists()


def test_a_wrong_name_of_timm_has_the_nearest_one(folder, capsys):
    assert 'did you mean vit_small_patch14_dinov2?' in failed(
        capsys, folder, '--timm', 'vit_small_patch14_dinv2')


@pytest.mark.parametrize('count, left_out', [
    (14, {'linear_10pct', 'linear_1pct'}), (15, {'linear_1pct'}), (150, set())])
def test_a_probe_on_few_labels_needs_two_of_each_class(tmp_path, count, left_out):
    two_classes(tmp_path, train=count, val=1)
    options = folder_options(tmp_path, 'val', 'x')
    assert {key.rsplit('.')[-1] for key, value in options.items() if value is None} == left_out
    assert options['model.task.num_classes'] == 2
    assert options['result.full.num_train'] == 2 * count
