"""PartImageNet with its part label maps, from its COCO-style annotation files."""
from mmpretrain.datasets import BaseDataset

from ..registry import DATASETS
from .geometry import check_truth_steps
from .part_annotations import box_of, part_image_net_map, read_part_image_net


@DATASETS.register_module()
class PartImageNet(BaseDataset):
    """Images of a split of PartImageNet that have annotated parts.

    split: 'train', 'val' or 'test', of PartImageNet_Seg or PartImageNet_OOD.
    gt_label: the super-category (Quadruped, Biped, ...) of the first annotation.
    part_label_map: (H, W) uint8 in pixels of the file, 0 for background, else the label of a part,
        whose name is ``metainfo['parts'][label - 1]``; 40 parts in the original. A later annotation
        covers earlier ones. No label is ignored.
    bbox: (4,) float32, x y width height around all parts.
    The map and the box are decoded for a sample, not for `get_data_info`.
    """

    def __init__(self, data_root, split='train', **kwargs):
        if split not in ('train', 'val', 'test'):
            raise ValueError(f"split={split!r}, expected 'train', 'val' or 'test'")
        check_truth_steps(kwargs.get('pipeline', ()))
        self.split = split
        super().__init__(ann_file='', data_root=str(data_root), test_mode=split != 'train',
                         **kwargs)

    def load_data_list(self):
        images, parts = read_part_image_net(self.data_root, self.split)
        classes = tuple(dict.fromkeys(super_category for super_category, _ in parts))
        self._metainfo.update(classes=classes, parts=tuple(name for _, name in parts))
        class_of = {label: classes.index(name) for label, (name, _) in enumerate(parts, 1)}
        return [dict(img_path=image['path'], annotated=image,
                     gt_label=class_of[image['annotations'][0]['label']])
                for image in images if image['annotations']]

    def prepare_data(self, idx):
        info = self.get_data_info(idx)
        labels = part_image_net_map(info.pop('annotated'))
        return self.pipeline(dict(info, part_label_map=labels, bbox=box_of(labels)))
