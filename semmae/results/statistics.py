"""Confidence intervals of the difference of two results: over seeds, and over test images.

The interval over seeds answers: would other trainings give the same difference? It needs two runs
on both sides. The interval over images answers: would other test images give the same difference
for these weights? It needs the prediction for each image (`results.predictions`) and one run. All
values and differences are in percent.
"""
import hashlib
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize, stats

from .predictions import Stored

LEVEL = .95
# As `protocol.metric_name` spells them.
METRICS = {'top1': 'top1', 'miou': 'mIoU', 'macc': 'mAcc', 'aacc': 'aAcc'}
Array = np.ndarray[Any, Any]


class Interval(NamedTuple):
    """A difference and its confidence interval."""

    difference: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def welch(a: Sequence[float], b: Sequence[float]) -> Interval | None:
    """Interval of mean(a) - mean(b) over independent runs (Welch's t), or None.

    a, b: values of several runs each. None where a side has one run, or where all values of both
    sides are equal.
    """
    if min(len(a), len(b)) < 2 or np.ptp(a) == 0 == np.ptp(b):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', RuntimeWarning)  # one side may have no spread
        low, high = stats.ttest_ind(a, b, equal_var=False).confidence_interval(LEVEL)
    return Interval(float(np.mean(a) - np.mean(b)), float(low), float(high))


def detectable_difference(spread: float, runs: int, power: float = .8) -> float:
    """Smallest difference of two means that a t test finds in a share ``power`` of experiments.

    spread: standard deviation over runs, the same on both sides; the result has its unit.
    runs: on each side. Two-sided test with the level of the intervals, by the noncentral t
    distribution (Cohen 1988, ch. 2). With few runs `welch` finds it a little less often.
    Raises ValueError for fewer than two runs, a negative spread, and a power that is not between
    0.05 and 1.
    """
    if runs < 2 or not spread >= 0 or not 1 - LEVEL < power < 1:
        raise ValueError(f'got spread={spread}, runs={runs}, power={power}, expected a spread of '
                         f'at least 0, at least 2 runs and a power between {1 - LEVEL:.2f} and 1')
    freedom = 2 * runs - 2
    limit = stats.t.ppf((1 + LEVEL) / 2, freedom)

    def missing(shift: float) -> float:
        return float(stats.nct.sf(limit, freedom, shift)) - power

    return float(spread * (2 / runs) ** .5 * optimize.brentq(missing, 0, 30))


def paired_bootstrap(a: Sequence[Stored], b: Sequence[Stored], metric: str,
                     times: int = 2000) -> Interval | None:
    """Percentile interval of metric(a) - metric(b) over images; None where the images differ.

    a, b: predictions of each run (`results.predictions.read_predictions`); a side's metric is the
    mean over its runs. Each of ``times`` resamples draws the N images with replacement, the same
    for all runs. metric: 'top1', 'mIoU', 'mAcc' or 'aAcc'. The names of the images seed the
    resamples, so the same predictions always give the same interval.
    """
    order = aligned([*a, *b])
    if order is None:
        return None
    names = a[0]['images'][order[0]]
    rng = np.random.default_rng(list(hashlib.sha256('\n'.join(names).encode()).digest()))
    ours, theirs = [[{k: v[rows] for k, v in p.items()} for p, rows in zip(side, places)]
                    for side, places in ((a, order[:len(a)]), (b, order[len(a):]))]
    resample = of_accuracy if metric == 'top1' else of_pixels
    difference, others = resample(ours, theirs, metric, times, rng)
    if not np.isfinite([difference, *others]).all():
        return None  # a resample has no labelled pixel
    low, high = np.quantile(others, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(difference), float(low), float(high))


def aligned(predictions: Sequence[Stored]) -> list[Array] | None:
    """Row numbers that put the images of each file into one order, or None if they differ.

    The labels must agree too: other labels on the same images are another test set.
    """
    def content(p: Stored, rows: Array) -> tuple[Array, Array]:
        return p['images'][rows], p['labels' if 'labels' in p else 'label'][rows]

    order = [np.argsort(p['images'], kind='stable') for p in predictions]
    names, labels = content(predictions[0], order[0])
    for p, rows in zip(predictions[1:], order[1:]):
        others = content(p, rows)
        if not (np.array_equal(names, others[0]) and np.array_equal(labels, others[1])):
            return None
    return order


Side = Sequence[Stored]


def of_accuracy(a: Side, b: Side, metric: str, times: int, rng: np.random.Generator
                ) -> tuple[Any, Array]:
    """(difference, (times,) resampled), from the number of images with each difference."""
    hits = [np.mean([p['predicted'] == p['labels'] for p in side], axis=0) for side in (a, b)]
    values, counts = np.unique(100 * (hits[0] - hits[1]), return_counts=True)
    num = counts.sum()
    return counts @ values / num, rng.multinomial(num, counts / num, size=times) @ values / num


def of_pixels(a: Side, b: Side, metric: str, times: int, rng: np.random.Generator
              ) -> tuple[Any, Array]:
    """(difference, (times,) resampled) of a mean over classes, from counts of pixels."""
    num, chunk = len(a[0]['images']), 250  # resamples in memory at once

    def difference(weights: Array) -> Array:
        means = [np.mean([of_counts(p, weights, metric) for p in side], axis=0) for side in (a, b)]
        return np.asarray(means[0] - means[1])

    others = [difference(rng.multinomial(num, np.full(num, 1 / num), size=min(chunk, times - done)))
              for done in range(0, times, chunk)]
    return difference(np.ones((1, num)))[0], np.concatenate(others)


def of_counts(predictions: Stored, weights: Array, metric: str) -> Array:
    """(R,) values of a metric in percent. weights: (R, N) how often each image counts."""
    label, predicted, hit = (weights.astype(float) @ predictions[key].astype(float)
                             for key in ('label', 'predicted', 'intersection'))
    with np.errstate(invalid='ignore', divide='ignore'):
        if metric == 'aAcc':
            return np.asarray(100 * hit.sum(1) / label.sum(1))
        union = label if metric == 'mAcc' else label + predicted - hit
        return np.asarray(100 * np.nanmean(hit / union, 1))
