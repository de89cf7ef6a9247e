"""Part quality against the truth, as registered metrics.

Each takes from the model, for every image, ``part_ids`` (L,), ``foreground`` (L,) and
``num_parts``, and the truth that `semmae.LoadPartTruth` and `semmae.PackImage` have packed. What is
kept of an image is small; values come from all images in the order of ``sample_idx``, so that
batches, their order and the number of ranks change nothing. Values are in percent, counts are not.
A value that no image can give is left out, and the count beside it is 0.

L = grid x grid patches, row by row; P parts; S pixels a side of the view.
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
    """A dict of small values an image; a subclass says which (`measure`), and what they make up."""

    needs = ()

    def measure(self, sample):
        raise NotImplementedError

    def summarise(self, results):
        raise NotImplementedError

    def process(self, data_batch, data_samples):
        """data_samples: a list of dicts, one an image, with ``sample_idx`` and what is needed."""
        for sample in data_samples:
            missing = [key for key in ('sample_idx', *self.needs) if key not in sample]
            if missing:
                raise ValueError(
                    f"{type(self).__name__} found no {', '.join(missing)} among "
                    f"{', '.join(sample)}. {HOW_TO_LOAD}")
            self.results.append(dict(self.measure(sample), index=int(sample['sample_idx'])))

    def compute_metrics(self, results):
        results = sorted(results, key=lambda result: result['index'])
        twice = [a['index'] for a, b in zip(results, results[1:]) if a['index'] == b['index']]
        if twice or not results:
            found = f'image {twice[0]} more than once' if twice else 'no image'
            raise ValueError(f'{type(self).__name__} found {found}, expected each image of one '
                             'data set once. Evaluate with mmengine.DefaultSampler and no '
                             'repeated or concatenated data set')
        return self.summarise(results)


def parts_of(sample):
    """part_ids (L,) int64 array, num_parts and grid of a sample."""
    ids, num_parts = sample['part_ids'].cpu().numpy(), int(sample['num_parts'])
    if ids.min() < 0 or ids.max() >= num_parts:
        raise ValueError(f"image {int(sample['sample_idx'])}: found part ids from {ids.min()} to "
                         f'{ids.max()}, expected 0 to {num_parts - 1}')
    return ids, num_parts, side_of(len(ids))


def array(tensor):
    return tensor.cpu().numpy()


def percent(values):
    return 100 * float(np.mean(values))


def present(results, key):
    """The results that have a value for ``key``."""
    return [result[key] for result in results if result[key] is not None]


@METRICS.register_module()
class PartSegmentation(PerImageMetric):
    """Parts against true part labels, patch by patch.

    background: the label that is no part of an object.

    The label of a patch is that of most of its pixels, of equals the lower one. Over all patches,
    and as ``object_*`` over those whose true label is not the background:
    ARI, NMI, IoU: of each image, then the mean. NMI is divided by the mean entropy; IoU gives parts
        to labels one to one, the best way for this image, and is the mean over its labels.
    pooled_ARI, pooled_NMI: of all patches together: does a part mean the same in every image?
    An image with less than two labels on the object is left out of object_ARI, object_NMI and
    object_IoU (``object_images`` have two or more) and counts in the pooled values. An image of
    one label alone counts in ARI and NMI with 1 for a single part and 0 for more, as in sklearn.
    parts_used: different parts in an image, mean. images: all of them.
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
        counts = count_matrix(ids, patch_labels(array(sample['part_labels']), grid), num_parts)
        found, on_object = dict(counts=counts.astype(np.int32)), self.on_object(counts)
        found['all'] = [score(counts) for score in SCORES.values()]
        found['object'] = None
        if on_object.any(0).sum() >= 2:
            found['object'] = [score(on_object) for score in SCORES.values()]
        return found

    def summarise(self, results):
        metrics, total = {}, add_matrices([result['counts'] for result in results])
        labels = np.nonzero(total.any(0))[0]
        if self.background not in labels:
            raise ValueError(
                f'the background is label {self.background}, but no patch has it; found labels '
                f'{labels.min()} to {labels.max()}. Give the one that is no part of an object '
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
    """Parts against landmarks and a bounding box, where there are no label maps (CUB-200-2011).

    ridge: penalty of the regression, on standardised features, times the number of images.

    NMI, ARI: between the part under each visible landmark and the landmark's own number, over all
        test images together.
    error: landmarks predicted from the middles of the parts, by a linear regression fitted on the
        training images (`landmark_errors`); distance to the true one over the square root of the
        area of the box, mean over all visible landmarks of the test images.
    constant_error: the same with the training mean of each landmark: what parts have to beat.
    box_IoU: patches of the parts that are taken for object (`object_patches`) against the patches
        whose middle is in the box, mean over the test images with such patches (``box_images``).
    The box that divides the errors is the whole one, also where the view cuts it: how much of a
    bird is in view should not change the unit. The box of box_IoU is cut by the view.
    landmarks: visible ones of the test images that were predicted. unseen_landmarks: left out of
        error and constant_error, because they are visible in no training image.
    """

    default_prefix = 'landmarks'
    needs = ('part_ids', 'num_parts', 'landmarks', 'bbox', 'box_size', 'is_train')

    def __init__(self, ridge=1e-3, **kwargs):
        super().__init__(**kwargs)
        if not ridge > 0:
            raise ValueError(f'ridge={ridge}, expected a number above 0: the presence of one part '
                             'may follow from that of the others, which has no solution without')
        self.ridge = ridge

    def measure(self, sample):
        ids, num_parts, grid = parts_of(sample)
        landmarks, box_size = array(sample['landmarks']), array(sample['box_size'])
        if not (box_size > 0).all():
            raise ValueError(f"image {int(sample['sample_idx'])}: found a box of width and height "
                             f'{box_size.tolist()}, expected both above 0. Run: python '
                             'tools/check_data.py cub')
        in_box = patches_in_box(array(sample['bbox']), grid)
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
                f'LandmarkQuality found {is_train.sum()} training images and {(~is_train).sum()} '
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
    """The ranking of patches by which 8x8 pre-training drops background (Sec. 4.2).

    keep: share of the patches that is kept. background: the label that is no part of an object.

    Object is, with label maps, what has another label (most pixels of a patch), else the patches
    whose middle is in the box. Means over the images that have both kinds (``ranked_images`` of
    ``images``); of a data set with ``is_train`` over the others:
    AUC: of the scores against object or not.
    kept: share of the object that is among the round(keep * L) highest scores, of equals the one
        at the lower position. kept_chance: the same for scores that say nothing; kept_best: for
        perfect ones, below 100 where the object is larger than what is kept.
    precision: share of the kept patches that is object; precision_chance: of all patches.
    """

    default_prefix = 'foreground'
    needs = ('foreground',)
    names = ('AUC', 'kept', 'kept_chance', 'kept_best', 'precision', 'precision_chance')

    def __init__(self, keep=.25, background=0, **kwargs):
        super().__init__(**kwargs)
        if not 0 < keep <= 1:
            raise ValueError(f'keep={keep}, expected a share of the patches, above 0, at most 1')
        self.keep, self.background = keep, background

    def is_object(self, sample, grid):
        if 'part_labels' in sample:
            return patch_labels(array(sample['part_labels']), grid) != self.background
        if 'bbox' in sample:
            return patches_in_box(array(sample['bbox']), grid)
        raise ValueError(f"ForegroundQuality found neither part_labels nor bbox among "
                         f"{', '.join(sample)}. {HOW_TO_LOAD}")

    def measure(self, sample):
        if sample.get('is_train', False):
            return dict(values=None, is_train=True)
        scores = sample['foreground'].float().cpu()
        length = len(scores)
        is_object = self.is_object(sample, side_of(length))
        if not scores.isfinite().all():
            raise ValueError(f"image {int(sample['sample_idx'])}: found foreground scores that are "
                             'not finite, expected numbers. Look for NaN in the checkpoint')
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
