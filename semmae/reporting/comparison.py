"""Which lines of a table may be compared, how others differ, and whether a difference is noise.

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

from semmae.results import protocol
from semmae.results.predictions import read_predictions, recount
from semmae.results.statistics import METRICS, paired_bootstrap, welch

FEW = 5  # marks or values that a text lists


def to_the_best(lines):
    """(a text for each line, positions of bests that differ significantly from every rival).

    Rivals are the lines of one table that were measured under the same conditions, in a metric
    of known direction. The best has the highest mean, or the lowest where lower is better.
    """
    rivals, texts, bold = defaultdict(list), [''] * len(lines), []
    for position, line in enumerate(lines):
        if line['records'] and protocol.direction(line['records'][0]['metric']):
            rivals[protocol.conditions(line['records'][0])].append(position)
    for group in rivals.values():
        if len(group) < 2:
            continue
        sign = protocol.direction(lines[group[0]]['records'][0]['metric'])
        best = max(group, key=lambda position: sign * mean(lines[position]['records']))
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
    """('-1.30 [seeds -2.10, -0.50; images -1.80, -0.80]', a reason for doubt or '').

    There is an interval over seeds if both sides have two runs or more, and one over images if both
    have predictions. The difference is in doubt if an interval includes zero, if a side has one
    seed or one pre-training, or if predictions that a result names cannot be used.
    """
    values, others = ([float(r['value']) for r in side] for side in (records, best))
    seeds, images = welch(values, others), over_images(records, best)
    known = {name: i for name, i in (('seeds', seeds), ('images', images)) if i}
    doubt = 'within noise' if not all(i.excludes_zero for i in known.values()) else (
        'one seed' if min(len(values), len(others)) < 2 else 'no spread' if not seeds else
        'one pre-training' if any(len(r) > pretrainings(r) == 1 for r in (records, best)) else
        'predictions not usable' if not images and any(
            r.get('predictions') and predictions_of(r) is None for r in (*records, *best)) else '')
    shape = '+.2f' if protocol.is_percent(records[0]) else '+.3g'
    bounds = '; '.join(f'{name} {i.low:{shape}}, {i.high:{shape}}' for name, i in known.items())
    text = f'{statistics.fmean(values) - statistics.fmean(others):{shape}}'
    text += f' [{bounds}]' if bounds else ''
    return f'{text}; {doubt}' if doubt else text, doubt


def pretrainings(records):
    """The number of different pre-trained weights of the runs; the number of runs if unknown."""
    found = [(record.get('load_report') or {}).get('sha256') for record in records]
    return len(set(found)) if all(found) else len(records)


def over_images(records, best):
    """The interval over images, or None if a prediction is missing or the images differ."""
    metric = METRICS.get(protocol.metric_name(records[0]['metric']))
    ours, theirs = ([predictions_of(record) for record in side] for side in (records, best))
    found = [*ours, *theirs]
    if metric is None or not protocol.is_percent(records[0]) or any(
            p is None or ('labels' in p) != (metric == 'top1') for p in found):
        return None
    return paired_bootstrap(ours, theirs, metric)


def predictions_of(record):
    """The stored predictions of a result; None if they are missing or give another value."""
    name = record.get('predictions')
    if not name or not record.get('source'):
        return None
    path = Path(record['source']).parent / name
    try:
        # Do not read a path like ../../x, which is outside the folder.
        is_beside = path.resolve().is_relative_to(Path(record['source']).parent.resolve())
    except (OSError, ValueError):
        return None
    found = predictions_at(path) if is_beside else None
    metric = METRICS.get(protocol.metric_name(record['metric']), '')
    again = recount(found).get(metric) if found else None
    # mmseg rounds to two decimals.
    return found if again is not None and abs(again - record['value']) < .0051 else None


@lru_cache(maxsize=256)
def predictions_at(path):
    """The predictions of a file, or None if it cannot be read."""
    try:
        return read_predictions(path)
    except (ValueError, OSError):
        return None


def mean(records):
    """The mean value of records."""
    return statistics.fmean(float(record['value']) for record in records)


def protocol_marks(lines):
    """(a letter for each line measured under one of several protocols, legend, conflicts).

    conflicts: a text for each difference that makes a comparison unfair. Differences of the method
    itself (patch size, backbone, pre-training) are in the legend only.
    """
    protocols: dict[tuple, dict] = defaultdict(dict)
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
            is_method = protocol.is_of_the_method(field)
            text = f'{field}: {_by_value(own, values)}'
            fields.append(text.replace(':', ' (part of the method):', 1) if is_method else text)
            unfair += [] if is_method else [text]
        legend.append(f"Different protocols for {task} on {dataset} ({_few(own)}): "
                      f"{'; '.join(fields) or 'the records do not show how'}.")
        if unfair or not fields:
            conflicts.append(f"{task} on {dataset} was measured differently: "
                             f"{'; '.join(unfair) or 'the records do not show how'}")
    firsts = [line['records'][0] if line['records'] else None for line in lines]
    conflicts += _mixed_sizes(lines) + _other_conflicts(lines)
    return [marks.get((r['task'], r['dataset'], r['fingerprint'], r['split']), '') if r else ''
            for r in firsts], legend, conflicts


def training_marks(lines):
    """(a mark for each line whose row has several pre-trainings, legend, conflicts)."""
    rows, marks, legend, conflicts = defaultdict(list), [''] * len(lines), [], []
    for position, line in enumerate(lines):
        if line['records']:
            rows[line['records'][0]['row']].append(position)
    number = count(1)
    for row, positions in rows.items():
        trainings: dict[str, tuple] = {}
        for position in positions:
            fields = protocol.identity(lines[position]['records'][0])
            trainings.setdefault(protocol.fingerprint(fields), (fields, []))[1].append(position)
        if len(trainings) < 2:
            continue
        own = [f'p{next(number)}' for _ in trainings]
        for mark, (_, places) in zip(own, trainings.values()):
            for position in places:
                marks[position] = mark
        fields = protocol.differing_fields([fields for fields, _ in trainings.values()])
        text = f"{row} has different pre-trainings ({_few(own)}): {_side_by_side(fields)}"
        legend.append(f'{text}.')
        conflicts.append(text)
    return marks, legend, conflicts


def _side_by_side(fields):
    """'model.masking.gamma 2.0 / 3.0; ...' of {field: [value in each]}."""
    return '; '.join(f"{field} {_few([_text(v) for v in values], ' / ')}"
                     for field, values in fields.items()) or 'the records do not show how'


def _text(value):
    return value if isinstance(value, str) else json.dumps(value)


def training_name(record, among):
    """The fields in which one of several pre-trainings of a row differs from the others, or ''."""
    fields = protocol.differing_fields([protocol.identity(r) for r in among])
    own = protocol.comparable(protocol.identity(record))
    told = [f'{field} {_text(own.get(field, protocol.NOT_RECORDED))}' for field in fields]
    return _few(told[:3] + [f'{len(told) - 3} more'] * (len(told) > 3))


def _mixed_sizes(lines):
    """A text for each task whose results are reduced in different ways.

    A reduced pre-training does not count: it belongs to the method.
    """
    sizes = defaultdict(set)
    for line in lines:
        for record in line['records'][:1]:
            why = re.sub(r'^pre-training: [^;]*(; )?', '', record.get('reduced_why') or '')
            sizes[record['task'], record['dataset']].add(
                "of the paper's size" if not record['reduced'] else
                f"reduced ({why or 'in pre-training only, or not recorded how'})")
    return [f"{task} on {dataset} has results of different sizes: {_few(sorted(seen), ' | ')}"
            for (task, dataset), seen in sizes.items() if len(seen) > 1]


def _other_conflicts(lines):
    """A text for each difference of data sets, units and versions, and for each failed run."""
    datasets, units, texts = defaultdict(set), defaultdict(set), []
    for line in lines:
        for record in line['records']:
            datasets[record['task']].add(record['dataset'])
            units[record['task'], protocol.metric_name(record['metric'])].add(record['unit'])
        texts += [f"{line['records'][0]['row']} averages {text}"
                  for text in mixed_versions(line['records'])]
        texts += [f"{record['row']}, seed {record['seed']}: {record['status']}"
                  for record in line['failed']]
    texts += [f'{task} was measured on several data sets: {_few(sorted(found))}'
              for task, found in datasets.items() if task != 'run' and len(found) > 1]
    return texts + [f'{metric} of {task} is given in several units: {_few(sorted(found))}'
                    for (task, metric), found in units.items() if len(found) > 1]


def mixed_versions(records):
    """A text for each library that has different versions in the runs."""
    found = [record.get('versions') or {} for record in records]
    seen = {name: sorted({str(versions.get(name)) for versions in found})
            for name in sorted(set().union(*found))}
    return [f"mixed versions of {name}: {', '.join(versions)}"
            for name, versions in seen.items() if len(versions) > 1]


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
