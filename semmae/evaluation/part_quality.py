"""Measures of part quality as functions on arrays, for `semmae.evaluation.metrics`.

L = grid x grid patches, row by row; P parts; K labels or landmarks; S pixels a side; N images.
counts: (P, K) integers, the number of patches (or landmarks) of each part with each label.
x, y, width, height are in units of the view: 0 is its left or top edge, 1 its right or bottom.
"""
import math

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.special import entr
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.metrics import mutual_info_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def side_of(length):
    """grid, where ``length`` = grid x grid, or ValueError."""
    grid = math.isqrt(length)
    if grid * grid != length:
        raise ValueError(f'got {length} patches, expected a square grid of them')
    return grid


def patch_labels(labels, grid):
    """Label of each patch (L,) int64: the label of most of its pixels, the lowest in a tie.

    labels: (S, S) integers >= 0, S >= grid, else ValueError. Pixel (y, x) belongs to patch
    (y * grid // S, x * grid // S).
    """
    side = labels.shape[0]
    if labels.shape != (side, side) or side < grid:
        raise ValueError(f'got a label map of shape {labels.shape}, expected (S, S) with at '
                         f'least the {grid} pixels a side that {grid}x{grid} patches need')
    at = np.arange(side) * grid // side
    num = int(labels.max()) + 1
    votes = (at[:, None] * grid + at) * num + labels
    return np.bincount(votes.ravel(), minlength=grid ** 2 * num).reshape(-1, num).argmax(1)


def count_matrix(part_ids, labels, num_parts):
    """counts (P, highest label + 1) of two vectors of ids, 0 for absent ids."""
    num = int(labels.max(initial=0)) + 1
    return np.bincount(part_ids * num + labels, minlength=num_parts * num).reshape(-1, num)


def add_matrices(matrices):
    """Sum of counts (P, K) of different P and K, each padded with zeros."""
    total = np.zeros(np.max([m.shape for m in matrices], axis=0), np.int64)
    for matrix in matrices:
        total[:matrix.shape[0], :matrix.shape[1]] += matrix
    return total


def adjusted_rand(counts):
    """Adjusted Rand index, equal to sklearn's ``adjusted_rand_score`` of the single patches.

    In Python's integers: the products of pairs of millions of patches exceed 64 bits.
    """
    both, parts, labels, every = (
        int((n * (n - 1) // 2).sum()) for n in map(np.int64, (
            counts, counts.sum(1), counts.sum(0), counts.sum())))
    if both == parts == labels:  # the same partition, or one part and one label
        return 1.
    chance = parts * labels
    return 2 * (both * every - chance) / ((parts + labels) * every - 2 * chance)


def normalized_mutual_info(counts):
    """Mutual information over the mean of the two entropies, equal to sklearn's."""
    counts = counts[counts.any(1)][:, counts.any(0)]
    if counts.shape == (1, 1):
        return 1.
    entropies = [entr(counts.sum(axis) / counts.sum()).sum() for axis in (0, 1)]
    return float(mutual_info_score(None, None, contingency=counts) / np.mean(entropies))


def matched_iou(counts):
    """IoU of each label with its part, mean over the labels that occur.

    Parts are assigned to labels one to one with the largest sum (Hungarian method). A label without
    a part counts 0.
    """
    counts = counts[:, counts.any(0)]
    union = counts.sum(1, keepdims=True) + counts.sum(0) - counts
    iou = counts / union
    return float(iou[linear_sum_assignment(iou, maximize=True)].sum() / counts.shape[1])


def centres(grid):
    """x, y of the centre of each patch, (L, 2)."""
    y, x = (np.mgrid[:grid, :grid] + .5) / grid
    return np.stack([x.ravel(), y.ravel()], 1)


def patch_at(points, grid):
    """Index of the patch under each point: (..., 2) x, y in [0, 1] -> (...) int64."""
    x, y = np.moveaxis(np.minimum((np.asarray(points) * grid).astype(np.int64), grid - 1), -1, 0)
    return y * grid + x


def patches_in_box(box, grid):
    """bool (L,), True where the centre of a patch is in the box (4,) x, y, width, height."""
    low, size = np.split(np.asarray(box, np.float64), 2)
    at = centres(grid)
    return ((at >= low) & (at < low + size)).all(1)


def centroids(part_ids, num_parts, grid):
    """x, y of the centroid of each part (P, 2); NaN for a part without a patch."""
    is_part = part_ids == np.arange(num_parts)[:, None]
    size = is_part.sum(1, keepdims=True).astype(float)
    size[size == 0] = np.nan
    return is_part @ centres(grid) / size


def object_patches(part_ids, num_parts, grid):
    """bool (L,), True where the part of a patch is classified as object (ours; without labels).

    A part is background in an image if its share of the patches at the border is larger than its
    share of the patches inside. Raises ValueError for a grid below 3.
    """
    if grid < 3:
        raise ValueError(f'got {grid}x{grid} patches, expected 3x3 or more')
    is_border = np.ones((grid, grid), bool)
    is_border[1:-1, 1:-1] = False
    is_border = is_border.ravel()
    border, inside = (np.bincount(part_ids[chosen], minlength=num_parts) / chosen.sum()
                      for chosen in (is_border, ~is_border))
    return (border <= inside)[part_ids]


def iou(a, b):
    """Intersection over union of two bool vectors, not both all False."""
    return float((a & b).sum() / (a | b).sum())


def landmark_errors(part_centroids, landmarks, box_size, is_train, ridge):
    """(errors (M,), baseline errors (M,), number left out) of the visible test landmarks.

    part_centroids: (N, P, 2), NaN where absent. landmarks: (N, K, 3) x, y, visible.
    box_size: (N, 2). is_train: (N,) bool. ridge: penalty on standardised features, per image.
    Each landmark is predicted by a ridge regression from all centroids and 0/1 presences of the
    parts, fitted on the training images that show it. An absent part is at its mean over all
    training images. The baseline predicts the training mean of the landmark. Distances are divided
    by the square root of the area of the box. Landmarks that no training image shows are left out.
    """
    flat = part_centroids.reshape(len(part_centroids), -1)
    absent_at = SimpleImputer(keep_empty_features=True).fit(flat[is_train])
    features = np.hstack([absent_at.transform(flat), ~np.isnan(part_centroids[..., 0])])
    scale = np.sqrt(box_size.prod(1, keepdims=True))
    errors: list[np.ndarray] = []
    floors: list[np.ndarray] = []
    unseen = 0
    for points in np.moveaxis(landmarks.astype(np.float64), 1, 0):
        visible = points[:, 2] > 0
        fit, test = visible & is_train, visible & ~is_train
        if not fit.any() or not test.any():
            unseen += int(test.sum())
            continue
        model = make_pipeline(StandardScaler(), Ridge(alpha=ridge * fit.sum()))
        model.fit(features[fit], points[fit, :2])
        for found, guess in ((errors, model.predict(features[test])),
                             (floors, points[fit, :2].mean(0))):
            found.append(np.linalg.norm((guess - points[test, :2]) / scale[test], axis=1))
    return *(np.concatenate(found or [np.zeros(0)]) for found in (errors, floors)), unseen
