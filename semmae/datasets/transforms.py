"""Transforms that keep an image, its part map and its true parts aligned.

Images are (H, W, 3) uint8 BGR arrays as mmcv loads them, part maps (grid, grid) arrays.
The view is the part of an image that is left after the last step, S x S pixels.
"""
from pathlib import Path

import cv2
import mmcv
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmpretrain.datasets import RandomResizedCrop
from PIL import Image

from ..registry import TRANSFORMS
from .geometry import FULL_VIEW, Role
from .image_files import TURNED, decoding, orientation, read_label_header, require_beside
from .image_reading import read_bytes
from .part_store import PartStore

MAPS = ('part_ids', 'foreground')


def mirror(image, results, prob):
    """The image, mirrored with probability ``prob`` together with the part maps in ``results``."""
    results['flip'] = bool(np.random.rand() < prob)
    if not results['flip']:
        return image
    results['flip_direction'] = 'horizontal'
    for key in MAPS:
        if key in results:
            results[key] = np.ascontiguousarray(results[key][:, ::-1])
    return cv2.flip(image, 1)


@TRANSFORMS.register_module()
class FlipWithParts(BaseTransform):
    """Mirror image and part map together, with probability ``prob`` (paper, Sec. 4.1)."""

    role = Role.FLIP

    def __init__(self, prob=0.5):
        self.prob = prob

    def transform(self, results):
        results['img'] = mirror(results['img'], results, self.prob)
        return results


@TRANSFORMS.register_module()
class RandomResizedCropWithParts(RandomResizedCrop):
    """Crop image and part map together and resize to (scale, scale). Ours; the paper only flips.

    The box is drawn and the image cropped as by mmpretrain, with MAE's ranges. Boxes have 0.2 to 1
    of the area of the view, which part stores cover; MAE crops the full photo. Make the view larger
    than the crop (448 for 224) to keep the resolution of the photo.

    Part maps (old, old) become (grid, grid), or stay (old, old) without ``grid``. A patch of the
    crop gets the part that covers most of it in the stored map (in a tie the lower number) and the
    mean foreground, rounded (ours); this is no longer a permutation of ranks. The part under its
    centre would shift the map by half a patch: from 28x28 to 14x14, each centre is a corner of
    stored patches. A crop of a fifth of the view repeats each stored part about 2.2 times a side,
    so a finer store helps: the data set has the ``grid`` of the store, this step the model's.

    ``results['crop_box']``: left, top, width and height in pixels of the view.
    """

    role = Role.PART_CROP

    def __init__(self, scale, crop_ratio_range=(0.2, 1.0), aspect_ratio_range=(3 / 4, 4 / 3),
                 grid=None, interpolation='bicubic', backend='pillow'):
        super().__init__(scale, crop_ratio_range, aspect_ratio_range,
                         interpolation=interpolation, backend=backend)
        self.grid = grid

    def transform(self, results):
        image, found = results['img'], [key for key in MAPS if key in results]
        sides = image.shape[:2]
        if found and sides[0] != sides[1]:
            raise ValueError(
                f"{results.get('img_path', 'an image')}: got {sides[1]}x{sides[0]} pixels with a "
                'part map, expected a square. Put mmpretrain.ResizeEdge and mmpretrain.CenterCrop '
                'before semmae.RandomResizedCropWithParts')
        top, left, height, width = self.rand_crop_params(image)
        results['img'] = mmcv.imresize(
            image[top:top + height, left:left + width], tuple(self.scale[::-1]),
            interpolation=self.interpolation, backend=self.backend)
        results['img_shape'] = results['img'].shape[:2]
        results['crop_box'] = left, top, width, height
        for key in found:
            old = len(results[key])
            down, across = (coverage(*line, sides[0], old, self.grid or old)
                            for line in ((top, height), (left, width)))
            resample = most_of if key == 'part_ids' else mean_of
            results[key] = resample(results[key], down, across)
        return results


def coverage(start, size, side, old, new):
    """(new, old) float64: how much of each old piece each of ``new`` equal pieces covers.

    The new pieces divide the segment [start, start + size), the ``old`` ones the whole line of
    ``side`` pixels. Whole numbers in units of 1 / (old * new) pixel, so ties are exact.
    """
    mine = (start * new + size * np.arange(new + 1)) * old
    stored = side * new * np.arange(old + 1)
    low = np.maximum(mine[:-1, None], stored[:-1])
    return (np.minimum(mine[1:, None], stored[1:]) - low).clip(0).astype(np.float64)


def most_of(ids, down, across):
    """(new, new): the id with most of the area of each new patch, the lower one in a tie.

    ids: (old, old). down, across: (new, old) of `coverage`, for rows and columns.
    """
    present = np.unique(ids)
    areas = down @ (ids == present[:, None, None]).astype(np.float64) @ across.T
    return present[areas.argmax(0)]


def mean_of(scores, down, across):
    """(new, new): mean of scores (old, old) over the area of each new patch, in their type."""
    area = down.sum(1)[:, None] * across.sum(1)
    return np.rint(down @ scores.astype(np.float64) @ across.T / area).astype(scores.dtype)


@TRANSFORMS.register_module()
class LoadParts(BaseTransform):
    """Add the parts of an image from a part store of the full view, for other libraries' data sets.

    store: the part store. root: the folder that its relative paths start from.
    foreground: the ranking of patches that the store must have.
    """

    def __init__(self, store, root, grid=None, foreground=None):
        self.root = Path(root)
        self.store = PartStore(store)
        self.store.require(grid=grid, view=list(FULL_VIEW), foreground=foreground)
        self.index = {name: i for i, name in enumerate(self.store.images())}

    def transform(self, results):
        path = Path(results['img_path'])
        name = path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else None
        if name not in self.index:
            raise ValueError(f'{path} is not among the {len(self.store)} images below {self.root} '
                             f'of the part store {self.store.root}. '
                             f'{self.store.command()}')
        results.update(zip(MAPS, self.store.maps(self.index[name])))
        return results


@TRANSFORMS.register_module()
class FlattenParts(BaseTransform):
    """Part maps (grid, grid) -> (L,), the order of the patches of a ViT."""

    def transform(self, results):
        for key in MAPS:
            if key in results:
                results[key] = results[key].reshape(-1)
        return results


@TRANSFORMS.register_module()
class LoadPartTruth(BaseTransform):
    """True parts of the view, as ``results['truth']``, which `PackImage` packs.

    Put it after LoadCenterCrop (or ResizeEdge and CenterCrop) and before PackImage. The truth is in
    pixels of the file, so an image that its EXIF tag would turn is refused.

    From ``label_path`` (`PartDataset`) or ``part_label_map`` (`PartImageNet`, `PascalPart`):
        part_labels (S, S) uint8, the nearest label of the file.
    From ``landmarks`` (`CUBParts`): landmarks (K, 3) float32, x, y in units of the view, visible;
        0, 0, 0 where not visible or outside. In the file, 0, 0 is the middle of the first pixel.
    From ``bbox``: bbox (4,) float32 x, y, width, height clipped to the view, in its units (width or
        height 0 if outside), and box_size (2,), width and height before clipping. In the file, 0, 0
        is the corner of the first pixel.
    ``is_train`` is copied.
    """

    role = Role.TRUTH

    def transform(self, results):
        path, (height, width) = results['img_path'], results['ori_shape'][:2]
        require_upright(path)
        if results.get('flip'):
            raise ValueError(f'{path} is mirrored, its true parts are not. Remove the flip from '
                             'the pipeline, or set flip_prob=0.')
        if 'crop_box' in results:
            raise ValueError(f'{path} is cropped at random, its true parts are not. Remove '
                             'semmae.RandomResizedCropWithParts from the pipeline')
        corner, resized, side = self.geometry(results)
        truth = {key: results[key] for key in ('is_train',) if key in results}
        labels = results.get('part_label_map')
        if 'label_path' in results:
            labels = read_labels(results['label_path'])
            require_beside(labels.shape[::-1], results['label_path'], (width, height), path, False)
        if labels is not None:
            # The pixel of the file under the middle of each pixel of the view, in integers.
            x, y = ((2 * (np.arange(side) + first) + 1) * old // (2 * new)
                    for first, old, new in zip(corner, (width, height), resized))
            truth['part_labels'] = labels[y[:, None], x]
        scale = np.divide(resized, (width, height))
        if 'landmarks' in results:
            points = results['landmarks'].astype(np.float64)
            points[:, :2] = ((points[:, :2] + .5) * scale - corner) / side
            points = points.astype(np.float32)
            inside = ((points[:, :2] >= 0) & (points[:, :2] < 1)).all(1) & (points[:, 2] > 0)
            truth['landmarks'] = points * inside[:, None]
        if 'bbox' in results:
            low, size = np.split(results['bbox'].astype(np.float64), 2)
            ends = (np.stack([low, low + size]) * scale - corner) / side
            cut = ends.clip(0, 1)
            truth['bbox'] = np.concatenate([cut[0], cut[1] - cut[0]]).astype(np.float32)
            truth['box_size'] = (ends[1] - ends[0]).astype(np.float32)
        if not truth.keys() - {'is_train'}:
            raise ValueError(f'{path}: has neither label_path nor landmarks nor bbox. Use '
                             'semmae.PartDataset with label_root, semmae.PartImageNet, '
                             'semmae.PascalPart or semmae.CUBParts')
        results['truth'] = truth
        return results

    @staticmethod
    def geometry(results):
        """Corner of the view (x, y) in the resized image, that image's (width, height), and S."""
        (height, width), shape = results['ori_shape'][:2], results['img_shape'][:2]
        is_known = 'scale_factor' in results or shape == (height, width)
        across, down = results.get('scale_factor', (1., 1.))
        resized = round(width * across), round(height * down)
        if not is_known or shape[0] != shape[1] or shape[0] > min(resized):
            raise ValueError(
                f"{results['img_path']}: got a view of {shape[1]}x{shape[0]} pixels of an image "
                f'resized to {resized[0]}x{resized[1]}, expected a square inside it. Put '
                'semmae.LoadCenterCrop, or mmpretrain.ResizeEdge and mmpretrain.CenterCrop, before '
                'semmae.LoadPartTruth')
        # mmcv's CenterCrop rounds a half to the even number.
        return [round((full - shape[0]) / 2) for full in resized], resized, shape[0]


def require_upright(path):
    """ValueError if reading would turn or mirror the image, since its truth is not turned."""
    with Image.open(path) as image:
        turn = orientation(image)
    if turn in TURNED:
        raise ValueError(f'{path} is turned by its EXIF tag (orientation {turn}), its true parts '
                         'are not. Save the image again without the tag, oriented as the labels')


def read_labels(path):
    """(H, W) uint8 of a label map; palette images give their indices."""
    content = read_bytes(str(path))
    labels = read_label_header(content, path)
    with decoding(path):
        return np.array(labels)


@TRANSFORMS.register_module()
class PackImage(BaseTransform):
    """The input of a pre-training model: inputs (3, H, W) uint8 RGB, parts, and mask noise.

    The truth of `LoadPartTruth` is packed under its own names.

    num_noise: how many uniform numbers a sample gets for its mask (`semmae.models.masking`); None:
        as many as the data set says (`PartDataset`).
    """

    role = Role.PACK

    def __init__(self, num_noise=None):
        self.num_noise = num_noise

    def transform(self, results):
        image = np.ascontiguousarray(results['img'][..., ::-1].transpose(2, 0, 1))
        packed = dict(inputs=torch.from_numpy(image), sample_idx=results['sample_idx'])
        for key in MAPS:
            if key in results:
                packed[key] = torch.from_numpy(np.ascontiguousarray(results[key])).flatten()
        for key, value in results.get('truth', {}).items():
            packed[key] = torch.as_tensor(value)
        num_noise = results.get('num_noise', 0) if self.num_noise is None else self.num_noise
        if num_noise:
            packed['noise'] = torch.rand(num_noise)
        return packed
