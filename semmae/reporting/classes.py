"""Results of each class, confusions, and the worst and best images, from stored predictions."""
from collections import Counter, defaultdict
from statistics import fmean

import numpy as np

from semmae.results import protocol
from semmae.results.predictions import PAIRS

from .comparison import predictions_of
from .headline import name_of
from .page import Section

MOST_METHODS = 8  # of one table; the best ones
MATRIX = 25  # classes of a matrix; with more, the most frequent confusions are listed
MOST_CLASSES, MOST_CONFUSIONS = 200, 30  # lines of a table
NO_CLASS = 100_000


def class_sections(records, names_of) -> list[Section]:
    """Tables of classes and confusions for each test set with stored predictions.

    names_of: called with a record, gives the names of its classes or [].
    """
    tests: dict = defaultdict(lambda: defaultdict(dict))
    for record in records:
        if record['status'] == 'ok' and (found := usable(record)) is not None:
            files = tests[protocol.conditions(record)._replace(metric='', unit='')]
            line = files[protocol.anchor({**record, 'metric': '', 'unit': ''})]
            line.setdefault(record['source'] + record['predictions'], (record, found))
    found = [section for _, lines in sorted(tests.items())
             for section in of_test_set([list(line.values()) for line in lines.values()], names_of)]
    return [Section('Classes and confusions', text='From the stored predictions; means over seeds. '
                    'Percent.'), *found] if found else []


def usable(record):
    """The stored predictions of a record, None without them or with numbers that are no classes."""
    found = predictions_of(record)
    if found is None or 'labels' not in found:
        return found
    classes = np.stack([found['labels'], found['predicted']])
    return found if 0 <= classes.min() <= classes.max() < NO_CLASS else None


def of_test_set(lines, names_of):
    """The sections of one test set. lines: [(record, predictions) of each seed] of each method."""
    first, predictions = lines[0][0]
    names = class_names(predictions, names_of(first))
    sign = protocol.direction(first['metric']) or 1
    lines = sorted(lines, key=lambda line: -sign * fmean(r['value'] for r, _ in line))
    what = f"{first['task']} on {first['dataset']}"
    shown, more = lines[:MOST_METHODS], ''
    if len(lines) > MOST_METHODS:
        more = f'The {MOST_METHODS} best of {len(lines)} methods.'
    titles = unique([name_of(line[0][0], [[r for r, _ in other] for other in lines])
                     for line in shown])
    measures = {'accuracy': accuracy_of_classes}
    if 'intersection' in predictions:
        measures = {'IoU': iou_of_classes, **measures}
    columns, counts = ['class', 'pixels' if 'intersection' in predictions else 'images'], sizes(
        predictions, len(names))
    values = []
    for name, measure in measures.items():
        for title, line in zip(titles, shown):
            columns.append(f'{title}: {name}')
            values.append(np.mean([measure(found, len(names)) for _, found in line], axis=0))
    rows = [[name, str(count), *(cell(column[k]) for column in values)]
            for k, (name, count) in enumerate(zip(names, counts))]
    if len(rows) > MOST_CLASSES:
        spread = np.nan_to_num(np.ptp(values, axis=0)) if len(values) > 1 else -np.array(values[0])
        kept = sorted(np.argsort(-spread, kind='stable')[:MOST_CLASSES])
        rows, more = [rows[k] for k in kept], (
            f'{more} The {MOST_CLASSES} of {len(names)} classes that differ most.')
    yield Section(f'Classes: {what}', level=3, text=more.strip(), columns=columns, rows=rows)
    for title, line in zip(titles, shown):
        heading, seeds = f'Confusions of {title}: {what}', [found for _, found in line]
        if all('labels' in found or PAIRS in found for found in seeds):
            yield confusions(heading, names, pairs_of(seeds), columns[1])
        else:
            yield Section(heading, level=3, text='These predictions are of an earlier version, '
                          'which stored the pixels of each class only. Evaluate again with '
                          'semmae test.')


def unique(titles):
    """The titles, numbered where several are equal."""
    return [f'{title} {titles[:k + 1].count(title)}' if titles.count(title) > 1 else title
            for k, title in enumerate(titles)]


def class_names(predictions, names):
    """A text for each class: the given one, else the folder of its images, else its number."""
    if 'intersection' in predictions:
        number = predictions['label'].shape[1]
    else:
        number = 1 + int(max(predictions['labels'].max(), predictions['predicted'].max()))
    folders: dict = {}
    for name, label in zip(predictions['images'], predictions.get('labels', ())):
        folders.setdefault(int(label), set()).add(name.rpartition('/')[0].rpartition('/')[2])
    known = {label: next(iter(found)) for label, found in folders.items() if len(found) == 1}
    if len(set(known.values())) < len(known):
        known = {}  # one folder for all classes
    return [str(names[k]) if k < len(names) else known.get(k) or f'class {k}'
            for k in range(max(number, len(names)))]


def sizes(predictions, number):
    """(C,) labelled images or pixels of each class."""
    return (np.bincount(predictions['labels'], minlength=number) if 'labels' in predictions
            else padded(predictions['label'].sum(0), number))


def padded(counts, number):
    """The counts of (C,) classes, with zeros up to ``number``."""
    return np.pad(counts, (0, number - len(counts)))


def pairs_of(predictions):
    """Counter of the (true class, predicted class) of all images, or pixels, of all runs."""
    pairs: Counter = Counter()
    for found in predictions:
        if 'labels' in found:
            pairs.update(zip(found['labels'].tolist(), found['predicted'].tolist()))
            continue
        right = found['intersection'].sum(0).tolist()
        pairs.update({(k, k): count for k, count in enumerate(right)})
        for _, true, predicted, count in found[PAIRS].tolist():
            pairs[true, predicted] += count
    return pairs


def accuracy_of_classes(predictions, number):
    """(C,) percent of the images or pixels of each class that are right; NaN without any."""
    right = (np.bincount(predictions['labels'][predictions['labels'] == predictions['predicted']],
                         minlength=number) if 'labels' in predictions
             else padded(predictions['intersection'].sum(0), number))
    with np.errstate(invalid='ignore', divide='ignore'):
        return 100 * right / sizes(predictions, number)


def iou_of_classes(predictions, number):
    """(C,) percent; NaN for a class without labelled and predicted pixels."""
    hit, predicted, label = (padded(predictions[key].sum(0), number).astype(float)
                             for key in ('intersection', 'predicted', 'label'))
    with np.errstate(invalid='ignore', divide='ignore'):
        return 100 * hit / (predicted + label - hit)


def cell(value):
    """Two decimals; '-' for NaN."""
    return '-' if np.isnan(value) else f'{value:.2f}'


def confusions(heading, names, pairs, unit='images'):
    """A matrix of percents of the true class, or a list of the most frequent confusions.

    unit: what ``pairs`` count, 'images' or 'pixels'.
    """
    totals: Counter = Counter()
    for (true, _), count in pairs.items():
        totals[true] += count
    classes = range(len(names))
    if len(names) <= MATRIX:
        return Section(
            heading, level=3, text='Rows: true class. Columns: predicted class. Percent of the '
            f'{unit} of the true class.', columns=['true', *unique(names)], is_shaded=True,
            rows=[[names[i], *(f'{100 * pairs[i, j] / max(1, totals[i]):.1f}' for j in classes)]
                  for i in classes])
    wrong = sorted(((i, j) for i, j in pairs if i != j), key=lambda pair: (-pairs[pair], pair))
    return Section(
        heading, level=3, text=f'The {MOST_CONFUSIONS} most frequent ones in all runs of this '
        'method.', columns=['true', 'predicted', unit, '% of the true class'],
        rows=[[names[i], names[j], str(pairs[i, j]), f'{100 * pairs[i, j] / totals[i]:.1f}']
              for i, j in wrong[:MOST_CONFUSIONS]])
