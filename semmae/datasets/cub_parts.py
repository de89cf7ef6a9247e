"""CUB-200-2011 with bounding boxes and part landmarks, in its published layout."""
from pathlib import Path

import numpy as np
from mmpretrain.datasets import CUB

from ..registry import DATASETS
from .geometry import check_truth_steps
from .layouts import CUB_LISTS


@DATASETS.register_module()
class CUBParts(CUB):
    """mmpretrain's CUB whose samples also carry ``bbox``, ``landmarks`` and ``is_train``.

    split: 'train', 'test', or 'all' for both.
    bbox: (4,) float32, x y width height in pixels of the file.
    landmarks: (number of parts, 3) float32, x y visible (0 or 1) in pixels of the file; 15 parts
        in the original. Row i is ``metainfo['parts'][i]``.
    The classes are those of classes.txt, so a subset may have fewer than the 200 of CUB.
    """

    def __init__(self, data_root, split='train', metainfo=None, **kwargs):
        if split not in ('train', 'test', 'all'):
            raise ValueError(f"split={split!r}, expected 'train', 'test' or 'all'")
        check_truth_steps(kwargs.get('pipeline', ()))
        self.wanted_split = split
        root = Path(data_root).expanduser()
        missing = [name for name in CUB_LISTS if not (root / name).is_file()]
        if missing:
            raise FileNotFoundError(
                f"{root}: has no {', '.join(missing)}; expected CUB-200-2011 as published. Unpack "
                f'CUB_200_2011.tgz there, then run: {check(root)}')
        names = {key: tuple(name for _, name in sorted(read_list(root / path, int, str)))
                 for key, path in (('classes', 'classes.txt'), ('parts', 'parts/parts.txt'))}
        # The parent class accepts two splits only; `load_data_list` reads ``split``.
        super().__init__(data_root=str(root), split='test' if split == 'all' else split,
                         metainfo={**names, **(metainfo or {})}, **kwargs)

    def load_data_list(self):
        root = Path(self.data_root)
        images = dict(read_list(root / 'images.txt', int, str))
        labels = dict(read_list(root / 'image_class_labels.txt', int, int))
        boxes = {i: box for i, *box in read_list(root / 'bounding_boxes.txt', int, *[float] * 4)}
        is_train = dict(read_list(root / 'train_test_split.txt', int, int))
        ids_of = {'train_test_split.txt': set(is_train),
                  'image_class_labels.txt': set(labels), 'bounding_boxes.txt': set(boxes)}
        for name, ids in ids_of.items():
            if ids != set(images):
                raise ValueError(f'{root / name}: got {len(ids)} image ids, expected the '
                                 f'{len(images)} of images.txt. Run: {check(root)}')
        wrong = {label for label in labels.values() if not 0 < label <= len(self.CLASSES)}
        if wrong:
            raise ValueError(f'{root}/image_class_labels.txt: got label {max(wrong)}, expected '
                             f'1..{len(self.CLASSES)} as in classes.txt. Run: {check(root)}')
        landmarks = read_landmarks(root, images, len(self.metainfo['parts']))
        splits = dict(train=[True], test=[False], all=[True, False])[self.wanted_split]
        return [dict(img_path=self.backend.join_path(self.img_prefix, name), gt_label=labels[i] - 1,
                     bbox=np.array(boxes[i], np.float32), landmarks=landmarks[i],
                     is_train=bool(is_train[i]))
                for i, name in images.items() if bool(is_train[i]) in splits]


def read_landmarks(root, images, num_parts):
    """{image id: (num_parts, 3) float32 x, y, visible}; ValueError if an image lacks a part."""
    path = root / 'parts/part_locs.txt'
    landmarks = {i: np.full((num_parts, 3), np.nan, np.float32) for i in images}
    for image, part, x, y, visible in read_list(path, int, int, float, float, float):
        if image not in landmarks or not 0 < part <= num_parts:
            raise ValueError(f'{path}: got part {part} of image {image}, expected parts '
                             f'1..{num_parts} of images in images.txt. Run: {check(root)}')
        landmarks[image][part - 1] = x, y, visible
    short = [i for i, rows in landmarks.items() if np.isnan(rows).any()]
    if short:
        raise ValueError(f'{path}: {len(short)} images lack parts, the first is image {short[0]}; '
                         f'expected {num_parts} rows an image. Run: {check(root)}')
    return landmarks


def read_list(path, *types):
    """Rows of a text file of space-separated columns; the last column may hold spaces."""
    rows = []
    for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1):
        if not line.strip():
            continue
        try:
            rows.append(tuple(t(v) for t, v in zip(
                types, line.strip().split(maxsplit=len(types) - 1), strict=True)))
        except ValueError:
            wanted = ' '.join(t.__name__ for t in types)
            raise ValueError(f'{path}, line {number}: got {line!r}, expected {wanted}. '
                             f'Unpack the file again') from None
    return rows


def check(root):
    """The command that checks the copy at ``root``."""
    return f'python tools/check_data.py cub --root {root.parent}'
