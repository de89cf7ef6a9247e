"""Whether two results differ: intervals over seeds, and over the images of the test set.

The two answer different questions. Over seeds: would another training tell the same? It needs two
runs on both sides. Over images: would another test set tell the same of these very weights? It
needs what was predicted for each image (`results.predictions`), and works for one run. All
values and differences are in percent; imports neither torch nor the OpenMMLab libraries.
"""
import hashlib
import math
from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = .95


class Interval(NamedTuple):
    """A difference and its confidence interval."""

    difference: float
    low: float
    high: float

    @property
    def excludes_zero(self):
        return self.low > 0 or self.high < 0


def welch(a, b, level=LEVEL):
    """Interval of mean(a) - mean(b) over runs that share nothing (Welch's t), or None.

    a, b: values of several runs each. None where a side has one run, or where neither has any
    spread: equal numbers prove nothing.
    """
    if min(len(a), len(b)) < 2:
        return None
    variances = [np.var(x, ddof=1) / len(x) for x in (a, b)]
    error = math.sqrt(sum(variances))
    if error == 0:
        return None
    freedom = sum(variances) ** 2 / sum(v ** 2 / (len(x) - 1) for v, x in zip(variances, (a, b)))
    half = stats.t.ppf((1 + level) / 2, freedom) * error
    difference = float(np.mean(a) - np.mean(b))
    return Interval(difference, difference - half, difference + half)


def paired_bootstrap(a, b, metric, level=LEVEL, times=2000):
    """Percentile interval of metric(a) - metric(b) over images; None where those differ.

    a, b: lists of predictions (`results.predictions.read_predictions`), one for each run; a
    side's metric is the mean over its runs. All of them see the same images in every one of
    ``times`` resamples of the N images with replacement. metric: 'top1', 'mIoU', 'mAcc' or 'aAcc'.
    The resamples follow from the names of the images, so that a table comes out the same each time.
    """
    order = aligned([*a, *b])
    if order is None:
        return None
    names = a[0]['images'][order[0]]
    rng = np.random.default_rng(list(hashlib.sha256('\n'.join(names).encode()).digest()))
    sides = [[{k: v[rows] for k, v in p.items()} for p, rows in zip(side, places)]
             for side, places in ((a, order[:len(a)]), (b, order[len(a):]))]
    resample = of_accuracy if metric == 'top1' else of_pixels
    difference, others = resample(*sides, metric, times, rng)
    if not np.isfinite([difference, *others]).all():
        return None  # a resample without any pixel that counts
    low, high = np.quantile(others, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(difference), float(low), float(high))


def aligned(predictions):
    """Row numbers that put the images of each file into one order, or None if they differ.

    Labels have to agree as well: two sets of labels on the same images are two test sets.
    """
    def content(p, rows):
        return p['images'][rows], p['labels' if 'labels' in p else 'label'][rows]

    order = [np.argsort(p['images'], kind='stable') for p in predictions]
    names, labels = content(predictions[0], order[0])
    for p, rows in zip(predictions[1:], order[1:]):
        others = content(p, rows)
        if not (np.array_equal(names, others[0]) and np.array_equal(labels, others[1])):
            return None
    return order


def of_accuracy(a, b, metric, times, rng):
    """(difference, (times,) resampled): only how many images have which difference matters."""
    hits = [np.mean([p['predicted'] == p['labels'] for p in side], axis=0) for side in (a, b)]
    values, counts = np.unique(100 * (hits[0] - hits[1]), return_counts=True)
    num = counts.sum()
    return counts @ values / num, rng.multinomial(num, counts / num, size=times) @ values / num


def of_pixels(a, b, metric, times, rng, chunk=250):
    """(difference, (times,) resampled) of a mean over classes, from counts of pixels."""
    num = len(a[0]['images'])

    def difference(weights):
        means = [np.mean([of_counts(p, weights, metric) for p in side], axis=0) for side in (a, b)]
        return means[0] - means[1]

    others = [difference(rng.multinomial(num, np.full(num, 1 / num), size=min(chunk, times - done)))
              for done in range(0, times, chunk)]
    return difference(np.ones((1, num)))[0], np.concatenate(others)


def of_counts(predictions, weights, metric):
    """(R,) values of a metric in percent. weights: (R, N) how often each image counts."""
    label, predicted, hit = (weights.astype(float) @ predictions[key].astype(float)
                             for key in ('label', 'predicted', 'intersection'))
    with np.errstate(invalid='ignore', divide='ignore'):
        if metric == 'aAcc':
            return 100 * hit.sum(1) / label.sum(1)
        return 100 * np.nanmean(hit / (label if metric == 'mAcc' else label + predicted - hit), 1)


# As `protocol.metric_name` spells them.
METRICS = {'top1': 'top1', 'miou': 'mIoU', 'macc': 'mAcc', 'aacc': 'aAcc'}
