"""True parts end under the pixels that they were drawn on, in every view that a pipeline shows."""
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import default_collate
from PIL import Image

from semmae.datasets.part_dataset import PartDataset
from semmae.registry import DATASETS, METRICS, TRANSFORMS

REPO = Path(__file__).parents[2]
SHARED = REPO.parent / 'shared/data'
SIZES = [(64, 64), (97, 141), (141, 97), (200, 63), (63, 201), (40, 33), (333, 500), (68, 72)]


def steps(scale=64, crop=64, backend='pillow', interpolation='bicubic'):
    return [dict(type='LoadImageFromFile'),
            dict(type='mmpretrain.ResizeEdge', scale=scale, edge='short', backend=backend,
                 interpolation=interpolation),
            dict(type='mmpretrain.CenterCrop', crop_size=crop),
            dict(type='semmae.LoadPartTruth'), dict(type='semmae.PackImage')]


def run(results, pipeline):
    for step in pipeline:
        results = TRANSFORMS.build(step).transform(results)
    return results


def write(path, pixels):
    Image.fromarray(pixels).save(path)
    return str(path)


def marked(tmp_path, width, height):
    """A black image with a white block around its landmark, its label map, and the block's box."""
    half = max(4, min(width, height) // 16)
    x, y = width // 2 + min(5, width // 8), height // 2 - min(7, height // 8)
    pixels = np.zeros((height, width), np.uint8)
    pixels[y - half:y + half + 1, x - half:x + half + 1] = 1
    return dict(
        sample_idx=0, img_path=write(tmp_path / 'image.png', np.stack([pixels * 255] * 3, 2)),
        label_path=write(tmp_path / 'labels.png', pixels), is_train=True,
        landmarks=np.array([[x, y, 1], [x, y, 0]], np.float32),
        bbox=np.array([x - half, y - half, 2 * half + 1, 2 * half + 1], np.float32))


@pytest.mark.parametrize('backend, interpolation', [   # cv2's bilinear skips pixels of the file
    ('pillow', 'bicubic'), ('pillow', 'bilinear'), ('cv2', 'area')])
@pytest.mark.parametrize('scale, crop', [(64, 64), (64, 57), (224, 196), (37, 37)])
@pytest.mark.parametrize('width, height', SIZES)
def test_a_marked_block_ends_under_its_landmark_box_and_label(
        tmp_path, width, height, scale, crop, backend, interpolation):
    packed = run(marked(tmp_path, width, height), steps(scale, crop, backend, interpolation))
    light = packed['inputs'][0].numpy() / 255
    assert light.shape == (crop, crop)
    y, x = ((np.mgrid[:crop, :crop] + .5) * light).sum((1, 2)) / light.sum() / crop
    pixel = 1 / crop
    assert packed['landmarks'][0].tolist() == pytest.approx([x, y, 1], abs=.1 * pixel)
    left, top, w, h = packed['bbox'].tolist()
    assert [left + w / 2, top + h / 2] == pytest.approx([x, y], abs=.1 * pixel)
    assert w * h * crop ** 2 == pytest.approx(light.sum(), rel=.05)
    labels = packed['part_labels'].numpy()
    middle = np.argwhere(labels).mean(0) + .5
    assert middle.tolist() == pytest.approx([y * crop, x * crop], abs=.55)
    assert (labels[light > .8] == 1).all() and (labels[light < .2] == 0).all()


@pytest.mark.parametrize('side', [37, 64, 224])
@pytest.mark.parametrize('width, height', SIZES)
def test_the_truth_of_the_view_in_one_step_is_that_of_the_steps_it_replaces(
        tmp_path, width, height, side):
    sample = marked(tmp_path, width, height)
    one = [dict(type='semmae.LoadCenterCrop', size=side), *steps()[3:]]
    found, expected = (run(dict(sample), pipeline) for pipeline in (one, steps(side, side)))
    for key in ('part_labels', 'landmarks', 'bbox', 'box_size'):
        assert found[key].equal(expected[key]), key


def test_what_is_packed_has_the_types_that_batches_need(tmp_path):
    packed = run(marked(tmp_path, 97, 141), steps())
    assert {k: (v.dtype, tuple(v.shape)) for k, v in packed.items() if k != 'sample_idx'} == dict(
        inputs=(torch.uint8, (3, 64, 64)), part_labels=(torch.uint8, (64, 64)),
        landmarks=(torch.float32, (2, 3)), bbox=(torch.float32, (4,)),
        box_size=(torch.float32, (2,)), is_train=(torch.bool, ()))
    assert default_collate([packed, packed])['is_train'].tolist() == [True, True]


def test_an_invisible_landmark_and_one_outside_of_the_view_are_zeros(tmp_path):
    sample = marked(tmp_path, 200, 100)              # the view shows x from 50 to 150
    sample['landmarks'] = np.array([[49, 50, 1], [50, 50, 1], [149, 50, 1], [150, 50, 1],
                                    [100, 50, 0]], np.float32)
    landmarks = run(sample, steps(100, 100))['landmarks']
    assert landmarks[:, 2].tolist() == [0, 1, 1, 0, 0]
    assert landmarks[[0, 3, 4]].eq(0).all()
    assert landmarks[1:3, 0].tolist() == pytest.approx([.005, .995])


@pytest.mark.parametrize('box, cut', [
    ([0, 0, 200, 100], [0, 0, 1, 1]), ([100, 25, 50, 50], [.5, .25, .5, .5]),
    ([40, 50, 20, 10], [0, .5, .1, .1]), ([0, 10, 30, 20], [0, .1, 0, .2])])
def test_the_box_is_cut_by_the_view_and_its_whole_size_is_kept(tmp_path, box, cut):
    sample = dict(marked(tmp_path, 200, 100), bbox=np.array(box, np.float32))
    packed = run(sample, steps(50, 50))
    assert packed['bbox'].tolist() == pytest.approx(cut)
    assert packed['box_size'].tolist() == pytest.approx([box[2] / 100, box[3] / 100])


def test_labels_are_never_mixed_at_their_edges(tmp_path):
    sample = marked(tmp_path, 97, 141)
    labels = np.random.default_rng(0).choice([0, 3, 200], size=(141, 97)).astype(np.uint8)
    sample['label_path'] = write(tmp_path / 'random.png', labels)
    assert set(run(sample, steps())['part_labels'].unique().tolist()) == {0, 3, 200}


def test_a_label_map_of_another_size_is_refused_naming_both(tmp_path):
    sample = marked(tmp_path, 97, 141)
    sample['label_path'] = write(tmp_path / 'small.png', np.zeros((97, 141), np.uint8))
    with pytest.raises(ValueError, match='small.png has 141x97 pixels, its image .* has 97x141'):
        run(sample, steps())


@pytest.mark.parametrize('name, pixels, mode', [
    ('deep.png', np.zeros((64, 64), np.uint16), 'I;16'),
    ('colour.png', np.zeros((64, 64, 3), np.uint8), 'RGB')])
def test_label_maps_that_would_wrap_or_have_channels_are_refused(tmp_path, name, pixels, mode):
    cv2.imwrite(str(tmp_path / name), pixels)
    sample = dict(marked(tmp_path, 64, 64), label_path=str(tmp_path / name))
    with pytest.raises(ValueError, match=f'{name} is an image of mode {mode}, expected .*8 bits'):
        run(sample, steps())


def test_a_palette_image_gives_its_indices(tmp_path):
    image = Image.fromarray(np.full((64, 64), 4, np.uint8)).convert('P')
    image.putpalette([250 - i for i in range(250)] * 3)
    image.save(tmp_path / 'palette.png')
    sample = dict(marked(tmp_path, 64, 64), label_path=str(tmp_path / 'palette.png'))
    assert run(sample, steps())['part_labels'].unique().tolist() == [4]


def test_a_mirrored_image_and_one_without_truth_are_refused(tmp_path):
    sample = marked(tmp_path, 64, 64)
    pipeline = steps()
    pipeline.insert(3, dict(type='semmae.FlipWithParts', prob=1.))
    with pytest.raises(ValueError, match='image.png is mirrored, its true parts are not'):
        run(dict(sample), pipeline)
    with pytest.raises(ValueError, match='has neither label_path nor landmarks nor bbox'):
        run({k: sample[k] for k in ('sample_idx', 'img_path', 'is_train')}, steps())


@pytest.mark.parametrize('chosen, message', [
    ([0, 1, 3], 'view of 64x93 pixels of an image resized to 64x93, expected a square'),
    ([0, 2, 3], 'view of 64x64 pixels of an image resized to 97x141'),
    ([0, 3], 'view of 97x141 pixels')])
def test_a_view_that_is_not_known_or_not_square_is_refused(tmp_path, chosen, message):
    with pytest.raises(ValueError, match=message):
        run(marked(tmp_path, 97, 141), [steps()[i] for i in chosen])


def test_a_padded_view_is_refused(tmp_path):
    pipeline = steps(48, 64)
    pipeline[2].update(type='mmpretrain.CenterCrop', auto_pad=True)
    with pytest.raises(ValueError, match='view of 64x64 pixels of an image resized to 48x48'):
        run(marked(tmp_path, 64, 64), pipeline)


# Data sets

@pytest.fixture
def photos(tmp_path):
    """Three images with label maps: a block of label 3 on the left of each."""
    for i, (width, height) in enumerate([(80, 100), (100, 80), (71, 71)]):
        for folder in ('images', 'labels'):
            (tmp_path / folder / f'{i % 2}').mkdir(parents=True, exist_ok=True)
        labels = np.zeros((height, width), np.uint8)
        labels[:, :width // 2] = 3
        write(tmp_path / f'images/{i % 2}/{i}.JPEG', np.stack([labels * 80] * 3, 2))
        write(tmp_path / f'labels/{i % 2}/{i}.png', labels)
    return tmp_path


def test_every_image_is_read_with_its_own_label_map(photos):
    data = PartDataset(photos / 'images', pipeline=steps(), label_root=photos / 'labels')
    assert [Path(data.get_data_info(i)['label_path']).stem for i in range(3)] == ['0', '2', '1']
    for sample in data:
        light = sample['inputs'][0] > 120
        assert (light == (sample['part_labels'] == 3)).float().mean() > .97


def test_missing_label_maps_are_counted_and_the_first_is_named(photos):
    (photos / 'labels/0/2.png').unlink()
    with pytest.raises(FileNotFoundError, match=r'1 of 3 images have no label map.*labels/0/2.png'):
        PartDataset(photos / 'images', label_root=photos / 'labels')
    with pytest.raises(FileNotFoundError, match=r'3 of 3 .*expected .*nowhere/NAME.png'):
        PartDataset(photos / 'images', label_root=photos / 'nowhere')


@pytest.mark.parametrize('at, step, message', [
    (2, dict(type='mmpretrain.RandomCrop', crop_size=64), 'RandomCrop would move images away'),
    (1, dict(type='semmae.LoadCenterCrop', size=64, flip_prob=.5), 'expected no flip'),
    (3, dict(type='semmae.FlipWithParts'), 'expected no flip'),
    (4, dict(type='semmae.FlipWithParts'), 'expected no flip'),
    (4, dict(type='mmpretrain.CenterCrop', crop_size=32), 'after all others')])
def test_steps_that_leave_the_truth_behind_are_refused_by_the_data_sets(
        photos, toy, at, step, message):
    pipeline = steps()
    pipeline.insert(at, step)
    with pytest.raises(ValueError, match=message):
        PartDataset(photos / 'images', pipeline=pipeline, label_root=photos / 'labels')
    with pytest.raises(ValueError, match=message):
        cub(toy, split='all', pipeline=pipeline)


def test_a_part_store_accepts_a_pipeline_with_true_parts(toy):
    data = PartDataset(toy / 'imagenet/val', pipeline=steps(), grid=8, num_parts=6,
                       part_store=toy / 'parts/val_8', label_root=toy / 'imagenet/part_labels/val')
    assert {'part_ids', 'foreground', 'part_labels'} <= set(data[0])


def cub(toy, **kwargs):
    return DATASETS.build(dict(type='semmae.CUBParts', data_root=str(toy / 'CUB_200_2011'),
                               **kwargs))


# From files to values

def evaluated(kind, data, parts_of, grid, **kwargs):
    """A metric over a data set, with parts and scores from a function of the packed sample."""
    metric = METRICS.build(dict(type=f'semmae.{kind}', **kwargs))
    for sample in data:
        ids, foreground = parts_of(sample)
        metric.process(None, [dict(sample, part_ids=torch.as_tensor(ids).flatten(), num_parts=8,
                                   foreground=torch.as_tensor(foreground).flatten())])
    return metric.evaluate(len(data))


def test_true_parts_of_toy_images_score_100_through_the_whole_pipeline(toy):
    data = PartDataset(toy / 'imagenet/val', pipeline=steps(),
                       label_root=toy / 'imagenet/part_labels/val')

    def truth(sample):                               # patches of one pixel
        return sample['part_labels'].long(), (sample['part_labels'] > 0).float()
    found = evaluated('PartSegmentation', data, truth, 64)
    assert [found[f'parts/{k}'] for k in ('ARI', 'NMI', 'IoU', 'object_pooled_ARI')] == (
        pytest.approx([100] * 4))
    assert found['parts/images'] == found['parts/object_images'] == len(data) == 8
    found = evaluated('ForegroundQuality', data, truth, 64)
    assert found['foreground/AUC'] == found['foreground/precision'] == 100
    assert found['foreground/kept'] == pytest.approx(found['foreground/kept_best'])


def test_quarters_of_toy_birds_are_worth_no_more_than_the_mean_position(toy):
    data = cub(toy, split='all', pipeline=steps())
    quarters = np.kron(np.arange(4).reshape(2, 2), np.ones((4, 4), np.int64))
    found = evaluated('LandmarkQuality', data, lambda _: (quarters, quarters), 8)
    assert found['landmarks/train_images'] == found['landmarks/test_images'] == 16
    assert found['landmarks/error'] == pytest.approx(found['landmarks/constant_error'])
    assert 5 < found['landmarks/error'] < 40 and found['landmarks/NMI'] > 5


@pytest.mark.skipif(not SHARED.is_dir(), reason='the real samples are not on this machine')
@pytest.mark.shared_data
def test_landmarks_of_real_birds_stay_in_their_boxes():
    data = DATASETS.build(dict(type='semmae.CUBParts', data_root=str(SHARED / 'CUB_200_2011'),
                               split='all', pipeline=steps(224, 224)))
    inside, splits = [], []
    for i in range(0, len(data), 40):
        sample = data[i]
        splits.append(bool(sample['is_train']))
        x, y, w, h = sample['bbox'].tolist()
        for px, py, visible in sample['landmarks'].tolist():
            if visible:
                inside.append(x - .02 <= px <= x + w + .02 and y - .02 <= py <= y + h + .02)
    assert len(data) == 1402 and 0 < sum(splits) < len(splits)
    assert len(inside) > 300 and np.mean(inside) > .98


@pytest.mark.parametrize('orientation', [2, 3, 6])
def test_an_image_that_its_exif_tag_would_turn_is_refused(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / 'turned.jpg'
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(path, exif=exif)
    results = dict(img_path=str(path), bbox=np.array([1, 1, 9, 9], np.float32))
    with pytest.raises(ValueError, match=f'turned by its EXIF tag .orientation {orientation}'):
        run(results, steps()[:-1])


def test_two_images_do_not_share_a_label_map(tmp_path):
    for name in ('images/a.jpg', 'images/a.png', 'labels/a.png'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, np.zeros((8, 8), np.uint8))
    data = PartDataset(tmp_path / 'images', label_root=tmp_path / 'labels', lazy_init=True)
    with pytest.raises(ValueError, match='a.png would be the label map of several images'):
        data.full_init()
