"""PartImageNet and Pascal-Part as published: label maps, classes, boxes, and damaged files."""
import json

import numpy as np
import pytest
from PIL import Image

from semmae.datasets.coco_masks import decode_runs, fill_polygon, mask_of, unpack_runs
from semmae.datasets.part_annotations import PASCAL_LABELS
from semmae.registry import DATASETS

from .parts import (
    CATEGORIES,
    HEIGHT,
    WIDTH,
    annotation,
    mask,
    part,
    photo,
    rectangle,
    thing,
    write_part_image_net,
    write_pascal_part,
)

VIEW = [dict(type='LoadImageFromFile'),
        dict(type='mmpretrain.ResizeEdge', scale=6, edge='short'),
        dict(type='mmpretrain.CenterCrop', crop_size=6),
        dict(type='semmae.LoadPartTruth'), dict(type='semmae.PackImage')]


def part_image_net(root, **kwargs):
    return DATASETS.build(dict(type='semmae.PartImageNet', data_root=str(root), **kwargs))


def pascal_part(root, **kwargs):
    return DATASETS.build(dict(type='semmae.PascalPart', data_root=str(root), **kwargs))


# Masks of COCO

def test_a_polygon_holds_the_pixels_whose_middle_it_encloses():
    assert fill_polygon(np.array(rectangle(1, 1, 3, 2)).reshape(-1, 2), (4, 5)).astype(int).tolist(
        ) == [[0, 0, 0, 0, 0], [0, 1, 1, 1, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]]
    triangle = fill_polygon(np.array([[0, 0], [4, 0], [0, 4]]), (4, 4)).astype(int)
    assert triangle.sum(1).tolist() == [3, 2, 1, 0] and triangle[0].tolist() == [1, 1, 1, 0]
    thin = np.array(rectangle(.6, 0, .8, 4)).reshape(-1, 2)  # between two columns of middles
    assert not fill_polygon(thin, (4, 4)).any()


def test_a_polygon_is_cut_at_the_border_and_its_direction_does_not_matter():
    points = np.array(rectangle(-5, 1, 100, 1e9)).reshape(-1, 2)
    assert fill_polygon(points, (3, 4)).astype(int).tolist() == [[0] * 4, [1] * 4, [1] * 4]
    assert np.array_equal(fill_polygon(points[::-1], (3, 4)), fill_polygon(points, (3, 4)))


def test_several_polygons_are_united_and_two_points_stand_for_the_box():
    two = dict(segmentation=[rectangle(0, 0, 2, 2), rectangle(1, 1, 2, 2)])
    assert mask_of(two, (4, 4)).sum() == 7
    box = dict(segmentation=[[1, 1, 3, 3]], bbox=[1, 1, 2, 2])
    assert np.argwhere(mask_of(box, (4, 4))).tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]


def test_run_lengths_go_down_the_columns_also_as_compressed_text():
    # pycocotools 2.0.11 encodes this mask as b';32000ON3'
    expected = np.zeros((5, 6), bool)
    expected[1:4, 2:5], expected[0, 5] = True, True
    counts = [11, 3, 2, 3, 2, 3, 1, 1, 4]
    assert unpack_runs(';32000ON3') == counts
    for runs in (counts, ';32000ON3'):
        assert np.array_equal(decode_runs(dict(size=[5, 6], counts=runs), (5, 6)), expected)


# PartImageNet

@pytest.mark.parametrize('layout', ['seg', 'ood'])
def test_part_image_net_is_read_in_both_published_layouts(tmp_path, layout):
    data = part_image_net(write_part_image_net(tmp_path, layout=layout))
    assert len(data) == 2  # the image without an annotation is left out
    fish, quadruped = data[0], data[1]
    assert fish['img_path'].endswith('n01440764_0.JPEG') and Image.open(fish['img_path'])
    assert data.CLASSES[fish['gt_label']] == 'Fish' and len(data.CLASSES) == 11
    assert data.CLASSES[quadruped['gt_label']] == 'Quadruped'
    assert len(data.metainfo['parts']) == 40 and data.metainfo['parts'][10] == 'Fish Body'
    labels = fish['part_label_map']
    assert labels.dtype == np.uint8 and labels.tolist() == [
        [0] * 8, [0, 10, 10, 11, 11, 0, 0, 0], [0, 10, 10, 11, 11, 0, 0, 0],
        [0, 11, 11, 11, 11, 0, 0, 0], [0] * 8, [0] * 8]  # the later annotation covers the earlier
    assert fish['bbox'].tolist() == [1, 1, 4, 3] and fish['bbox'].dtype == np.float32
    assert np.argwhere(quadruped['part_label_map']).tolist() == [[4, 6], [5, 6]]
    assert quadruped['bbox'].tolist() == [6, 4, 1, 2] and quadruped['part_label_map'].max() == 1


def test_crowds_and_annotations_without_area_are_left_out(tmp_path):
    whole = [rectangle(0, 0, 8, 6)]
    data = part_image_net(write_part_image_net(tmp_path, annotations=[
        annotation(0, 3, [rectangle(0, 0, 2, 2)]), annotation(0, 5, whole, area=0),
        annotation(0, 6, whole, iscrowd=1), annotation(1, 6, whole, iscrowd=1)]))
    assert len(data) == 1 and set(np.unique(data[0]['part_label_map'])) == {0, 4}


def test_labels_number_the_category_ids_in_ascending_order(tmp_path):
    data = part_image_net(write_part_image_net(
        tmp_path, categories=[dict(CATEGORIES[0], id=9), dict(CATEGORIES[9], id=7)],
        annotations=[annotation(0, 9, [rectangle(0, 0, 2, 2)])]))
    assert data[0]['part_label_map'].max() == 2 and data.metainfo['parts'] == (
        'Fish Head', 'Quadruped Head')
    assert tuple(data.CLASSES) == ('Fish', 'Quadruped')


@pytest.mark.parametrize('changes, said', [
    (dict(annotations=[annotation(7, 0, [])]), 'an annotation of image 7, expected one of its 3'),
    (dict(annotations=[annotation(0, 40, [])]), 'category_id 40 of image 0, expected one of its 4'),
    (dict(annotations=[dict(image_id=0)]), "KeyError: 'category_id', expected a COCO-style file"),
    (dict(annotations=None), 'TypeError: .*expected a COCO-style file'),
    (dict(categories=[]), "category_id 10 of image 0, expected one of its 0"),
    (dict(images=[], annotations=[]), 'got 0 images and 40 categories'),
    (dict(categories=[*CATEGORIES, CATEGORIES[0]]), '41 categories, 1 ids more than once'),
    (dict(categories=[dict(CATEGORIES[0], id=i) for i in range(255)]), '255 categories')])
def test_damaged_part_image_net_annotations_are_refused(tmp_path, changes, said):
    with pytest.raises(ValueError, match=f'train.json: .*{said}.*check_data.py part_image_net'):
        part_image_net(write_part_image_net(tmp_path, **changes))


def test_a_file_of_another_kind_points_to_the_label_maps(tmp_path):
    write_part_image_net(tmp_path)
    for text in ('<html>', '[]', '{"height": 3}'):
        (tmp_path / 'annotations/train/train.json').write_text(text)
        with pytest.raises(ValueError, match='--masks IMAGES LABELS --background 40'):
            part_image_net(tmp_path)


@pytest.mark.parametrize('segmentation, said', [
    ([[1, 1, 3, 3, 5]], 'reshape'), ([[1, 1]], '1 points, expected 3 or more'),
    ([[1, 1, 2, float('nan'), 5, 6]], 'finite'), ([['a', 1, 2, 2, 3, 3]], 'could not convert'),
    (dict(size=[HEIGHT, WIDTH], counts=[1, 2]), 'run lengths of 3 pixels'),
    (dict(size=[WIDTH, HEIGHT], counts=[48]), 'run lengths of 48 pixels and size'),
    (dict(size=[HEIGHT, WIDTH], counts=[50, -2]), 'run lengths of 48 pixels'),
    (dict(size=[HEIGHT, WIDTH], counts='o'), 'end inside a number'),
    (dict(size=[HEIGHT, WIDTH]), 'counts'), (None, 'NoneType'), (7, 'not iterable')])
def test_an_unusable_segmentation_is_refused_with_its_image(tmp_path, segmentation, said):
    data = part_image_net(write_part_image_net(
        tmp_path, annotations=[annotation(0, 0, segmentation)]))
    with pytest.raises(ValueError, match=f'n01440764_0.JPEG: got an unusable .*{said}'):
        data[0]


def test_annotations_that_cover_no_pixel_are_refused(tmp_path):
    data = part_image_net(write_part_image_net(
        tmp_path, annotations=[annotation(0, 0, [rectangle(100, 0, 3, 3)])]))
    with pytest.raises(ValueError, match='n01440764_0.JPEG: got annotations that cover no pixel'):
        data[0]


def test_missing_files_of_part_image_net_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='has no annotations/val/val.json nor .*check_data'):
        part_image_net(tmp_path, split='val')
    data = part_image_net(write_part_image_net(tmp_path))
    (tmp_path / 'images/train/n01440764_1.JPEG').unlink()
    with pytest.raises(FileNotFoundError, match='n01440764_1.JPEG: not found.*part_image_net'):
        data[1]
    (tmp_path / 'images/train/n01440764_0.JPEG').unlink()
    with pytest.raises(FileNotFoundError, match='has no images/train/n01440764_0.JPEG, images/tra'):
        part_image_net(tmp_path)
    with pytest.raises(ValueError, match="split='dev', expected 'train', 'val' or 'test'"):
        part_image_net(tmp_path, split='dev')


def test_an_image_of_another_size_than_its_annotations_is_refused(tmp_path):
    data = part_image_net(write_part_image_net(tmp_path))
    photo(tmp_path / 'images/train/n01440764_0.JPEG', (6, 8))
    with pytest.raises(ValueError, match='has 6x8 pixels, its annotations are for 8x6.*part_image'):
        data[0]


# Pascal-Part

def test_labels_of_pascal_part_fit_into_a_byte_and_each_has_a_name(tmp_path):
    assert len(PASCAL_LABELS) == len(set(PASCAL_LABELS)) == 213 < 255
    data = pascal_part(write_pascal_part(tmp_path))
    assert data.metainfo['parts'][:3] == ('aeroplane', 'aeroplane body', 'aeroplane stern')
    assert len(data.CLASSES) == 20 and data.CLASSES[11] == 'dog'


def test_pascal_part_paints_objects_and_parts_in_the_order_of_the_file(tmp_path):
    sample = pascal_part(write_pascal_part(tmp_path))[0]
    car, wheel, dog, head = (PASCAL_LABELS.index(key) + 1 for key in (
        ('car', ''), ('car', 'wheel'), ('dog', ''), ('dog', 'head')))
    assert sample['part_label_map'].tolist() == [
        [car] * 8, [wheel, car, head, head, dog, dog, dog, car],
        [0, 0, head, head, dog, dog, dog, 0], *[[0, 0, dog, dog, dog, dog, dog, 0]] * 2, [0] * 8]
    assert sample['part_label_map'].dtype == np.uint8
    assert sample['gt_label'] == 11 and sample['bbox'].tolist() == [2, 1, 5, 4]  # the larger one
    assert sample['img_path'] == str(tmp_path / 'JPEGImages/2008_000001.jpg')


def test_an_object_without_parts_has_the_label_of_its_class(tmp_path):
    sample = pascal_part(write_pascal_part(tmp_path, things=[thing(4, mask(1, 1, 2, 2))]))[0]
    assert set(np.unique(sample['part_label_map'])) == {0, PASCAL_LABELS.index(('boat', '')) + 1}


@pytest.mark.parametrize('things, said', [
    ([thing(21, mask(0, 0, 2, 2))], 'class_ind 21, expected 1 to 20'),
    ([thing(4, mask(0, 0, 2, 2), part('sail', mask(0, 0, 1, 1)))],
     r"part 'sail' of class boat, expected one of \(\)"),
    ([thing(1, mask(0, 0, 2, 2, (6, 8)))],
     'a mask of 6x8 pixels, its image .*2008_000001.jpg has 8x6; expected the same'),
    ([thing(1, mask(0, 0, 2, 2), part('body', np.zeros((0, 0))))], 'a mask of 0x0 pixels'),
    ([thing(1, mask(0, 0, 0, 0))], 'no object with pixels'), ([], 'no object with pixels'),
    ([{'class': 'dog', 'mask': mask(0, 0, 1, 1)}], 'no annotation of Pascal-Part')])
def test_damaged_pascal_part_annotations_are_refused(tmp_path, things, said):
    data = pascal_part(write_pascal_part(tmp_path, things=things))
    with pytest.raises(ValueError, match=f'2008_000001.mat: .*{said}.*check_data.py pascal_part'):
        data[0]


@pytest.mark.parametrize('content', [b'', b'<html>', b'MATLAB 5.0 MAT-file' + bytes(200)])
def test_a_file_that_is_no_mat_file_is_refused(tmp_path, content):
    data = pascal_part(write_pascal_part(tmp_path))
    (tmp_path / 'Annotations_Part/2008_000001.mat').write_bytes(content)
    with pytest.raises(ValueError, match='2008_000001.mat: got no annotation of Pascal-Part'):
        data[0]


def test_missing_files_of_pascal_part_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='Main/val.txt: not found.*check_data.py pascal_pa'):
        pascal_part(tmp_path, split='val')
    write_pascal_part(tmp_path)
    write_pascal_part(tmp_path, name='2008_000002')
    (tmp_path / 'Annotations_Part/2008_000002.mat').unlink()
    with pytest.raises(FileNotFoundError, match='1 of 2 images .* no annotation, expected .*2.mat'):
        pascal_part(tmp_path)
    write_pascal_part(tmp_path, name='2008_000003', split='val')
    (tmp_path / 'JPEGImages/2008_000003.jpg').unlink()
    with pytest.raises(FileNotFoundError, match='2008_000003.jpg: not found'):
        pascal_part(tmp_path, split='val')[0]
    with pytest.raises(ValueError, match="split='test', expected 'train', 'val' or 'trainval'"):
        pascal_part(tmp_path, split='test')


# In a pipeline

def test_both_give_their_labels_in_the_view_of_a_pipeline(tmp_path):
    write_part_image_net(tmp_path / 'a')
    write_pascal_part(tmp_path / 'b')
    for build, root in ((part_image_net, 'a'), (pascal_part, 'b')):
        whole, seen = build(tmp_path / root)[0], build(tmp_path / root, pipeline=VIEW)[0]
        assert np.array_equal(seen['part_labels'], whole['part_label_map'][:, 1:7])
        assert {'inputs', 'bbox', 'box_size', 'part_labels'} <= set(seen)


def test_steps_that_leave_the_parts_behind_are_refused(tmp_path):
    flip = [*VIEW[:3], dict(type='semmae.FlipWithParts'), *VIEW[3:]]
    for build, root in ((part_image_net, write_part_image_net(tmp_path / 'a')),
                        (pascal_part, write_pascal_part(tmp_path / 'b'))):
        with pytest.raises(ValueError, match='expected no flip'):
            build(root, pipeline=flip)


def test_a_json_file_of_windows_paths_is_read(tmp_path):
    write_part_image_net(tmp_path)
    path = tmp_path / 'annotations/train/train.json'
    content = json.loads(path.read_text())
    for image in content['images']:
        image['file_name'] = 'n01440764\\' + image['file_name']
    path.write_text(json.dumps(content))
    assert part_image_net(tmp_path)[0]['img_path'].endswith('images/train/n01440764_0.JPEG')
