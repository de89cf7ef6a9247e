"""Readers of real layouts, and the tool that checks them."""
import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import mat4py
import numpy as np
import pytest
from PIL import Image

from semmae.datasets import check, toy
from semmae.registry import DATASETS
from tests.tiny import tool

REPO = Path(__file__).parents[2]
SHARED = REPO.parent / 'shared/data'
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason='the real samples beside the repository are not on this machine')


@pytest.fixture
def cub_copy(made, tmp_path):
    return Path(shutil.copytree(made / 'CUB_200_2011', tmp_path / 'CUB_200_2011'))


def cub_parts(root, **kwargs):
    return DATASETS.build(dict(type='semmae.CUBParts', data_root=str(root), **kwargs))


# CUB-200-2011

def test_cub_parts_has_the_labels_and_images_of_mmpretrain_cub(made):
    for split, number in (('train', 32), ('test', 16)):
        ours = cub_parts(made / 'CUB_200_2011', split=split)
        theirs = DATASETS.build(dict(type='mmpretrain.CUB', split=split,
                                     data_root=str(made / 'CUB_200_2011')))
        assert len(ours) == len(theirs) == number
        for mine, other in zip(ours, theirs):
            assert (mine['img_path'], mine['gt_label']) == (other['img_path'], other['gt_label'])


def test_cub_parts_reports_its_own_classes_and_parts(made):
    dataset = cub_parts(made / 'CUB_200_2011')
    assert dataset.CLASSES[0] == '001.High_Legs_Tail_Front' and len(dataset.CLASSES) == 16
    assert dataset.metainfo['parts'] == toy.PIECES


def test_landmarks_lie_on_their_parts(made):
    dataset = cub_parts(made / 'CUB_200_2011')
    for info in (dataset.get_data_info(i) for i in range(len(dataset))):
        index = int(Path(info['img_path']).stem[-5:])
        pieces = toy.draw(0, toy.SPLITS[2], index)[1]
        x, y, width, height = info['bbox']
        assert info['landmarks'].shape == (7, 3) and info['landmarks'].dtype == np.float32
        assert np.array_equal(info['landmarks'][:, 2],
                              [i in pieces for i in range(1, len(toy.PIECES) + 1)])
        body = info['landmarks'][0]
        assert pieces[round(float(body[1])), round(float(body[0]))] > 0
        for row in info['landmarks'][info['landmarks'][:, 2] == 1]:
            assert x <= row[0] <= x + width and y <= row[1] <= y + height
        assert (pieces > 0).any(0).sum() <= width and (pieces > 0).any(1).sum() <= height


def test_missing_cub_file_is_named_with_the_command(cub_copy):
    (cub_copy / 'parts/part_locs.txt').unlink()
    with pytest.raises(FileNotFoundError, match=r'has no parts/part_locs.txt.*check_data.py cub'):
        cub_parts(cub_copy)


@pytest.mark.parametrize('name, change, message', [
    ('parts/part_locs.txt', lambda lines: lines[:-1], 'lack parts, the first is image 48'),
    ('parts/part_locs.txt', lambda lines: [*lines, '1 9 2.0 3.0 1'], 'got part 9 of image 1'),
    ('bounding_boxes.txt', lambda lines: lines[1:], 'got 47 image ids, expected the 48'),
    ('bounding_boxes.txt', lambda lines: ['1 2.0 3.0', *lines[1:]],
     "line 1: got '1 2.0 3.0', expected int float float float float"),
    ('image_class_labels.txt', lambda lines: ['1 17', *lines[1:]],
     r'got label 17, expected 1\.\.16')])
def test_damaged_cub_list_is_an_error_with_the_place(cub_copy, name, change, message):
    path = cub_copy / name
    path.write_text('\n'.join(change(path.read_text().splitlines())) + '\n')
    with pytest.raises(ValueError, match=message) as error:
        cub_parts(cub_copy)
    assert name in str(error.value)


def test_unknown_cub_split_is_refused(made):
    with pytest.raises(ValueError, match="split='val', expected 'train', 'test' or 'all'"):
        cub_parts(made / 'CUB_200_2011', split='val')


def test_both_cub_splits_together_say_which_is_which(made):
    both = cub_parts(made / 'CUB_200_2011', split='all')
    assert len(both) == 48
    for split in ('train', 'test'):
        one = cub_parts(made / 'CUB_200_2011', split=split)
        assert all(info['is_train'] is (split == 'train') for info in one)
        assert [info['img_path'] for info in both if info['is_train'] is (split == 'train')] == [
            info['img_path'] for info in one]


# iNaturalist 2019

def write_inat(root, flat=False, **changes):
    """Three images of the categories 7, 3, 11, listed out of order."""
    content = dict(
        images=[dict(id=i, file_name=f'train_val2019/Birds/{c}/{i}.jpg')
                for i, c in ((50, 7), (51, 3), (52, 11))],
        annotations=[dict(id=i, image_id=i, category_id=c)
                     for i, c in ((52, 11), (50, 7), (51, 3))],
        categories=[dict(id=c, name=f'name{c}') for c in (11, 3, 7)])
    content.update(changes)
    for image in content['images']:
        path = root / (image['file_name'].replace('Birds/', '') if flat else image['file_name'])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (root / 'val2019.json').write_text(json.dumps(content))
    return root


def inat(root):
    return DATASETS.build(dict(type='semmae.INaturalist2019', data_root=str(root),
                               ann_file='val2019.json'))


@pytest.mark.parametrize('flat', [False, True])
def test_inat_labels_follow_the_category_ids_in_both_layouts(tmp_path, flat):
    dataset = inat(write_inat(tmp_path, flat))
    assert dataset.get_gt_labels().tolist() == [1, 0, 2]
    assert dataset.CLASSES == ('name3', 'name7', 'name11')
    assert all(Path(dataset.get_data_info(i)['img_path']).is_file() for i in range(3))


@pytest.mark.parametrize('changes, message', [
    (dict(annotations=[]), 'has no annotations, expected a labelled file.*val2019.json'),
    (dict(annotations=[dict(image_id=50, category_id=7)]), 'got 2 images without a label'),
    (dict(annotations=[dict(image_id=50, category_id=4)]), 'got category_id 4 of image 50'),
    (dict(annotations=[dict(image_id=50, category_id=c) for c in (7, 3)]), 'two labels')])
def test_inat_file_with_wrong_labels_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        inat(write_inat(tmp_path, **changes))


def test_inat_without_images_or_annotations_says_what_to_unpack(tmp_path):
    with pytest.raises(FileNotFoundError, match='val2019.json: not found.*check_data.py inat19'):
        inat(tmp_path)
    write_inat(tmp_path)
    shutil.rmtree(tmp_path / 'train_val2019')
    with pytest.raises(FileNotFoundError, match='has neither train_val2019/Birds/7/50.jpg nor '
                                                'train_val2019/7/50.jpg.*Unpack'):
        inat(tmp_path)
    (tmp_path / 'val2019.json').write_text('<html>')
    with pytest.raises(ValueError, match='is not JSON.*Download'):
        inat(tmp_path)


# Other readers on the toy set

def test_toy_sets_are_read_by_the_real_readers(made):
    images = DATASETS.build(dict(type='mmpretrain.CustomDataset',
                                 data_root=str(made / 'imagenet/train')))
    assert tuple(images.CLASSES) == toy.CLASSES
    assert np.bincount(images.get_gt_labels()).tolist() == [3] * 8
    scenes = DATASETS.build(dict(
        type='mmseg.BaseSegDataset', data_root=str(made / 'ADEChallengeData2016'),
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        metainfo=dict(classes=toy.ADE_CLASSES), reduce_zero_label=True,
        pipeline=[dict(type='mmseg.LoadAnnotations')]))
    labels = np.stack([scene['gt_seg_map'] for scene in scenes])
    assert labels.shape == (6, 64, 64) and set(np.unique(labels)) == {*range(8), 255}


# tools/check_data.py and semmae.datasets.check

def test_tool_passes_a_whole_toy_set_and_finds_a_truncated_image(made, tmp_path):
    done = tool('check_data', 'toy', '--root', made.parent, '--decode')
    assert done.returncode == 0 and done.stdout.split()[:2] == ['toy', 'ok'], done
    assert '24 imagenet/train' in done.stdout
    root = Path(shutil.copytree(made, tmp_path / 'toy'))
    victim = next((root / 'imagenet/val').rglob('*.JPEG'))
    victim.write_bytes(victim.read_bytes()[:-400])
    assert check.check('toy', tmp_path)[0] == 'ok'
    done = tool('check_data', 'toy', '--root', tmp_path, '--decode')
    assert done.returncode == 1 and '1 unreadable images' in done.stdout
    assert f'{victim} cannot be decoded: a JPEG of' in done.stdout


def test_tool_imports_neither_torch_nor_mm_libraries():
    code = ("import sys, runpy; sys.argv = ['check_data.py', '--help']\n"
            "try:\n    runpy.run_path('tools/check_data.py', run_name='__main__')\n"
            "except SystemExit:\n"
            "    assert not {'torch', 'mmengine', 'mmcv'} & {*sys.modules}")
    done = subprocess.run([sys.executable, '-c', code], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_only_a_named_data_set_must_exist(made, capsys):
    assert check.check_all([], made.parent) == 0  # toy is whole, the others are absent
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[:2] for row in rows] == [
        [name, 'ok' if name == 'toy' else 'missing'] for name in check.CHECKS]
    assert check.check_all(['cub'], made.parent) == 1
    assert 'ln -s DIR' in capsys.readouterr().out
    assert check.check_all([], made / 'nothing') == 1  # all are absent
    assert tool('check_data', 'cup').returncode == 2


def test_tool_counts_cub_and_compares_labels_with_folders(made, cub_copy):
    state, row = check.check('cub', made)
    assert state == 'wrong' and '16 classes' in row and '200 classes' in row
    assert 'labels that differ' not in row
    path = cub_copy / 'image_class_labels.txt'
    path.write_text(path.read_text().replace('1 1\n', '1 2\n', 1))
    next((cub_copy / 'images').rglob('*.jpg')).unlink()
    row = check.check('cub', cub_copy.parent)[1]
    assert '1 labels that differ from the folder' in row and f'no {cub_copy}/images/' in row


def test_tool_sees_imagenet_images_outside_class_folders(tmp_path):
    for split, names in (('train', ('n01440764', 'cat')), ('val', ())):
        for name in names:
            (tmp_path / 'imagenet' / split / name).mkdir(parents=True)
        (tmp_path / 'imagenet' / split).mkdir(exist_ok=True)
    (tmp_path / 'imagenet/val/ILSVRC2012_val_00000001.JPEG').touch()
    row = check.check('imagenet', tmp_path)[1]
    assert '1 images directly in val/' in row and '2 classes in train' in row
    assert 'other classes in val' in row and 'val/<wnid>/' in row


def test_tool_refuses_ade_label_maps_that_would_wrap(tmp_path):
    folder = tmp_path / 'ADEChallengeData2016'
    for kind in ('images', 'annotations'):
        for split in ('training', 'validation'):
            (folder / kind / split).mkdir(parents=True)
    for name, labels in (('wide', np.full((4, 4), 300, np.uint16)),
                         ('high', np.full((4, 4), 151, np.uint8)),
                         ('good', np.full((4, 4), 150, np.uint8))):
        cv2.imwrite(str(folder / f'annotations/training/{name}.png'), labels)
        Image.new('RGB', (4, 4)).save(folder / f'images/training/{name}.jpg')
    row = check.check('ade20k', tmp_path)[1]
    assert "2 wrong label maps, first ['high.png (151)']" in row
    assert '3 training images' in row and '20,210 training images' in row


LABELLED = 'cars_test_annos_withlabels.mat'
CARS = dict(annotations=dict(fname=['00001.jpg', '00002.jpg'], **{'class': [14, 196]}))


@pytest.fixture
def cars_devkit(tmp_path):
    """stanford_cars/ with a devkit, one of two training images and no labels for the test."""
    devkit = tmp_path / 'stanford_cars/devkit'
    (devkit.parent / 'cars_train').mkdir(parents=True)
    devkit.mkdir()
    (devkit.parent / 'cars_train/00001.jpg').touch()
    mat4py.savemat(str(devkit / 'cars_train_annos.mat'), CARS)
    return devkit


def test_tool_says_where_labelled_test_annotations_of_cars_belong(cars_devkit, tmp_path):
    row = check.check('cars', tmp_path)[1]
    assert f'no {cars_devkit.parent}/cars_train/00002.jpg' in row and '2 labelled training' in row
    assert f'no {LABELLED}' in row and f'{cars_devkit / LABELLED}' in row
    mat4py.savemat(str(cars_devkit.parent / LABELLED), CARS)
    assert f'no {LABELLED}' not in check.check('cars', tmp_path)[1]


@pytest.mark.parametrize('place', ['devkit', '.'])
def test_cars_are_read_with_the_labels_of_the_test_in_either_place(cars_devkit, place):
    root = cars_devkit.parent
    mat4py.savemat(str(root / place / LABELLED), CARS)
    for split in ('train', 'test'):
        data = DATASETS.build(dict(type='semmae.StanfordCars', data_root=str(root), split=split))
        assert list(data.get_gt_labels()) == [13, 195] and len(data.CLASSES) == 196
        assert data.get_data_info(1)['img_path'] == str(root / f'cars_{split}/00002.jpg')


def test_cars_in_one_file_are_split_by_its_mark(cars):
    found = {}
    for split in ('train', 'test'):
        data = DATASETS.build(dict(type='semmae.StanfordCars', data_root=str(cars), split=split))
        found[split] = [Path(data.get_data_info(i)['img_path']) for i in range(len(data))]
        assert all(path.is_file() for path in found[split])
    assert len(found['train']) == 8 and not set(found['train']) & set(found['test'])


@pytest.mark.parametrize('rows, said', [
    (dict(fname=['1.jpg'], **{'class': [197]}), 'class 197, expected 1 to 196'),
    (dict(fname=['1.jpg', '2.jpg']), 'without class, .*cars_test_annos_withlabels')])
def test_cars_without_usable_labels_are_refused(cars_devkit, rows, said):
    mat4py.savemat(str(cars_devkit / LABELLED), dict(annotations=rows))
    with pytest.raises(ValueError, match=said):
        DATASETS.build(dict(type='semmae.StanfordCars', data_root=str(cars_devkit.parent),
                            split='test'))



# Real samples

@needs_shared
@pytest.mark.shared_data
def test_real_cub_sample():
    for split, number in (('train', 750), ('all', 1402), ('test', 652)):
        dataset = cub_parts(SHARED / 'CUB_200_2011', split=split)
        assert len(dataset) == number and len(dataset.CLASSES) == 25
    info = cub_parts(SHARED / 'CUB_200_2011', split='test').get_data_info(0)    # image 1
    assert info['bbox'].tolist() == pytest.approx([45.8, 20.6, 248.3, 232.3])
    assert info['landmarks'].shape == (15, 3)
    assert info['landmarks'][1].tolist() == pytest.approx([238.4, 139.1, 1])
    assert dataset.metainfo['parts'][6] == 'left eye'


@needs_shared
@pytest.mark.shared_data
def test_real_inat_validation_file(tmp_path):
    content = json.loads((SHARED / 'inaturalist2019/val2019.json').read_text())
    (tmp_path / 'val2019.json').symlink_to(SHARED / 'inaturalist2019/val2019.json')
    first = tmp_path / content['images'][0]['file_name']
    first.parent.mkdir(parents=True)
    first.touch()
    dataset = inat(tmp_path)
    assert len(dataset) == 3030 and len(dataset.CLASSES) == 1010
    assert dataset.get_data_info(0)['gt_label'] == 644      # the id, and the folder's name
    assert np.bincount(dataset.get_gt_labels()).tolist() == [3] * 1010
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/inat2019').symlink_to(tmp_path)
    row = check.check('inat19', tmp_path / 'data')[1]
    assert 'train2019.json' in row and '3,029 more' not in row and '3,028 more' in row


@needs_shared
@pytest.mark.shared_data
def test_real_cars_and_ade_annotations():
    root = str(SHARED / 'stanford_cars')
    cars = DATASETS.build(dict(type='semmae.StanfordCars', data_root=root))
    assert len(cars) == 8144 and set(cars.get_gt_labels()) == set(range(196))
    assert cars.get_data_info(0)['gt_label'] == 13 and cars.CLASSES[13].startswith('Audi TTS')
    with pytest.raises(FileNotFoundError, match='cars_test_annos.mat has no labels'):
        DATASETS.build(dict(type='semmae.StanfordCars', data_root=root, split='test'))
    row = check.check('cars', SHARED)[1]
    assert 'no cars_test_annos_withlabels.mat (devkit/cars_test_annos.mat has no labels)' in row
    assert '8,143 more' in row and 'classes in cars_train' not in row
    row = check.check('ade20k', SHARED)[1]
    assert 'found: 1 training images; 1 validation images |' in row
    ade = DATASETS.build(dict(
        type='mmseg.ADE20KDataset', data_root=str(SHARED / 'ADEChallengeData2016'),
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        pipeline=[dict(type='mmseg.LoadAnnotations', reduce_zero_label=True)]))
    found, path = ade[0]['gt_seg_map'], ade.get_data_info(0)['seg_map_path']
    stored = np.array(Image.open(path)).astype(int)
    assert (stored == 0).any() and np.array_equal(found == 255, stored == 0)
    assert np.array_equal(found[stored > 0], stored[stored > 0] - 1)
