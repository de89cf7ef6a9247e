"""Stanford Cars, 196 models, from either layout of its annotation files."""
from pathlib import Path

import mmpretrain.datasets
from mmpretrain.datasets import BaseDataset

from ..registry import DATASETS
from .layouts import read_cars


@DATASETS.register_module()
class StanfordCars(BaseDataset):
    """The 8,144 training or 8,041 test images with labels 0 to 195, in the order of the file.

    mmpretrain's class reads only one of the layouts of `read_cars`. split: 'train' or 'test'.
    """

    METAINFO = mmpretrain.datasets.StanfordCars.METAINFO

    def __init__(self, data_root, split='train', **kwargs):
        if split not in ('train', 'test'):
            raise ValueError(f"split is {split!r}, expected 'train' or 'test'")
        self.split = split
        super().__init__(ann_file='', data_root=str(data_root), test_mode=split == 'test', **kwargs)

    def load_data_list(self):
        root = Path(self.data_root)
        return [dict(img_path=str(root / name), gt_label=label - 1)
                for name, label in read_cars(root, self.split)]
