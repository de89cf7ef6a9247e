"""Every result as data: a line for each mean, as CSV or JSON."""
import csv
import io
import json
import statistics
from collections import defaultdict

from scipy import stats

from semmae.results import protocol
from semmae.results.statistics import LEVEL

COLUMNS = ('row', 'method', 'recipe', 'task', 'dataset', 'split', 'metric', 'unit', 'mean', 'std',
           'n', 'low', 'high', 'seeds', 'protocol', 'reduced_why', 'tables')


def long_lines(records) -> list[dict]:
    """A dict with ``COLUMNS`` for each set of results that may be averaged.

    records: as ``read_results`` returns them; failed ones are left out. std: the sample standard
    deviation. low, high: the 95 % confidence interval of the mean over runs (t). All three are
    None for one run. protocol: the fingerprint; equal ones can be compared.
    """
    groups = defaultdict(list)
    for record in records:
        if record['status'] == 'ok':
            groups[protocol.anchor(record)].append(record)
    lines = [line_of(group) for group in groups.values()]
    return sorted(lines, key=lambda line: json.dumps(line, sort_keys=True))


def line_of(records) -> dict:
    """The dict of results that may be averaged."""
    first = records[0]
    values = [float(record['value']) for record in records]
    mean, std = statistics.fmean(values), None
    low = high = None
    if len(values) > 1:
        std = statistics.stdev(values)
        half = stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * std / len(values) ** .5
        low, high = float(mean - half), float(mean + half)
    numbers = dict(mean=mean, std=std, n=len(values), low=low, high=high,
                   seeds=sorted({record['seed'] for record in records}, key=str),
                   protocol=first['fingerprint'])
    return {name: numbers[name] if name in numbers else first.get(name) for name in COLUMNS}


def long_text(records, format) -> str:
    """The lines as text. format: 'long' (CSV) or 'json'."""
    lines = long_lines(records)
    if format == 'json':
        return json.dumps(lines, indent=1) + '\n'
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator='\n')
    writer.writeheader()
    for line in lines:
        writer.writerow({name: ' '.join(map(str, value)) if isinstance(value, list) else value
                         for name, value in line.items()})
    return out.getvalue()
