"""Stored predictions of several runs, image by image, for the side-by-side view of a report.

N images of a test set in the order of their names. A run has a score for each image: whether the
class is right, or the share of right pixels. Images that are named or shown are those where runs
differ most, and the worst and the best of each run.
"""
import base64
import hashlib

import numpy as np

from semmae.results.predictions import PAIRS

from .classes import class_names, usable

DIFFERENT, EXTREMES, MOST_NAMED = 60, 6, 400  # images that are named: of a test set, of a run
MOST_PHOTOS, MOST_MAPS = 48, 6  # pictures of a classification; images of a segmentation


class PredictionSets:
    """Collects runs by test set: the same images with the same labels.

    names_of: gives the class names of a record. drawn: has ``photos(work, names)`` and
    ``maps(work, predictions, names)``, which return {name: data URI}, and ``why``, a text on
    images that are missing.
    """

    def __init__(self, names_of, drawn):
        self.names_of, self.drawn, self.sets = names_of, drawn, {}

    def add(self, run, group, work):
        """Add a run (`runs.explorer`) if one of its records has predictions."""
        for record in group:
            found = usable(record) if record['status'] == 'ok' else None
            if found is None:
                continue
            order = np.argsort(found['images'], kind='stable')
            found = {name: array[order] for name, array in found.items() if name != PAIRS}
            labels = found['labels' if 'labels' in found else 'label']
            key = hashlib.sha256('\n'.join(found['images']).encode() + labels.tobytes()).hexdigest()
            self.sets.setdefault(key, []).append((run, record, found, work))
            return

    def finished(self):
        """JSON values of the test sets; their runs get ``test``, scores and named images."""
        tests: list[dict] = []
        for members in self.sets.values():
            for run, *_ in members:
                run['test'] = len(tests)
            tests.append(self.test_of(members))
        return tests

    def test_of(self, members):
        """The JSON values of one test set; members: [(run, record, predictions, work)]."""
        _, record, first, work = members[0]
        names = class_names(first, self.names_of(record))
        is_classification = 'labels' in first
        scores = np.stack([score_of(found) for _, _, found, _ in members])
        kept = list(dict.fromkeys([*different(scores)[:DIFFERENT]]))
        for (run, _, found, _), score in zip(members, scores):
            run['worst'], run['best'] = extremes(found, score)
            run['scores'] = encoded(score, is_classification)
            kept += run['worst'] + run['best']
        kept = list(dict.fromkeys(kept))[:MOST_NAMED]
        for run, _, found, _ in members:
            run['worst'], run['best'] = ([i for i in run[key] if i in kept]
                                         for key in ('worst', 'best'))
            if is_classification:
                run['told'] = {i: names[found['predicted'][i]] for i in kept}
        shown = [str(first['images'][i]) for i in (
            by_need(members, kept)[:MOST_PHOTOS] if is_classification else spread_out(scores))]
        photos = self.drawn.photos(work, shown)
        if not is_classification:
            true = self.drawn.true_maps(work, shown)
            for run, record, _, own in members:
                run['maps'] = self.by_index(first, self.drawn.maps(own, record, shown))
        return dict(
            is_classification=is_classification, number=len(first['images']),
            named=sorted(kept) if is_classification else sorted(
                {*kept, *(list(first['images']).index(name) for name in shown)}),
            images={i: str(first['images'][i]) for i in range(len(first['images']))
                    if i in kept or str(first['images'][i]) in shown},
            labels={i: names[first['labels'][i]] for i in kept} if is_classification else {},
            photos=self.by_index(first, photos),
            true={} if is_classification else self.by_index(first, true), why=self.drawn.why)

    def by_index(self, first, pictures):
        """{position of the image: picture} of {name: picture}."""
        return {i: pictures[name] for i, name in enumerate(first['images']) if name in pictures}


def score_of(found):
    """(N,) 0 to 1: whether the class is right, or the share of right pixels."""
    if 'labels' in found:
        return (found['predicted'] == found['labels']).astype(float)
    return found['intersection'].sum(1) / np.maximum(found['label'].sum(1), 1)


def different(scores):
    """Positions of images that runs (R, N) score differently, the largest spread first."""
    spread = scores.std(0)
    return [int(i) for i in np.argsort(-spread, kind='stable') if spread[i] > 0]


def extremes(found, score):
    """Positions of the (worst, best) images of a run.

    Of a classification: wrong and right ones, the most confident first.
    """
    sure = found.get('score', np.zeros(len(score)))
    worst, best = (np.lexsort((-sure, sign * score))[:EXTREMES] for sign in (1, -1))
    if 'labels' in found:
        worst, best = worst[score[worst] == 0], best[score[best] == 1]
    return worst.tolist(), best.tolist()


def by_need(members, kept):
    """The kept images, the worst and the best of each run in turn first."""
    turns = [run[key][k:k + 1] for k in range(EXTREMES) for run, *_ in members
             for key in ('worst', 'best')]
    return list(dict.fromkeys([i for turn in turns for i in turn] + kept))


def spread_out(scores):
    """Images of a segmentation: two each with the lowest, highest and most different scores."""
    means, third = scores.mean(0), MOST_MAPS // 3
    chosen = [*np.argsort(means, kind='stable')[:third],
              *np.argsort(-means, kind='stable')[:third], *different(scores)[:third]]
    return list(dict.fromkeys(map(int, chosen)))


def encoded(score, is_bits):
    """base64 of one bit for each image, or of one byte from 0 to 255."""
    content = np.packbits(score > 0) if is_bits else np.round(255 * score).astype(np.uint8)
    return base64.b64encode(content.tobytes()).decode()
