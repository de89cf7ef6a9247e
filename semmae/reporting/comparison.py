"""Which lines of a table may be compared, in what the others differ, and whether a lead is real.

A line is a dict with ``records``: the results that are averaged in it (`tables`).
"""
import json
import re
import statistics
from collections import defaultdict
from functools import lru_cache
from itertools import count, product
from pathlib import Path
from string import ascii_lowercase

from semmae.evaluation import protocol
from semmae.evaluation.predictions import read_predictions
from semmae.evaluation.statistics import METRICS, paired_bootstrap, welch

FEW = 5  # marks or values that a text names one by one


def to_the_best(lines):
    """(a text for each line, positions of bests that lead every rival beyond doubt).

    Rivals are the lines of one table measured under the same conditions, in a metric of which more
    is better.
    """
    rivals, texts, bold = defaultdict(list), [''] * len(lines), []
    for position, line in enumerate(lines):
        if line['records'] and protocol.metric_name(
                line['records'][0]['metric']) in protocol.HIGHER_IS_BETTER:
            rivals[protocol.conditions(line['records'][0])].append(position)
    for group in rivals.values():
        if len(group) < 2:
            continue
        best = max(group, key=lambda position: mean(lines[position]['records']))
        doubts = set()
        for position in group:
            if position != best:
                texts[position], doubt = lead(lines[position]['records'], lines[best]['records'])
                doubts.add(doubt)
        doubts -= {''}
        texts[best] = f"best; {', '.join(sorted(doubts))}" if doubts else 'best'
        bold += [] if doubts else [best]
    return texts, sorted(bold)


def lead(records, best):
    """('-1.30 [seeds -2.10, -0.50; images -1.80, -0.80]', what speaks against believing it or '').

    Over seeds where both sides have at least two runs, over images where both have their
    predictions; every interval that exists has to exclude zero. One seed is always a doubt: other
    images are not other trainings.
    """
    values, others = ([float(r['value']) for r in side] for side in (records, best))
    seeds, images = welch(values, others), over_images(records, best)
    known = {name: i for name, i in (('seeds', seeds), ('images', images)) if i}
    doubt = 'within noise' if not all(i.excludes_zero for i in known.values()) else (
        'one seed' if min(len(values), len(others)) < 2 else '' if seeds else 'no spread')
    bounds = '; '.join(f'{name} {i.low:+.2f}, {i.high:+.2f}' for name, i in known.items())
    text = f'{statistics.fmean(values) - statistics.fmean(others):+.2f}'
    text += f' [{bounds}]' if bounds else ''
    return f'{text}; {doubt}' if doubt else text, doubt


def over_images(records, best):
    """The interval over images, or None if a prediction is missing or the images differ."""
    metric = METRICS.get(protocol.metric_name(records[0]['metric']))
    sides = [[predictions_of(record) for record in side] for side in (records, best)]
    if metric is None or any(p is None for side in sides for p in side) or any(
            ('labels' in p) != (metric == 'top1') for side in sides for p in side):
        return None
    return paired_bootstrap(*sides, metric)


def predictions_of(record):
    """The stored predictions of a result, or None if they are not beside its file."""
    name = record.get('predictions')
    if not name or not record.get('source'):
        return None
    path = Path(record['source']).parent / name
    # Read only what a result names beside itself; a name like ../../x leads elsewhere.
    if not path.resolve().is_relative_to(Path(record['source']).parent.resolve()):
        return None
    return _read(path)


@lru_cache(maxsize=256)
def _read(path):
    try:
        return read_predictions(path)
    except (ValueError, FileNotFoundError):
        return None


def mean(records):
    return statistics.fmean(float(record['value']) for record in records)


def protocol_marks(lines):
    """(a letter for each line measured under one of several protocols, legend, conflicts).

    conflicts: texts about differences that make a comparison unfair; those of the method itself
    (patch size, backbone, pre-training) are named in the legend only.
    """
    protocols = defaultdict(dict)
    for line in lines:
        for record in line['records'][:1]:
            seen = protocols[record['task'], record['dataset']]
            seen.setdefault((record['fingerprint'], record['split']),
                            {**record['protocol'], 'split': record['split']})
    marks, legend, conflicts, letters = {}, [], [], _letters()
    for (task, dataset), seen in protocols.items():
        if len(seen) < 2:
            continue
        own = [next(letters) for _ in seen]
        marks.update({(task, dataset, *key): mark for key, mark in zip(seen, own)})
        fields, unfair = [], []
        for field, values in protocol.differing_fields(list(seen.values())).items():
            is_method = field.split('.')[0] in protocol.METHOD_FIELDS
            text = f'{field}: {_by_value(own, values)}'
            fields.append(text.replace(':', ' (part of the method):', 1) if is_method else text)
            unfair += [] if is_method else [text]
        legend.append(f"Different protocols for {task} on {dataset} ({_few(own)}): "
                      f"{'; '.join(fields) or 'the records do not say in what'}.")
        if unfair or not fields:
            conflicts.append(f"{task} on {dataset} was measured differently: "
                             f"{'; '.join(unfair) or 'the records do not say in what'}")
    firsts = [line['records'][0] if line['records'] else None for line in lines]
    conflicts += _mixed_sizes(lines)
    return [marks.get((r['task'], r['dataset'], r['fingerprint'], r['split']), '') if r else ''
            for r in firsts], legend, conflicts


def _mixed_sizes(lines):
    """Texts about tasks of which some results are reduced and some are not, or otherwise so.

    That of the pre-training belongs to the method: a network from scratch has none.
    """
    sizes = defaultdict(set)
    for line in lines:
        for record in line['records'][:1]:
            why = re.sub(r'^pre-training: [^;]*(; )?', '', record.get('reduced_why') or '')
            sizes[record['task'], record['dataset']].add(
                "of the paper's size" if not record['reduced'] else
                f"reduced ({why or 'in what, the record does not say, or in pre-training only'})")
    return [f"{task} on {dataset} has results of different sizes: {_few(sorted(seen), ' | ')}"
            for (task, dataset), seen in sizes.items() if len(seen) > 1]


def _by_value(marks, values):
    """'a, c = 224, b = 192': the marks that share a value together, in order of first use."""
    groups = defaultdict(list)
    for mark, value in zip(marks, values):
        groups[value if isinstance(value, str) else json.dumps(value)].append(mark)
    return _few([f'{_few(own)} = {value}' for value, own in groups.items()])


def _few(texts, between=', '):
    more = len(texts) - FEW
    return between.join(texts[:FEW]) + (f'{between}and {more} more' if more > 0 else '')


def _letters():
    """a, b, ..., z, aa, ab, ..."""
    for length in count(1):
        yield from map(''.join, product(ascii_lowercase, repeat=length))
