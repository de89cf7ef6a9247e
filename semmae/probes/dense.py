"""Patches and pixels: labels of patches, batches of images, predictions at full resolution.

N images, L = h x w patches, D channels, C classes, H x W pixels of a label map.

The encoder saw the whole image, resized to the grid without keeping the aspect ratio. So patch
(r, c) covers the same relative area of the image and of its label map: pixel (y, x) belongs to
patch (floor(y h / H), floor(x w / W)). Any label map with a pixel for each patch can be used.
Ignored pixels count neither in training nor in a metric.
"""
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch.nn import functional as F

from ..progress_bar import track
from ..results.predictions import pixel_counts, recount
from .features import Features, Task
from .standard import Standard, chunks

IMAGES = 16  # images that are read at a time
UPSAMPLED = 2 ** 22  # numbers that are upsampled at a time: 16 MiB, the fastest on a CPU

Scores = Callable[[torch.Tensor], torch.Tensor]  # of tokens


def patch_counts(label_map: np.ndarray, grid: tuple[int, int], num_classes: int,
                 ignore_index: int) -> np.ndarray:
    """(L, C) int64 number of pixels of each class in each patch, without ignored pixels.

    Raises ValueError for a map with fewer rows or columns than the grid, and for a value that is
    neither a class nor ``ignore_index``.
    """
    kept = label_map != ignore_index
    labels = label_map[kept].astype(np.int64)
    if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(f'got labels {labels.min()} to {labels.max()}, expected 0 to '
                         f'{num_classes - 1}, or {ignore_index} for ignored pixels')
    cells = patch_of_pixel(label_map.shape, grid)[kept]
    length = grid[0] * grid[1]
    return np.bincount(cells * num_classes + labels, minlength=length * num_classes).reshape(
        length, num_classes)


def patch_of_pixel(shape: tuple[int, ...], grid: tuple[int, int]) -> np.ndarray:
    """(H, W) int64 number of the patch of each pixel, row by row."""
    if len(shape) != 2 or shape[0] < grid[0] or shape[1] < grid[1]:
        raise ValueError(f'got a label map of shape {tuple(shape)}, expected two dimensions with '
                         f'at least {grid[0]} x {grid[1]} pixels, one for each patch')
    (rows, columns) = (np.arange(size) * cells // size for size, cells in zip(shape, grid))
    return rows[:, None] * grid[1] + columns


def patch_labels(label_map: np.ndarray, grid: tuple[int, int], num_classes: int,
                 ignore_index: int) -> np.ndarray:
    """(L, C) float32 share of each class among the pixels of a patch that are not ignored.

    Rows sum to 1, or to 0 where all pixels are ignored. Raises as `patch_counts` does.
    """
    return shares(patch_counts(label_map, grid, num_classes, ignore_index))


def shares(areas: np.ndarray) -> np.ndarray:
    """float32 rows divided by their sums; rows of zeros stay."""
    total = areas.sum(1, keepdims=True)
    return (areas / np.where(total, total, 1)).astype(np.float32)


def patch_areas(data: Features, index: np.ndarray, task: Task) -> sparse.csr_array:
    """(n x L, C) float32 labelled area of each class in the patches of the images ``index``.

    1 is the mean area of a patch of its image. So images of any size weigh the same, and a patch
    weighs by its pixels that are not ignored. Sparse: most patches have one class.
    Raises ValueError for another task, wrong labels, or images without a labelled pixel.
    """
    if task.kind != 'segmentation' or 0 <= task.ignore_index < task.num_classes:
        raise ValueError(f'got a {task.kind} task of {task.num_classes} classes with ignore_index '
                         f'{task.ignore_index}, expected a segmentation and an ignore_index that '
                         'is not a class')
    rows = []
    for i in track(index, 'labels'):
        label_map = np.asarray(data.labels[i])
        try:
            counts = patch_counts(label_map, data.grid, task.num_classes, task.ignore_index)
        except ValueError as error:
            raise ValueError(f'{data.names[i]}: {error}') from error
        rows.append(sparse.csr_array((counts * (len(counts) / label_map.size)).astype(np.float32)))
    if not sum(row.nnz for row in rows):
        raise ValueError(f'got {len(index)} images without a labelled pixel, expected labels')
    return sparse.vstack(rows, format='csr')


def patch_rows(data: Features, layer: int, index: np.ndarray, kept: np.ndarray
               ) -> Callable[[np.ndarray], torch.Tensor]:
    """A reader of patch tokens: positions in ``index`` -> (n, D), only the patches ``kept``.

    kept: (len(index) x L,) bool.
    """
    by_image = torch.from_numpy(kept.reshape(len(index), -1))
    return lambda at: data.tokens(layer, 'patches', index[at])[by_image[at]]


def standard_patches(data: Features, layer: int, index: np.ndarray, kept: np.ndarray, device: str
                     ) -> Standard:
    """Statistics of the patches ``kept`` (len(index) x L,) of the images ``index``."""
    return Standard.of(patch_rows(data, layer, index, kept), np.arange(len(index)), IMAGES, device)


def full_resolution(scores: torch.Tensor, grid: tuple[int, int], shape: tuple[int, ...]
                    ) -> torch.Tensor:
    """(H, W) int64: scores (L, C) upsampled bilinearly (align_corners=False), then the best class.

    Upsamples some classes at a time, so that memory stays bounded for large images.
    """
    maps = scores.T.reshape(-1, *grid)
    step = max(1, UPSAMPLED // (shape[0] * shape[1]))
    best, label = upsample(maps[:step], shape).max(0)
    for start in range(step, len(maps), step):
        value, found = upsample(maps[start:start + step], shape).max(0)
        label = torch.where(value > best, found + start, label)
        best = torch.maximum(value, best)
    return label


def upsample(maps: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Maps (n, h, w) upsampled bilinearly to (n, H, W), align_corners=False."""
    return F.interpolate(maps[None], size=tuple(shape), mode='bilinear', align_corners=False)[0]


def predict_maps(data: Features, layer: int, index: np.ndarray, scores_of: Scores
                 ) -> Iterator[torch.Tensor]:
    """(H, W) int64 classes of each image, from the scores (n, L, C) of its patches.

    Raises ValueError for scores with NaN, of a setting that diverged.
    """
    for part in chunks(index, IMAGES):
        for i, scores in zip(part, scores_of(data.tokens(layer, 'patches', part))):
            if scores.isnan().any():
                raise ValueError(f'{data.names[i]}: the prediction is NaN, expected finite scores; '
                                 'lower the learning rate of the probe')
            yield full_resolution(scores, data.grid, np.shape(data.labels[i])).cpu()


def score_layers(groups: dict[Any, list[int]], data: Features, index: np.ndarray, task: Task,
                 scores_of: Callable[[Any], Scores]) -> list[float]:
    """mIoU in percent of each setting: the best class of a patch against its largest class.

    Minus infinity for a setting that diverged. A patch without a label is ignored. A cheap measure
    to choose a setting; results are measured at full resolution.
    groups: {layer: numbers of its settings}. scores_of(layer): tokens (n, L, D) -> (S, n, L, C).
    """
    areas = patch_areas(data, index, task)
    truth = np.where(areas.sum(1) > 0, areas.argmax(1), task.ignore_index)
    miou: dict[int, float] = {}
    for layer, numbers in groups.items():
        of_layer = scores_of(layer)
        counts: dict[int, list[Any]] = {number: [] for number in numbers}
        of_images = chunks(truth.reshape(len(index), -1), IMAGES)
        for part in track(chunks(index, IMAGES), 'choosing', len(index), size=len):
            of_part = next(of_images)
            for number, scores in zip(numbers, of_layer(data.tokens(layer, 'patches', part))):
                found = scores.argmax(-1).cpu().numpy()
                counts[number].append(None if scores.isnan().any() else pixel_counts(
                    found, of_part, task.num_classes, task.ignore_index))
        miou |= {number: -math.inf if None in of_setting else recount(
            {name: np.stack([count[name] for count in of_setting]) for name in of_setting[0]}
        )['mIoU'] for number, of_setting in counts.items()}
    return [float(miou[number]) for number in range(len(miou))]
