"""Images with their parts, for part learning and pre-training. No labels are read."""
from collections import Counter
from pathlib import Path

from mmengine.dataset import BaseDataset

from ..registry import DATASETS
from .geometry import check_truth_steps, view_of
from .part_store import PartStore, list_images


@DATASETS.register_module()
class PartDataset(BaseDataset):
    """All images below ``data_root``, sorted by relative path.

    part_store: folder made by tools/extract_parts.py for the same images, or None. With one, a
        sample carries ``part_ids`` and ``foreground``, (grid, grid) uint8 arrays.
    grid, num_parts: those that the store must have, normally the model's. With
        `RandomResizedCropWithParts`, the store may have a finer grid than the model. With a grid, a
        sample gets grid**2 + num_parts numbers for its mask; the mask uses as many as it needs.
    label_root: folder of label maps, or None. With one, a sample carries ``label_path``, the file
        of the same relative path ending in .png; `semmae.LoadPartTruth` reads it.
    """

    def __init__(self, data_root, pipeline=(), part_store=None, grid=None, num_parts=None,
                 foreground=None, label_root=None, **kwargs):
        check_truth_steps(pipeline)
        self.label_root = label_root
        self.num_noise = grid ** 2 + (num_parts or 0) if grid else 0
        self.store = None if part_store is None else PartStore(part_store)
        self.wanted = {}
        if self.store is not None:
            self.wanted = dict(grid=grid, num_parts=num_parts, view=view_of(pipeline),
                               foreground=foreground)
        super().__init__(data_root=str(data_root), pipeline=list(pipeline), **kwargs)

    def load_data_list(self):
        images = list_images(self.data_root)
        if self.store is not None:
            self.store.require(images=images, **self.wanted)
        data_list = [dict(img_path=str(Path(self.data_root) / name)) for name in images]
        if self.label_root is not None:
            for info, path in zip(data_list, self.list_labels(images)):
                info['label_path'] = path
        return data_list

    def list_labels(self, images):
        """Path of the label map of each image; all of them exist."""
        paths = [(Path(self.label_root) / name).with_suffix('.png') for name in images]
        missing = [path for path in paths if not path.is_file()]
        if missing:
            raise FileNotFoundError(
                f'{len(missing)} of {len(images)} images have no label map, the first is missing '
                f'at {missing[0]}; expected {self.label_root}/NAME.png for every '
                f'{self.data_root}/NAME.*, in the same folders. Give another label_root')
        if twice := [path for path, number in Counter(paths).items() if number > 1]:
            raise ValueError(f'{twice[0]} would be the label map of several images of '
                             f'{self.data_root}, expected one each; rename the images')
        return [str(path) for path in paths]

    def _join_prefix(self):
        """Nothing to join, because there is no annotation file."""

    def get_data_info(self, idx):
        info = dict(super().get_data_info(idx), num_noise=self.num_noise)
        if self.store is not None:
            info['part_ids'], info['foreground'] = self.store.maps(info['sample_idx'])
        return info
