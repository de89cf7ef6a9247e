"""Makes part stores from label maps: true parts, the upper bound for learned parts.

B images of a batch, S pixels a side of the view, L = grid x grid patches, P parts.
"""
import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F

from ..config.options import read_config
from ..datasets.geometry import view_of
from ..datasets.part_dataset import PartDataset
from ..datasets.part_store import list_images
from ..datasets.photos import Photos
from .photos import without_random_steps


def parts_of_labels(labels, grid, num_parts):
    """(part_ids (B, L) int64, foreground (B, L)) of label maps (B, S, S), label 0 is background.

    A patch has the part that covers most of it, the lower number in a tie. Foreground: the share of
    the patch that is object; in a tie, the patch with more object around it ranks higher.
    """
    if labels.max() >= num_parts:
        raise ValueError(f'got label {int(labels.max())} in a label map, expected 0 to '
                         f'{num_parts - 1}. Give --num-parts')
    is_part = F.one_hot(labels.long(), num_parts).permute(0, 3, 1, 2).float()
    shares = F.adaptive_avg_pool2d(is_part, grid)
    is_object = 1 - shares[:, :1]
    around = F.avg_pool2d(is_object, 3, 1, 1)
    return shares.argmax(1).flatten(1), (is_object + 1e-3 * around).flatten(1)


class LabelMaps(Photos):
    """``maps[index, name]``: the label map of an image, in the view that its pipeline shows."""

    def __init__(self, root, pipeline, paths):
        *steps, pack = pipeline
        self.paths = paths
        super().__init__(root, [self.add_label, *steps, dict(type='semmae.LoadPartTruth'), pack,
                                self.label_of])

    def add_label(self, info):
        return dict(info, label_path=self.paths[info['sample_idx']])

    @staticmethod
    def label_of(sample):
        return dict(inputs=sample['part_labels'], sample_idx=sample['sample_idx'])


class TrueParts:
    """Has the methods of a part learner that an extraction calls; its images are label maps."""

    def __init__(self, grid, num_parts):
        self.grid, self.num_parts = grid, num_parts

    def data_preprocessor(self, data):
        return data

    def segment(self, labels):
        return parts_of_labels(labels, self.grid, self.num_parts)


@dataclass(frozen=True)
class LabelSource:
    """Label maps as the source of parts.

    config: of a part learner; its view of the images is used.
    labels: folder of 8-bit label maps, ``NAME.png`` for each ``NAME.*`` of the images, in the same
        folders. grid: patches a side. Default of grid and num_parts: the config's.
    """

    config: str | Path
    labels: str | Path
    grid: int | None = None
    num_parts: int | None = None
    options: dict | None = None

    def open(self, images):
        """(model, `LabelMaps`, fields of a manifest: how the parts are made)."""
        cfg = read_config(self.config, self.options)
        grid = self.grid or cfg.model.encoder.grid
        num_parts = self.num_parts or cfg.model.num_parts
        pipeline = without_random_steps(cfg)
        data = PartDataset(data_root=images, label_root=self.labels, lazy_init=True)
        paths, digest = data.list_labels(list_images(images)), hashlib.sha256()
        for path in paths:
            digest.update(Path(path).read_bytes())
        return TrueParts(grid, num_parts), LabelMaps(images, pipeline, paths), dict(
            grid=grid, num_parts=num_parts, source='labels', view=view_of(pipeline),
            parts=dict(type='label maps', foreground='share of the object'),
            labels_sha256=digest.hexdigest())
