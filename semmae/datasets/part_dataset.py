"""Images with their parts, for part learning and pre-training. No labels are read."""
from collections import Counter
from pathlib import Path

from mmengine.dataset import BaseDataset

from ..registry import DATASETS
from .part_store import PartStore, list_images
from .transforms import check_truth_steps, view_of


@DATASETS.register_module()
class PartDataset(BaseDataset):
    """All images below ``data_root``, sorted by relative path.

    part_store: folder made by tools/extract_parts.py for the same images, or None. With one, a
        sample carries ``part_ids`` and ``foreground``, (grid, grid) uint8 arrays.
    grid, num_parts: what the store has to have; one made with others is refused. They are the
        model's, but where a `RandomResizedCropWithParts` makes maps of the model's grid, its own
        argument, from a finer store.
    label_root: folder of label maps, or None. With one, a sample carries ``label_path``, the file
        of the same relative path ending in .png; `semmae.LoadPartTruth` reads it.
    """

    def __init__(self, data_root, pipeline=(), part_store=None, grid=None, num_parts=None,
                 foreground=None, label_root=None, **kwargs):
        check_truth_steps(pipeline)
        self.label_root = label_root
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
        if len(set(paths)) < len(paths):
            twice = next(path for path, n in Counter(paths).items() if n > 1)
            raise ValueError(f'{twice} would be the label map of several images of '
                             f'{self.data_root}, expected one each; rename the images')
        return [str(path) for path in paths]

    def _join_prefix(self):
        """There is no annotation file whose path would have to be joined."""

    def get_data_info(self, idx):
        info = super().get_data_info(idx)
        if self.store is not None:
            grid = self.store.grid
            info['part_ids'], info['foreground'] = (
                a.reshape(grid, grid) for a in self.store[info['sample_idx']])
        return info
