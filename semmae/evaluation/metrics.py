"""Part quality against the truth, as registered metrics (ours).

L = grid x grid patches, row by row; P parts; S pixels a side of the view.

For every image the model gives ``part_ids`` (L,), ``foreground`` (L,) and ``num_parts``, and the
data give the truth (`semmae.LoadPartTruth`, `semmae.PackImage`). Metrics are computed from all
images in the order of ``sample_idx``, so they do not depend on batches and ranks. Values are in
percent; counts are not. A value that no image has is left out, and its count is 0.
"""
import numpy as np
from mmengine.evaluator import BaseMetric
from sklearn.metrics import roc_auc_score

from ..functional.parts import foreground_ids
from ..registry import METRICS
from .part_quality import (
    add_matrices,
    adjusted_rand,
    centroids,
    count_matrix,
    iou,
    landmark_errors,
    matched_iou,
    normalized_mutual_info,
    object_patches,
    patch_at,
    patch_labels,
    patches_in_box,
    side_of,
)

HOW_TO_LOAD = (
    "Put dict(type='semmae.LoadPartTruth') before semmae.PackImage, and read the images with "
    "semmae.PartDataset(label_root=...) for label maps or semmae.CUBParts(split='all') for "
    'landmarks and boxes')
SCORES = dict(ARI=adjusted_rand, NMI=normalized_mutual_info, IoU=matched_iou)


class PerImageMetric(BaseMetric):
    """Collects a small dict for each image (`measure`), then makes the metrics (`summarise`)."""

    needs: tuple[str, ...] = ()

    def measure(self, sample):
        raise NotImplementedError

    def summarise(self, results):
        raise NotImplementedError

    def process(self, data_batch, data_samples):
        """data_samples: a dict for each image, with ``sample_idx`` and ``needs`` or ValueError."""
        for sample in data_samples:
            missing = [key for key in ('sample_idx', *self.needs) if key not in sample]
            if missing:
                raise ValueError(
                    f"{type(self).__name__} got no {', '.join(missing)} among "
                    f"{', '.join(sample)}. {HOW_TO_LOAD}")
            self.results.append(dict(self.measure(sample), index=int(sample['sample_idx'])))

    def compute_metrics(self, results):
        results = sorted(results, key=lambda result: result['index'])
        twice = [a['index'] for a, b in zip(results, results[1:]) if a['index'] == b['index']]
        if twice or not results:
            found = f'image {twice[0]} more than once' if twice else 'no image'
            raise ValueError(f'{type(self).__name__} got {found}, expected each image of one '
                             'data set once. Evaluate with mmengine.DefaultSampler and no '
                             'repeated or concatenated data set')
        return self.summarise(results)


def parts_of(sample):
    """part_ids (L,) int64 array, num_parts and grid of a sample; ValueError for other ids."""
    ids, num_parts = sample['part_ids'].cpu().numpy(), int(sample['num_parts'])
    if ids.min() < 0 or ids.max() >= num_parts:
        raise ValueError(f"image {int(sample['sample_idx'])}: got part ids from {ids.min()} to "
                         f'{ids.max()}, expected 0 to {num_parts - 1}')
    return ids, num_parts, side_of(len(ids))


def percent(values):
    """The mean in percent."""
    return 100 * float(np.mean(values))


def present(results, key):
    """The results that have a value for ``key``."""
    return [result[key] for result in results if result[key] is not None]


@METRICS.register_module()
class PartSegmentation(PerImageMetric):
    """Parts against true part labels, patch by patch.

    background: the label of everything that is not an object.

    The label of a patch is the label of most of its pixels (lowest in a tie). Over all patches,
    and as ``object_*`` over those whose true label is not the background:
    ARI, NMI, IoU: of each image, then the mean. NMI is divided by the mean entropy. IoU is the mean
        over the labels of an image, under the best one-to-one assignment of parts to labels.
    pooled_ARI, pooled_NMI: of the patches of all images together; high if a part has the same
        meaning in every image.
    An image with fewer than two labels on the object counts in the pooled values, but not in
    object_ARI, object_NMI and object_IoU; ``object_images`` counts the other images. An image
    with one label has ARI and NMI 1 for a single part and 0 for more, as in sklearn.
    parts_used: number of different parts in an image, mean. images: number of all images.
    """

    default_prefix = 'parts'
    needs = ('part_ids', 'num_parts', 'part_labels')

    def __init__(self, background=0, **kwargs):
        super().__init__(**kwargs)
        self.background = background

    def on_object(self, counts):
        return counts[:, np.arange(counts.shape[1]) != self.background]

    def measure(self, sample):
        ids, num_parts, grid = parts_of(sample)
        labels = patch_labels(sample['part_labels'].cpu().numpy(), grid)
        counts = count_matrix(ids, labels, num_parts)
        on_object = self.on_object(counts)
        return dict(
            counts=counts.astype(np.int32), all=[score(counts) for score in SCORES.values()],
            object=[score(on_object) for score in SCORES.values()]
            if on_object.any(0).sum() >= 2 else None)

    def summarise(self, results):
        metrics, total = {}, add_matrices([result['counts'] for result in results])
        labels = np.nonzero(total.any(0))[0]
        if self.background not in labels:
            raise ValueError(
                f'the background is label {self.background}, but no patch has it; got labels '
                f'{labels.min()} to {labels.max()}. Give the label outside objects '
                '(background=..., --background; in PartImageNet it is 40)')
        for prefix, key, counts in (
                ('', 'all', total), ('object_', 'object', self.on_object(total))):
            values = present(results, key)
            for name, column in zip(SCORES, zip(*values)):
                metrics[prefix + name] = percent(column)
            if counts.any(0).sum() >= 2:
                metrics[f'{prefix}pooled_ARI'] = 100 * adjusted_rand(counts)
                metrics[f'{prefix}pooled_NMI'] = 100 * normalized_mutual_info(counts)
            metrics[f'{prefix}images'] = len(values)
        used = [int(result['counts'].any(1).sum()) for result in results]
        return dict(metrics, parts_used=float(np.mean(used)))


@METRICS.register_module()
class LandmarkQuality(PerImageMetric):
    """Parts against landmarks and a bounding box, for data without label maps (CUB-200-2011).

    NMI, ARI: between the part under each visible landmark and the number of the landmark, over all
        test images together.
    error: landmarks predicted from the centroids of the parts, by a ridge regression on the
        training images (`landmark_errors`): distance to the true one, divided by the square root of
        the area of the box, mean over all visible landmarks of the test images.
    constant_error: the same for the training mean of each landmark, the baseline.
    box_IoU: patches of the object's parts (`object_patches`) against the patches with their centre
        in the box, mean over the test images with such patches (``box_images``).
    The box that divides the errors is the whole box, even where the view cuts it, so the unit does
    not depend on the view. The box of box_IoU is cut by the view.
    landmarks: number of predicted landmarks: visible, of test images. unseen_landmarks: number of
        landmarks left out of the errors, because no training image shows them.
    """

    default_prefix = 'landmarks'
    needs = ('part_ids', 'num_parts', 'landmarks', 'bbox', 'box_size', 'is_train')
    # Above 0, because the presences of the parts may be linearly dependent.
    ridge = 1e-3

    def measure(self, sample):
        ids, num_parts, grid = parts_of(sample)
        landmarks, box_size = sample['landmarks'].cpu().numpy(), sample['box_size'].cpu().numpy()
        if not (box_size > 0).all():
            raise ValueError(f"image {int(sample['sample_idx'])}: got a box of width and height "
                             f'{box_size.tolist()}, expected both above 0. Run: python '
                             'tools/check_data.py cub')
        in_box = patches_in_box(sample['bbox'].cpu().numpy(), grid)
        return dict(
            is_train=bool(sample['is_train']), landmarks=landmarks, box_size=box_size,
            parts=ids[patch_at(landmarks[:, :2], grid)], num_parts=num_parts,
            centroids=centroids(ids, num_parts, grid).astype(np.float32),
            box=iou(object_patches(ids, num_parts, grid), in_box) if in_box.any() else None)

    def summarise(self, results):
        all_of = {key: np.stack([result[key] for result in results])
                  for key in ('is_train', 'landmarks', 'box_size', 'parts', 'centroids')}
        is_train, landmarks = all_of['is_train'], all_of['landmarks']
        if is_train.all() or not is_train.any():
            raise ValueError(
                f'LandmarkQuality got {is_train.sum()} training images and {(~is_train).sum()} '
                "test images, expected some of both. Use semmae.CUBParts(split='all')")
        boxes = present((r for r in results if not r['is_train']), 'box')
        errors, floors, unseen = landmark_errors(
            all_of['centroids'], landmarks, all_of['box_size'], is_train, self.ridge)
        metrics = dict(train_images=int(is_train.sum()), test_images=int((~is_train).sum()),
                       landmarks=len(errors), unseen_landmarks=unseen, box_images=len(boxes))
        if len(errors):
            metrics.update(error=percent(errors), constant_error=percent(floors))
        if boxes:
            metrics.update(box_IoU=percent(boxes))
        visible = (landmarks[..., 2] > 0) & ~is_train[:, None]
        if visible.any():
            counts = count_matrix(all_of['parts'][visible], np.nonzero(visible)[1],
                                  results[0]['num_parts'])
            metrics.update(ARI=100 * adjusted_rand(counts),
                           NMI=100 * normalized_mutual_info(counts))
        return metrics


@METRICS.register_module()
class ForegroundQuality(PerImageMetric):
    """The ranking of patches by which 8x8 pre-training drops the background (Sec. 4.2).

    background: the label of everything that is not an object.

    With label maps, a patch is object if most of its pixels have another label; else if its centre
    is in the box. Means over the images with object and background (``ranked_images`` of
    ``images``), of a data set with ``is_train`` over its test images:
    AUC: of the scores as a classifier of object patches.
    kept: share of the object among the round(keep * L) highest scores, in a tie the lower position.
        kept_chance: the same for random scores. kept_best: for perfect scores, below 100 if the
        object is larger than the kept share.
    precision: share of the kept patches that is object. precision_chance: of all patches.
    """

    default_prefix = 'foreground'
    needs = ('foreground',)
    names = ('AUC', 'kept', 'kept_chance', 'kept_best', 'precision', 'precision_chance')
    keep = .25  # share of the patches (Sec. 4.2)

    def __init__(self, background=0, **kwargs):
        super().__init__(**kwargs)
        self.background = background

    def is_object(self, sample, grid):
        if 'part_labels' in sample:
            return patch_labels(sample['part_labels'].cpu().numpy(), grid) != self.background
        if 'bbox' in sample:
            return patches_in_box(sample['bbox'].cpu().numpy(), grid)
        raise ValueError(f"ForegroundQuality got neither part_labels nor bbox among "
                         f"{', '.join(sample)}. {HOW_TO_LOAD}")

    def measure(self, sample):
        if sample.get('is_train', False):
            return dict(values=None, is_train=True)
        scores = sample['foreground'].float().cpu()
        length = len(scores)
        is_object = self.is_object(sample, side_of(length))
        if not scores.isfinite().all():
            raise ValueError(f"image {int(sample['sample_idx'])}: got NaN or infinite foreground "
                             'scores, expected finite ones. Check the checkpoint for NaN')
        keep, size = max(1, round(self.keep * length)), int(is_object.sum())
        if size in (0, length):
            return dict(values=None)
        hits = int(is_object[foreground_ids(scores[None], keep)[0].numpy()].sum())
        return dict(values=(
            float(roc_auc_score(is_object, scores.numpy())), hits / size, keep / length,
            min(1., keep / size), hits / keep, size / length))

    def summarise(self, results):
        results = [result for result in results if not result.get('is_train')]
        values = present(results, 'values')
        metrics = {name: percent(column) for name, column in zip(self.names, zip(*values))}
        return dict(metrics, images=len(results), ranked_images=len(values))
