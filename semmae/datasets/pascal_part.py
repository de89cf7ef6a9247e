"""Pascal-Part with its part label maps, from its .mat files beside VOC 2010."""
from pathlib import Path

from mmpretrain.datasets import BaseDataset

from ..registry import DATASETS
from .geometry import check_truth_steps
from .part_annotations import PASCAL_CLASSES, PASCAL_LABELS, list_pascal_part, read_pascal_part


@DATASETS.register_module()
class PascalPart(BaseDataset):
    """Images of a split of VOC 2010 with the objects and parts of Pascal-Part.

    data_root: VOCdevkit/VOC2010 with JPEGImages, ImageSets/Main and Annotations_Part.
    split: 'train', 'val' or 'trainval'.
    gt_label: the VOC class of the largest object, 0 to 19.
    part_label_map: (H, W) uint8 in pixels of the file, 0 for background, else a label of one part
        of one class, whose name is ``metainfo['parts'][label - 1]``. Pixels of an object outside
        all its parts have a label of their own, named as the class. Left and right parts differ as
        published; parts that are only counted (wheel_1, wheel_2) are one. A later object or part
        covers earlier ones. No label is ignored.
    bbox: (4,) float32, x y width height around the largest object.
    Label, map and box are read for a sample, not for `get_data_info`.
    """

    METAINFO = dict(classes=PASCAL_CLASSES,
                    parts=tuple(' '.join(filter(None, label)) for label in PASCAL_LABELS))

    def __init__(self, data_root, split='train', **kwargs):
        if split not in ('train', 'val', 'trainval'):
            raise ValueError(f"split={split!r}, expected 'train', 'val' or 'trainval'")
        check_truth_steps(kwargs.get('pipeline', ()))
        self.split = split
        super().__init__(ann_file='', data_root=str(data_root), test_mode=split == 'val', **kwargs)

    def load_data_list(self):
        return [dict(img_path=str(Path(self.data_root) / f'JPEGImages/{name}.jpg'), name=name)
                for name in list_pascal_part(self.data_root, self.split)]

    def prepare_data(self, idx):
        info = self.get_data_info(idx)
        found = read_pascal_part(self.data_root, info.pop('name'))
        return self.pipeline(dict(info, gt_label=found['label'], part_label_map=found['labels'],
                                  bbox=found['bbox']))
