"""From label maps to a part store: true parts, the ceiling that learned parts can be held against.

B images of a batch, S pixels a side of the view, L = grid x grid patches, P parts.
"""
import hashlib
from pathlib import Path

import torch
import torch.nn.functional as F
from mmengine.dataset import Compose

from ..datasets.part_dataset import PartDataset
from ..datasets.part_store import PartStoreWriter, list_images
from ..datasets.transforms import view_of
from ..training.run import read_config
from .extract import Claims, Photos, fill, without_random_steps


def parts_of_labels(labels, grid, num_parts):
    """(part_ids (B, L) int64, foreground (B, L)) of label maps (B, S, S), label 0 is background.

    A patch has the part that covers most of it, the lower number in a tie. Foreground: the share of
    the patch that is object; of equal ones, the one with more object around it first.
    """
    if labels.max() >= num_parts:
        raise ValueError(f'found label {int(labels.max())} in a label map, expected 0 to '
                         f'{num_parts - 1}. Give --num-parts')
    is_part = F.one_hot(labels.long(), num_parts).permute(0, 3, 1, 2).float()
    shares = F.adaptive_avg_pool2d(is_part, grid)
    is_object = 1 - shares[:, :1]
    around = F.avg_pool2d(is_object, 3, 1, 1)
    return shares.argmax(1).flatten(1), (is_object + 1e-3 * around).flatten(1)


class LabelMaps(Photos):
    """``maps[index, name]``: the label map of an image, in the view that its pipeline shows."""

    def __init__(self, root, pipeline, paths):
        super().__init__(root, pipeline)
        *steps, pack = pipeline
        self.paths = paths
        load = Compose([*steps, dict(type='semmae.LoadPartTruth'), pack])
        self.transform = lambda info: self.label_of(load(dict(
            info, label_path=paths[info['sample_idx']])))

    @staticmethod
    def label_of(sample):
        return dict(inputs=sample['part_labels'], sample_idx=sample['sample_idx'])


class TrueParts:
    """Stands where `fill` expects a part learner; its images are label maps."""

    def __init__(self, grid, num_parts):
        self.grid, self.num_parts = grid, num_parts

    def data_preprocessor(self, data):
        return data

    def segment(self, labels):
        return parts_of_labels(labels, self.grid, self.num_parts)


def extract_true_parts(config, labels, images, out, grid=None, num_parts=None, batch_size=64,
                       num_workers=None, shard_size=1024, options=None):
    """Write the store ``out`` from label maps below ``labels`` and return it.

    config: of a part learner; its view of the images, and the default of grid and num_parts, count.
    labels: folder of 8-bit label maps, ``NAME.png`` for each ``NAME.*`` of ``images``, in the same
        folders. Killed and started again, the same bytes come out.
    """
    cfg = read_config(config, options)
    grid = grid or cfg.model.encoder.grid
    num_parts = num_parts or cfg.model.num_parts
    pipeline, names = without_random_steps(cfg), list_images(images)
    paths = PartDataset(data_root=images, label_root=labels, lazy_init=True).list_labels(names)
    digest = hashlib.sha256()
    for path in paths:
        digest.update(Path(path).read_bytes())
    made_by = dict(grid=grid, num_parts=num_parts, source='labels', view=view_of(pipeline),
                   parts=dict(type='label maps', foreground='share of the object'),
                   labels_sha256=digest.hexdigest(), batch_size=batch_size)
    writer = PartStoreWriter(out, names, made_by, shard_size)
    if writer.is_complete():
        print(f'{out} is complete and made of the same inputs: nothing to do')
        return writer.finish()
    loader = LabelMaps(images, pipeline, paths).loader(Claims(writer, batch_size), num_workers)
    try:
        with torch.no_grad():
            fill(writer, TrueParts(grid, num_parts), loader, 'float32')
    finally:
        writer.release()
    return writer.finish()
