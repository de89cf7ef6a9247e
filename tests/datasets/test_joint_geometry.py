"""Flips and random crops move an image, its part ids and its foreground to the same place.

Expected maps are not computed as the transform does it: pixels of the view are warped with the box
that was drawn (OpenCV's affine warp, nearest pixel) and counted in each patch.
"""
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmcv.transforms import BaseTransform, CenterCrop
from mmengine.config import Config
from mmengine.dataset import Compose

from semmae.datasets.geometry import Role, role_of, view_of
from semmae.datasets.part_store import PartStoreWriter, list_images, sample_images
from semmae.datasets.seeded import Seeded
from semmae.datasets.transforms import (
    FlipWithParts,
    RandomResizedCropWithParts,
    coverage,
    mean_of,
    most_of,
)
from semmae.parts.extract import extract_parts
from semmae.parts.learner import LearnerSource
from semmae.parts.photos import without_random_steps
from semmae.registry import DATASETS
from semmae.visualization.pictures import take

REPO = Path(__file__).parents[2]
SHARED = REPO.parent / 'shared/data'
COLOURS = np.stack(np.meshgrid([0, 255], [0, 255], [0, 255]), -1).reshape(-1, 3)  # of 8 parts
CROPS = dict(crop_ratio_range=(0.2, 1.0), aspect_ratio_range=(3 / 4, 4 / 3))
PIXELS = 16  # of a patch of a crop, each way


def known_map(rng, grid, num_seeds=10):
    """(grid, grid) ids in patches of one part (cells around random points), 8 parts."""
    at = np.arange(grid) + .5
    places = rng.uniform(0, grid, (num_seeds, 2))
    far = (at[:, None, None] - places[:, 0]) ** 2 + (at[:, None] - places[:, 1]) ** 2
    return rng.integers(len(COLOURS), size=num_seeds)[far.argmin(-1)].astype(np.uint8)


def smooth_map(rng, grid):
    """(grid, grid) uint8 with another value nearly everywhere, unlike its mirror image."""
    across, down = np.meshgrid(*[(np.arange(grid) + .5) / grid] * 2)
    a, b = rng.uniform(.3, 1, 2)
    return (255 * (a * across + b * down ** 2) / (a + b)).astype(np.uint8)


def in_pixels(stored, side):
    """A part map (grid, grid) as an image of the view, (side, side)."""
    where = np.arange(side) * len(stored) // side
    return stored[where[:, None], where]


def jointly(image, ids, foreground, grid, seed, flip_parts=True, **changes):
    """Results of crop and flip, one after the other in both orders, of an image with its parts."""
    model_grid = grid or len(ids)
    crop = RandomResizedCropWithParts(model_grid * PIXELS, grid=grid, **{**CROPS, **changes})
    flip = FlipWithParts(prob=0.5)
    results = dict(img=image, part_ids=ids, foreground=foreground)
    np.random.seed(seed)
    for step in (crop, flip) if seed % 2 else (flip, crop):
        kept = {} if flip_parts else {k: results[k] for k in ('part_ids', 'foreground')}
        results = step.transform(results)
        if step is flip:
            results.update(kept)
    results['is_mirrored_first'] = results['flip'] and not seed % 2
    return results


def warped(stored, side, results):
    """(L, n) values of a stored map under the pixels of each patch, warped by OpenCV."""
    left, top, width, height = results['crop_box']
    size = results['img'].shape[0]
    view = in_pixels(stored, side)
    if results['is_mirrored_first']:
        view = cv2.flip(view, 1)
    x, y = width / size, height / size
    matrix = np.array([[x, 0, left + x / 2 - .5], [0, y, top + y / 2 - .5]])
    if results['flip'] and not results['is_mirrored_first']:
        matrix[0] = -x, 0, left + width - x / 2 - .5
    pixels = cv2.warpAffine(view, matrix, (size, size), borderMode=cv2.BORDER_REPLICATE,
                            flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP)
    return in_patches(pixels, results['part_ids'])


def in_patches(pixels, part_ids):
    """(L, n): the pixels (S, S) of each patch of a map (grid, grid)."""
    grid = len(part_ids)
    return pixels.reshape(grid, len(pixels) // grid, grid, -1).swapaxes(1, 2).reshape(grid ** 2, -1)


def leading(values):
    """(the most frequent id (L,), by what share of the patch it leads (L,)) of (L, n) ids."""
    counts = (values[:, :, None] == np.arange(len(COLOURS))).sum(1)
    first = np.sort(counts, axis=1)
    return counts.argmax(1), (first[:, -1] - first[:, -2]) / values.shape[1]


def seen(image, part_ids):
    """(L,) the part whose colour is in the middle of each patch of a painted image."""
    grid, size = len(part_ids), len(image)
    middle = size // grid // 2 + np.arange(grid) * (size // grid)
    found = image[middle[:, None], middle].reshape(-1, 1, 3).astype(int)
    return np.abs(found - COLOURS).sum(-1).argmin(1)


def painted(store_grid, grid, seeds, **kwargs):
    """(agreeing patches, compared ones) of painted views: colour in the middle against part id.

    Compared are patches that lie in one part.
    """
    agree = compared = 0
    for seed in seeds:
        rng, side = np.random.default_rng(seed), store_grid * PIXELS
        ids = known_map(rng, store_grid)
        image = COLOURS[in_pixels(ids, side)].astype(np.uint8)
        results = jointly(image, ids, smooth_map(rng, store_grid), grid, seed, **kwargs)
        within = np.ptp(warped(ids, side, results), axis=1) == 0
        same = seen(results['img'], results['part_ids']) == results['part_ids'].reshape(-1)
        agree, compared = agree + (same & within).sum(), compared + within.sum()
    return agree, compared


GRIDS = [(8, None), (14, None), (28, None), (28, 14), (16, 8), (14, 28), (28, 8)]


@pytest.mark.parametrize('store_grid, grid', GRIDS)
def test_colours_painted_from_the_part_map_still_agree_with_it(store_grid, grid):
    agree, compared = painted(store_grid, grid, range(30))
    print(f'grid {store_grid} to {grid or store_grid}: {compared} patches')
    assert agree == compared > 30 * (grid or store_grid) ** 2 / 2


def test_extreme_shapes_of_crops_agree_too():
    for ratio in ((.25, .3), (3.5, 4.)):
        agree, compared = painted(28, 14, range(20), aspect_ratio_range=ratio,
                                  crop_ratio_range=(.05, .2))
        assert agree == compared > 2000


def test_a_flip_of_the_image_alone_would_be_noticed():
    agree, compared = painted(28, 14, range(30), flip_parts=False)
    mirrored, among = painted(28, 14, [s for s in range(30) if is_flipped(s)], flip_parts=False)
    assert agree < .85 * compared and mirrored < .7 * among


def is_flipped(seed):
    rng = np.random.default_rng(seed)
    image = np.zeros((448, 448, 3), np.uint8)
    return jointly(image, known_map(rng, 28), smooth_map(rng, 28), 14, seed)['flip']


@pytest.mark.parametrize('store_grid, grid', GRIDS)
def test_every_patch_has_the_part_with_most_area_and_the_mean_foreground(store_grid, grid):
    clear = total = 0
    for seed in range(20):
        rng, side = np.random.default_rng(seed), store_grid * PIXELS
        ids, foreground = known_map(rng, store_grid), smooth_map(rng, store_grid)
        results = jointly(np.zeros((side, side, 3), np.uint8), ids, foreground, grid, seed)
        wanted, lead = leading(warped(ids, side, results))
        is_clear = lead > .25  # else the 16x16 points that were counted do not decide
        assert (results['part_ids'].reshape(-1) == wanted)[is_clear].all()
        mean = warped(foreground, side, results).mean(1)
        assert np.abs(results['foreground'].reshape(-1) - mean).max() < 3
        assert results['part_ids'].dtype == results['foreground'].dtype == np.uint8
        clear, total = clear + is_clear.sum(), total + is_clear.size
    assert clear > .85 * total


def test_boxes_have_the_areas_and_shapes_of_maes():
    image = np.zeros((448, 448, 3), np.uint8)
    crop = RandomResizedCropWithParts(32)
    np.random.seed(0)
    boxes = np.array([crop.transform(dict(img=image))['crop_box'] for _ in range(500)])
    area, shape = boxes[:, 2] * boxes[:, 3] / 448 ** 2, boxes[:, 2] / boxes[:, 3]
    assert .19 < area.min() < .22 and .97 < area.max() <= 1
    assert .74 < shape.min() < .78 and 1.28 < shape.max() < 1.35
    assert (boxes[:, :2] + boxes[:, 2:]).max() <= 448


def test_a_mirrored_box_of_a_mirrored_map_is_the_mirrored_crop_ties_included():
    rng = np.random.default_rng(0)
    ids, scores = rng.integers(8, size=(28, 28)), rng.integers(256, size=(28, 28))
    for left, width in ((0, 448), (0, 224), (64, 320), (7, 311)):
        down = coverage(0, 448, 448, 28, 14)
        here = coverage(left, width, 448, 28, 14)
        there = coverage(448 - left - width, width, 448, 28, 14)
        for resample, stored in ((most_of, ids), (mean_of, scores)):
            mirrored = resample(stored[:, ::-1], down, there)
            assert (mirrored == resample(stored, down, here)[:, ::-1]).all()


def test_the_whole_view_at_the_stores_grid_leaves_the_map_as_it_is():
    rng = np.random.default_rng(0)
    ids, foreground = rng.integers(256, size=(2, 14, 14), dtype=np.uint8)
    out = RandomResizedCropWithParts(32, (1., 1.), (1., 1.)).transform(
        dict(img=np.zeros((50, 50, 3), np.uint8), part_ids=ids, foreground=foreground))
    assert (out['part_ids'] == ids).all() and (out['foreground'] == foreground).all()
    assert out['crop_box'] == (0, 0, 50, 50)


def test_of_parts_with_equal_areas_the_lower_number_wins():
    whole = coverage(0, 8, 8, 2, 1)
    assert most_of(np.array([[5, 2], [2, 5]]), whole, whole).tolist() == [[2]]
    assert mean_of(np.array([[0, 10], [20, 31]]), whole, whole).tolist() == [[15]]


def test_covered_lengths_are_exact_and_add_up_to_a_patch():
    for start, size, side, old, new in ((0, 448, 448, 28, 14), (13, 101, 224, 14, 14),
                                        (5, 37, 64, 8, 28)):
        found = coverage(start, size, side, old, new)
        assert found.shape == (new, old) and (found.sum(1) == size * old).all()
        assert (found == found.round()).all()


# Data sets

def steps(view, size, grid=None, kind='semmae.RandomResizedCropWithParts'):
    crop = dict(type=kind, scale=size, backend='pillow', interpolation='bicubic', **CROPS)
    if grid:
        crop['grid'] = grid
    return [dict(type='LoadImageFromFile'),
            dict(type='mmpretrain.ResizeEdge', scale=view, edge='short', backend='pillow',
                 interpolation='bicubic'),
            dict(type='mmpretrain.CenterCrop', crop_size=view), crop,
            dict(type='semmae.FlipWithParts', prob=0.5)]


def data_set(images, pipeline, seed=0, **kwargs):
    return Seeded(DATASETS.build(dict(type='semmae.PartDataset', data_root=str(images),
                                      pipeline=pipeline, **kwargs)), seed=seed)


def test_crops_are_those_of_seed_epoch_and_image_with_a_part_store_and_without(toy):
    images = toy / 'imagenet/train'
    with_store = data_set(images, steps(128, 64, 8), part_store=str(toy / 'parts/train_16'),
                          grid=16)
    without = data_set(images, steps(128, 64))
    theirs = data_set(images, steps(128, 64, kind='mmpretrain.RandomResizedCrop'))
    found = {}
    for epoch, index in ((0, 3), (0, 4), (1, 3), (1, 4)):
        sample, plain = with_store[epoch, index], without[epoch, index]
        assert sample['part_ids'].shape == sample['foreground'].shape == (8, 8)
        assert 'part_ids' not in plain
        for other in (plain, with_store[epoch, index]):
            assert sample['crop_box'] == other['crop_box'] and sample['flip'] == other['flip']
            assert (sample['img'] == other['img']).all()
        assert (sample['img'] == theirs[epoch, index]['img']).all()
        found[epoch, index] = sample['crop_box']
    found['seed'] = data_set(images, steps(128, 64), seed=1)[0, 3]['crop_box']
    assert len(set(found.values())) == 5


def test_packed_samples_have_the_models_grid(toy):
    pipeline = [*steps(128, 64, 8), dict(type='semmae.PackImage', num_noise=70)]
    sample = data_set(toy / 'imagenet/train', pipeline, part_store=str(toy / 'parts/train_16'),
                      grid=16, num_parts=6)[0, 0]
    assert sample['part_ids'].shape == sample['foreground'].shape == (64,)
    assert sample['inputs'].shape == (3, 64, 64)


def test_pretraining_without_a_part_store_may_crop_the_full_photo(toy):
    load, _, _, crop, flip = steps(0, 64, kind='mmpretrain.RandomResizedCrop')
    sample = data_set(toy / 'imagenet/train', [load, crop, flip])[0, 0]
    assert sample['img'].shape == (64, 64, 3)


class Blur(BaseTransform):
    role = Role.READ  # moves nothing

    def transform(self, results):
        return results


@pytest.mark.parametrize('kind, role', [
    ('semmae.LoadPacked', Role.READ_VIEW), ('RandomResizedCrop', Role.PHOTO_CROP),
    (CenterCrop, Role.CENTER_CROP), ('mmseg.PackSegInputs', Role.PACK), (Blur, Role.READ),
    ('RandomFlip', None), ('semmae.NoSuchStep', None), (type('Other', (CenterCrop,), {}), None)])
def test_the_role_of_a_step_is_that_of_its_class(kind, role):
    assert role_of(dict(type=kind)) is role


def test_a_view_is_the_same_at_any_resolution():
    assert view_of([dict(type=Blur), *steps(224, 224)]) == view_of(steps(224, 224))
    assert view_of(steps(448, 224)) == view_of(steps(224, 224)) == view_of(steps(256, 224)) == [
        'short side resized', 'centre crop of 1.000']


# Real photos

@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    """Ten photos and a store of 28x28: brightness as foreground, its sixths as parts."""
    root = tmp_path_factory.mktemp('photos')
    images = sample_images(SHARED / 'imagenet_sample/train', root / 'images', 10)
    view = steps(448, 224)[:3]
    load, names = Compose(view), list_images(images)
    shown = [load(dict(img_path=str(images / name)))['img'] for name in names]
    bright = np.stack([in_patches(v.mean(-1), np.empty((28, 28))).mean(1) for v in shown])
    ids = (bright.argsort(1).argsort(1) * 6 // bright.shape[1])
    writer = PartStoreWriter(root / 'store', names, dict(
        grid=28, num_parts=6, view=view_of(view)))
    writer.write(0, ids, np.rint(bright).astype(int))
    writer.finish()
    return images, root / 'store'


@pytest.fixture(scope='module')
def crops(photos):
    """(stored ids, results, brightness (196,) of the patches of the crop) of 50 samples."""
    images, store = photos
    data, found = data_set(images, steps(448, 224, 14), part_store=str(store), grid=28), []
    for epoch, index in product(range(5), range(10)):
        results = dict(data[epoch, index], is_mirrored_first=False)
        brightness = in_patches(results['img'].mean(-1), results['part_ids']).mean(1)
        found.append((data.dataset.store[index][0].reshape(28, 28), results, brightness))
    return found


@pytest.mark.shared_data
def test_parts_of_real_photos_are_where_an_independent_warp_puts_them(crops):
    clear = total = 0
    for stored, results, _ in crops:
        wanted, lead = leading(warped(stored, 448, results))
        is_clear = lead > .25
        assert (results['part_ids'].reshape(-1) == wanted)[is_clear].all()
        clear, total = clear + is_clear.sum(), total + is_clear.size
    assert total == 50 * 196 and clear > 5000


@pytest.mark.shared_data
def test_stored_brightness_is_that_of_the_crop_and_not_if_parts_were_not_flipped(crops):
    flipped = [(results['foreground'], light) for _, results, light in crops if results['flip']]
    joint, image_alone = (np.array([np.abs(stored[:, ::step].reshape(-1) - light).mean()
                                    for stored, light in flipped]) for step in (1, -1))
    assert len(joint) > 10 and joint.mean() < 6  # of 255
    assert image_alone.mean() > 4 * joint.mean() and (image_alone > joint).all()


# Misuse

LOAD, RESIZE, CENTER, CROP, FLIP = steps(448, 224, 14)


@pytest.mark.parametrize('pipeline, complaint', [
    ([LOAD, RESIZE, CROP, CENTER], 'RandomResizedCropWithParts without a CenterCrop before it'),
    ([LOAD, CROP], r'the steps are semmae.LoadCenterCrop .*, semmae.RandomResizedCropWithParts'),
    ([LOAD, RESIZE, CENTER, CROP, CENTER], 'CenterCrop after RandomResizedCropWithParts would'),
    ([LOAD, RESIZE, FLIP, CENTER], 'CenterCrop after FlipWithParts would .* in this order'),
    ([LOAD, RESIZE, CENTER, dict(CROP, type='mmpretrain.RandomResizedCrop')],
     r'semmae.RandomResizedCropWithParts \(in place of RandomResizedCrop\)'),
    ([LOAD, RESIZE, CENTER, dict(type='mmpretrain.RandomFlip', prob=.5)],
     r'semmae.FlipWithParts \(in place of RandomFlip\)')])
def test_steps_that_lose_the_part_map_are_refused_with_what_to_do(toy, pipeline, complaint):
    with pytest.raises(ValueError, match=complaint):
        data_set(toy / 'imagenet/train', pipeline, part_store=str(toy / 'parts/train_16'))


def test_a_view_that_is_no_square_is_refused_where_it_has_parts():
    results = dict(img=np.zeros((40, 60, 3), np.uint8), img_path='a.jpg')
    crop = RandomResizedCropWithParts(32)
    assert crop.transform(dict(results))['img'].shape == (32, 32, 3)
    with pytest.raises(ValueError, match='a.jpg: got 60x40 pixels with a part map, expected a s'):
        crop.transform(dict(results, part_ids=np.zeros((8, 8), np.uint8)))


def test_true_parts_refuse_a_random_crop(toy):
    truth = dict(type='semmae.LoadPartTruth')
    with pytest.raises(ValueError, match='expected no flip, no random crop'):
        data_set(toy / 'imagenet/train', [LOAD, RESIZE, CENTER, CROP, truth])
    path = str(toy / 'imagenet/train' / list_images(toy / 'imagenet/train')[0])
    with pytest.raises(ValueError, match='is cropped at random, its true parts are not'):
        Compose([LOAD, RESIZE, CENTER, CROP, truth])(dict(img_path=path))


# Without random steps

def config(*pipeline):
    return Config(dict(train_dataloader=dict(dataset=dict(dataset=dict(pipeline=[*pipeline])))))


def test_without_random_steps_a_crop_leaves_the_view_at_its_own_resolution():
    pack = dict(type='semmae.PackImage')
    plain = [LOAD, dict(RESIZE, scale=224), dict(CENTER, crop_size=224), pack]
    no_grid = dict(CROP, grid=None)
    full = dict(no_grid, type='mmpretrain.RandomResizedCrop')
    assert without_random_steps(config(LOAD, RESIZE, CENTER, no_grid, FLIP, pack)) == plain
    assert without_random_steps(config(LOAD, full, FLIP, pack)) == plain
    assert without_random_steps(config(*plain[:3], FLIP, pack)) == plain
    fast = [dict(type='semmae.LoadCenterCrop', size=224, flip_prob=0.), pack]
    view = dict(fast[0], size=448, flip_prob=.5)
    assert without_random_steps(config(dict(view, size=224), pack)) == fast
    in_one = [dict(type='semmae.LoadCenterCrop', size=224), pack]
    assert without_random_steps(config(view, no_grid, pack)) == in_one
    assert without_random_steps(config(dict(type='semmae.LoadPacked', size=448, cache='c'),
                                       no_grid, FLIP, pack)) == in_one
    for side in (224, (224, 224)):
        crop = dict(type='semmae.LoadRandomResizedCrop', scale=side)
        assert without_random_steps(config(crop, pack)) == in_one
    odd = config(LOAD, dict(RESIZE, scale=320), dict(CENTER, crop_size=300), no_grid)
    with pytest.raises(ValueError, match='which is not the same at the 224 pixels of the crops'):
        without_random_steps(odd)


def test_without_random_steps_the_map_of_a_finer_store_still_gets_the_models_grid(toy):
    images, store = toy / 'imagenet/train', str(toy / 'parts/train_16')
    pipeline = without_random_steps(config(*steps(128, 64, 8)))
    first, again = (data_set(images, pipeline, part_store=store, grid=16)[epoch, 2]
                    for epoch in (0, 1))
    plain = Compose(without_random_steps(config(*steps(64, 64)[:3])))(
        dict(img_path=first['img_path']))
    assert first['part_ids'].shape == (8, 8)
    assert (first['img'] == again['img']).all() and (first['img'] == plain['img']).all()


def test_pictures_of_a_model_trained_on_crops_show_the_plain_view_with_parts_on_its_grid(toy):
    cfg = config(*steps(128, 64, 8), dict(type='semmae.PackImage'))
    cfg.train_dataloader.dataset.dataset.update(part_store=str(toy / 'parts/train_16'), grid=16)
    batch, num_parts = take(cfg, str(toy / 'imagenet/train'), 4, needs_store=True)
    assert batch['inputs'].shape == (4, 3, 64, 64) and batch['part_ids'].shape == (4, 64)
    assert num_parts == 6


def test_a_store_extracted_with_crops_in_the_config_is_that_of_the_plain_view(
        learner, toy, tmp_path):
    base = REPO / 'mm_configs/mini/semmae_parts_mini.py'
    crops = tmp_path / 'crops.py'
    crops.write_text(f"""
_base_ = ['{base}']
train_dataloader = _base_.train_dataloader
_steps = train_dataloader.dataset.dataset.pipeline
_side = _steps[0].size
_steps[0].size = 2 * _side
_steps.insert(1, dict(type='semmae.RandomResizedCropWithParts', scale=_side))
""")
    stores = [extract_parts(LearnerSource(path, learner, 8), toy / 'imagenet/train',
                            tmp_path / path.stem) for path in (base, crops)]
    for a, b in zip(stores[0].arrays(), stores[1].arrays()):
        assert (a == b).all()
    assert stores[0].manifest['view'] == stores[1].manifest['view']
