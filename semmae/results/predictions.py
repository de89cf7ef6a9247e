"""The stored prediction for each image of an evaluation: reading, checks, recomputed metrics.

One ``.npz`` file of plain arrays for each evaluation. N images, C classes; ``images`` (N,) holds
their paths below the folder of the data set, and

    classification  labels (N,) int64, predicted (N,) int64, score (N,) of the predicted class
    segmentation    pixel counts (N, C) int64: label, predicted, intersection; ignored (N,);
                    confused (M, 4) int64: number of the image, true class, predicted class and
                    pixels of each pair of two classes; files of earlier versions lack it

``predicted`` leaves ignored pixels out, as the metric does. For a segmentation the folder of the
same name holds the label maps, ``NAME.png`` for each image, values 0 to C - 1.
"""
from pathlib import Path
from typing import Any

import numpy as np

Stored = dict[str, np.ndarray[Any, Any]]

# {array: (number of dimensions, kinds of numpy's dtype)}
Arrays = dict[str, tuple[int, str]]
CLASSIFICATION: Arrays = dict(images=(1, 'U'), labels=(1, 'iu'), predicted=(1, 'iu'))
SEGMENTATION: Arrays = dict(images=(1, 'U'), label=(2, 'iu'), predicted=(2, 'iu'),
                            intersection=(2, 'iu'))
PAIRS = 'confused'  # the only array without a row for each image


def read_predictions(path: str | Path) -> Stored:
    """The arrays of a file of predictions. Raises ValueError for any other file."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'no predictions at {path}; evaluate again with tools/test.py')
    try:
        with np.load(path, allow_pickle=False) as stored:
            found = dict(stored)
        # numpy returns members that are not arrays as bytes.
        if other := [name for name, array in found.items() if not isinstance(array, np.ndarray)]:
            raise ValueError(f'{other[0]} is not an array')
    except Exception as error:  # of zip, zlib, numpy's header and Python's parser
        raise ValueError(f'{path} holds no predictions: {error}') from error
    if not any(_fits(found, wanted) for wanted in (CLASSIFICATION, SEGMENTATION)):
        raise ValueError(f'{path} holds the arrays {sorted(found)}, expected images and, for each, '
                         'labels and predicted, or counts of pixels')
    if PAIRS in found and not _are_pairs(found):
        raise ValueError(f'{path} holds no predictions: expected four columns in {PAIRS}: image, '
                         'true class, predicted class, pixels')
    return found


def _fits(found: Stored, wanted: Arrays) -> bool:
    """Whether the arrays are there, with the right type and a row for each image."""
    return all(name in found and found[name].ndim == ndim and found[name].dtype.kind in kinds
               and len(found[name]) == len(found['images']) > 0
               for name, (ndim, kinds) in wanted.items())


def _are_pairs(found: Stored) -> bool:
    pairs = found[PAIRS]
    if pairs.ndim != 2 or pairs.shape[1] != 4 or pairs.dtype.kind not in 'iu':
        return False
    number, classes = found['intersection'].shape if 'intersection' in found else (0, 0)
    return bool((pairs >= 0).all() and (pairs[:, :3] < (number, classes, classes)).all())


def recount(predictions: Stored) -> dict[str, float]:
    """{metric: percent} of predictions: top1 of a classification, mIoU, mAcc and aAcc of pixels.

    Means leave out a class without labelled and predicted pixels, as in mmseg's IoUMetric.
    """
    if 'intersection' not in predictions:
        return dict(top1=100 * np.mean(predictions['predicted'] == predictions['labels']))
    hit, predicted, label = (predictions[k].sum(0).astype(float)
                             for k in ('intersection', 'predicted', 'label'))
    with np.errstate(invalid='ignore', divide='ignore'):
        return dict(mIoU=100 * np.nanmean(hit / (predicted + label - hit)),
                    mAcc=100 * np.nanmean(hit / label), aAcc=100 * hit.sum() / label.sum())


def confused_pixels(predicted: np.ndarray[Any, Any], label: np.ndarray[Any, Any],
                    ignore_index: int = 255) -> np.ndarray[Any, Any]:
    """(K, 3) int64 true class, predicted class and pixels, for the wrong pixels of one image."""
    wrong = (label != ignore_index) & (label != predicted)
    pairs, pixels = np.unique(np.stack([label[wrong], predicted[wrong]], 1), axis=0,
                              return_counts=True)
    return np.column_stack([pairs, pixels]).astype(np.int64).reshape(-1, 3)


def stacked(rows: list[dict[str, Any]]) -> Stored:
    """The arrays of a file, from a dict for each image."""
    arrays = {key: np.array([row[key] for row in rows]) for key in rows[0] if key != PAIRS}
    if PAIRS in rows[0]:
        arrays[PAIRS] = np.concatenate([
            np.insert(row[PAIRS], 0, number, axis=1) for number, row in enumerate(rows)])
    return arrays


def pixel_counts(predicted: np.ndarray[Any, Any], label: np.ndarray[Any, Any], num_classes: int,
                 ignore_index: int = 255) -> dict[str, Any]:
    """Counts of `read_predictions` for one image: predicted and label are (H, W) integers.

    Raises ValueError for values that are not classes, except ``ignore_index`` in ``label``: mmseg's
    metric drops such pixels silently.
    """
    if predicted.shape != label.shape:
        raise ValueError(f'got {predicted.shape} predicted and {label.shape} labelled pixels, '
                         'expected the same')
    counted = label != ignore_index
    for name, values in dict(label=label[counted], predicted=predicted).items():
        if values.size and not 0 <= values.min() <= values.max() < num_classes:
            raise ValueError(f'got values {values.min()} to {values.max()} ({name}), expected 0 '
                             f'to {num_classes - 1}, or {ignore_index} for ignored pixels. '
                             'Check num_classes, reduce_zero_label and the label maps '
                             '(tools/check_data.py)')
    p, t = predicted[counted], label[counted]
    return dict(label=np.bincount(t, minlength=num_classes),
                predicted=np.bincount(p, minlength=num_classes),
                intersection=np.bincount(t[p == t], minlength=num_classes),
                ignored=np.int64(label.size - counted.sum()))
