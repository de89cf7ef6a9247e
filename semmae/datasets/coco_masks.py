"""Masks of COCO-style annotations: polygons and run lengths (RLE). Imports no OpenMMLab.

shape: (H, W), height and width of the image in pixels.
"""
import numpy as np


def mask_of(annotation, shape) -> np.ndarray:
    """bool (H, W) of an annotation: the union of its polygons, or COCO's run lengths (RLE).

    A polygon of two points, which PartImageNet has, stands for the annotation's ``bbox``, as in
    PDiscoFormer (data_sets/part_imagenet.py). Raises ValueError.
    """
    segmentation = annotation['segmentation']
    if isinstance(segmentation, dict):
        return decode_runs(segmentation, shape)
    mask = np.zeros(shape, bool)
    for values in segmentation:
        if len(values) == 4:
            x, y, width, height = annotation['bbox']
            values = [x, y, x + width, y, x + width, y + height, x, y + height]
        mask |= fill_polygon(np.array(values, np.float64).reshape(-1, 2), shape)
    return mask


def fill_polygon(points, shape) -> np.ndarray:
    """bool (H, W): the pixels whose middle is inside a polygon (even-odd rule), ours.

    points: (N, 2) x, y; 0, 0 is the corner of the first pixel. On generated polygons, 0.3% of the
    pixels differ from pycocotools; cv2.fillPoly, which adds the outline, differs in 2.5%.
    """
    if len(points) < 3 or not np.isfinite(points).all():
        raise ValueError(f'got a polygon of {len(points)} points, expected 3 or more finite ones')
    height, width = shape
    (x0, y0), (x1, y1) = points.T, np.roll(points, -1, 0).T
    middle = np.arange(height) + .5
    row, edge = np.nonzero((y0 <= middle[:, None]) != (y1 <= middle[:, None]))
    x = x0[edge] + (middle[row] - y0[edge]) * ((x1 - x0)[edge] / (y1 - y0)[edge])
    flips = np.zeros((height, width + 1), bool)
    np.logical_xor.at(flips, (row, np.ceil(x - .5).clip(0, width).astype(int)), True)
    return np.logical_xor.accumulate(flips, 1)[:, :-1]


def decode_runs(segmentation, shape) -> np.ndarray:
    """bool (H, W) of COCO's run lengths, a list or its compressed text. Raises ValueError."""
    counts = segmentation['counts']
    counts = unpack_runs(counts) if isinstance(counts, str) else counts
    if (tuple(segmentation['size']) != tuple(shape) or min(counts, default=-1) < 0
            or sum(counts) != shape[0] * shape[1]):
        raise ValueError('got run lengths of {} pixels and size {}, expected {}x{}'.format(
            sum(counts), segmentation['size'], *shape))
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(shape[::-1]).T


def unpack_runs(text) -> list:
    """Run lengths of COCO's compressed text: 5 bits a character, differences from the third on.

    Source: rleFrString of cocoapi.
    """
    counts: list[int] = []
    value = shift = 0
    for byte in text.encode('ascii'):
        bits = byte - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= 1 << shift if bits & 16 else 0
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError('got run lengths that end inside a number, expected a whole text')
    return counts
