"""tools/check_data.py on tiny copies of the data sets with a label for each pixel, and of parts."""
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semmae.datasets import check
from tests.tiny import tool

from .dense import DENSE, copy_of, save
from .parts import WIDTH, thing, write_part_image_net, write_pascal_part

SHARED = Path(__file__).parents[3] / 'shared/data'
COUNTS = dict(
    voc2012=('1 images of train.txt; 1 images of val.txt',
             '1,464 images of train.txt; 1,449 images of val.txt'),
    pascal_context=('1 images of train.txt; 1 images of val.txt',
                    '4,998 or 4,996 images of train.txt; 5,105 or 5,104 images of val.txt'),
    cityscapes=('1 train images; 1 val images', '2,975 train images; 500 val images'),
    coco_stuff=('1 train2017 images; 1 val2017 images',
                '118,287 train2017 images; 5,000 val2017 images'),
    camvid=('1 train images; 1 val images', '367 train images; 101 val images'),
    nyu=('1 train images; 1 test images', '24,231 train images; 654 test images'))


def parts_of(row):
    """The texts of what was found, expected, and the fix of a row of a wrong data set."""
    return re.fullmatch(r'found: (.*) \| expected: (.*) \| fix: (.*)', row, re.DOTALL).groups()


@pytest.mark.parametrize('name', DENSE)
def test_a_whole_copy_differs_in_nothing_but_the_published_numbers(tmp_path, name):
    copy_of(tmp_path, name)
    state, row = check.check(name, tmp_path)
    assert state == 'wrong' and parts_of(row)[:2] == COUNTS[name]


@pytest.mark.parametrize('name', [n for n in DENSE if n != 'nyu'])
def test_labels_that_the_reader_does_not_know_and_other_sizes_are_found(tmp_path, name):
    path, highest = copy_of(tmp_path, name), DENSE[name][2]
    save(path, np.full((4, 6), highest + 1, np.uint8))
    found, expected, _ = parts_of(check.check(name, tmp_path)[1])
    assert f"1 wrong label maps, first ['{path.name} ({highest + 1})']" in found
    assert f'labels 0..{highest}' in expected
    save(path, np.zeros((6, 4), np.uint8))
    assert f'{path} has 4x6 pixels, its image' in check.check(name, tmp_path)[1]
    save(path, np.zeros((4, 6, 3), np.uint8))
    assert f'{path} is an image of mode RGB' in check.check(name, tmp_path)[1]
    path.write_bytes(path.read_bytes()[:30])
    assert '1 wrong label maps' in check.check(name, tmp_path)[1]


@pytest.mark.parametrize('name', DENSE)
def test_a_missing_label_map_is_found(tmp_path, name):
    path = copy_of(tmp_path, name)
    path.rename(path.with_name('other' + ''.join(path.suffixes)))
    found, _, _ = parts_of(check.check(name, tmp_path)[1])
    assert f'no {path}' in found or 'is alone' in found


def test_the_augmented_lists_of_voc_are_checked_where_they_are(tmp_path):
    copy_of(tmp_path, 'voc2012')
    folder = tmp_path / 'VOCdevkit/VOC2012'
    save(folder / 'SegmentationClassAug/train.png', np.full((4, 6), 21, np.uint8))
    (folder / 'ImageSets/Segmentation/trainaug.txt').write_text('train\n')
    found, expected, fix = parts_of(check.check('voc2012', tmp_path)[1])
    assert '1 images of trainaug.txt' in found and '10,582 images of trainaug.txt' in expected
    assert 'train.png (21)' in found and f'no {folder}/ImageSets/Segmentation/aug.txt' in found
    assert 'voc_aug.py' in fix


def test_both_published_numbers_of_pascal_context_are_right(tmp_path):
    copy_of(tmp_path, 'pascal_context')
    for number, is_right in ((4996, True), (4997, False), (4998, True)):
        (tmp_path / 'VOCdevkit/VOC2010/ImageSets/SegmentationContext/train.txt').write_text(
            'train\n' * number)
        row = check.check('pascal_context', tmp_path)[1]
        assert ('images of train.txt' not in row) is is_right


def test_depths_of_eight_bits_and_of_another_size_are_found(tmp_path):
    path = copy_of(tmp_path, 'nyu')
    save(path, np.zeros((4, 6), np.uint8))
    found, expected, _ = parts_of(check.check('nyu', tmp_path)[1])
    assert "1 wrong depth maps, first ['a_1.png (mode L)']" in found
    assert 'one 16-bit channel of millimetres' in expected
    save(path, np.zeros((6, 4), np.uint16))
    assert f'{path} has 4x6 pixels' in check.check('nyu', tmp_path)[1]


def test_train_ids_of_cityscapes_are_named_with_the_command_that_makes_them(tmp_path):
    path = copy_of(tmp_path, 'cityscapes')
    path.rename(path.with_name('a_gtFine_labelIds.png'))
    found, _, fix = parts_of(check.check('cityscapes', tmp_path)[1])
    assert '0 annotations for 1 train images, aachen/a is alone' in found
    assert f'CITYSCAPES_DATASET={tmp_path}/cityscapes csCreateTrainIdLabelImgs' in fix


def test_a_photo_that_its_exif_tag_turns_is_found(tmp_path):
    path = copy_of(tmp_path, 'camvid')
    photo = path.parents[2] / 'images/train/a.jpg'
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (6, 4)).save(photo, exif=exif)
    assert 'is turned by its EXIF tag' in check.check('camvid', tmp_path)[1]


def test_data_sets_in_one_folder_are_missing_without_their_own_annotations(tmp_path):
    copy_of(tmp_path, 'pascal_context')
    assert check.check('pascal_part', tmp_path)[0] == 'missing'
    write_pascal_part(tmp_path / 'other/VOCdevkit/VOC2010')
    state, row = check.check('pascal_context', tmp_path / 'other')
    assert state == 'missing' and 'VOC2010/SegmentationClassContext' in row


# Parts

def test_part_image_net_is_checked_by_its_reader(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for split, layout in (('train', 'seg'), ('val', 'ood'), ('test', 'seg')):
        write_part_image_net(Path('PartImageNet'), split, layout)
    found, expected, _ = parts_of(check.check('part_image_net', Path())[1])
    assert (found, expected) == ('9 images in all', '24,095 images in all')
    Path('PartImageNet/images/train/n01440764_1.JPEG').unlink()
    write_part_image_net(Path('PartImageNet'), 'test', categories=[
        dict(id=i, supercategory='Fish', name='Head') for i in range(40)], images=[
        dict(id=i, file_name=f'n01440764_{i}.JPEG', width=WIDTH + 1, height=6) for i in range(2)])
    Path('PartImageNet/val.json').write_text('{}')
    found = parts_of(check.check('part_image_net', Path())[1])[0]
    assert 'no PartImageNet/images/train/n01440764_1.JPEG' in found
    assert "val.json: got KeyError: 'categories'" in found and '40 parts in test' in found
    assert 'has 8x6 pixels, its annotations are for 9x6' in found


def test_pascal_part_is_checked_by_its_reader(tmp_path):
    folder = tmp_path / 'VOCdevkit/VOC2010'
    write_pascal_part(folder)
    write_pascal_part(folder, name='2008_000002', split='val')
    found, expected, _ = parts_of(check.check('pascal_part', tmp_path)[1])
    assert (found, expected) == ('1 train images; 1 val images',
                                 '4,998 train images; 5,105 val images')
    write_pascal_part(folder, name='2008_000003', things=[thing(0, np.ones((6, 8)))])
    (folder / 'Annotations_Part/2008_000002.mat').unlink()
    found, _, fix = parts_of(check.check('pascal_part', tmp_path)[1])
    assert '1 unusable annotations' in found and 'class_ind 0, expected 1 to 20' in found
    assert '1 of 1 images' in found and 'trainval.tar.gz' in fix


@pytest.mark.shared_data
def test_the_real_camvid_is_whole():
    done = tool('check_data', 'camvid', '--root', SHARED)
    assert done.returncode == 0, done
    assert done.stdout.split() == 'camvid ok found: 367 train images, 101 val images'.split()
