"""Lines of a table: the results that are averaged in each, and their texts."""
import json
import statistics
from collections import Counter, defaultdict

from semmae.results import protocol

from .comparison import pretrainings


def lines_of(records, cell, method, setting):
    """The lines of one row: one for each set of results that may be averaged, at least one."""
    groups = defaultdict(list)
    for record in records:
        if record['status'] == 'ok':
            groups[protocol.may_be_averaged(record)].append(record)
    lines = [dict(method=method, setting=setting, cell=cell, records=groups[group], failed=[])
             for group in sorted(groups)]
    lines = lines or [dict(method=method, setting=setting, cell=cell, records=[], failed=[])]
    lines[0]['failed'] = sorted(
        (record for record in records if record['status'] != 'ok'),
        key=lambda record: json.dumps({**record, 'source': ''}, sort_keys=True))
    return lines


def ours(records):
    """'65.30 ± 0.40 (n=3)' of results that may be averaged, or ''."""
    if not records:
        return ''
    shape = '{:.2f}' if protocol.is_percent(records[0]) else '{:.4g}'
    values = [float(record['value']) for record in records]
    spread = f' ± {shape.format(statistics.stdev(values))}' if len(values) > 1 else ''
    seeds = len({record['seed'] for record in records})
    of_seeds = f', seeds: {seeds}' if seeds < len(records) else ''
    weights = pretrainings(records)
    of_weights = f', pre-trainings: {weights}' if weights < len(records) else ''
    number = f'n={len(values)}{of_seeds}{of_weights}'
    return f'{shape.format(statistics.fmean(values))}{spread} ({number})'


def failures(records):
    """A note for each status of failed runs."""
    return [f"{times} run{'s' if times > 1 else ''} {status}, not averaged" for status, times in
            sorted(Counter(record['status'] for record in records).items())]


def not_averaged(lines):
    """A text for the legend for each failed run."""
    return [f"Not averaged: {record['row']}, seed {record['seed']}: {_why(record)}, "
            f"{record['metric']}, {record['time']}, checkpoint {record['checkpoint'] or 'none'}."
            for line in lines for record in line['failed']]


def _why(record):
    return record['status'] + (f" ({record['why']})" if record.get('why') else '')


class Numbered:
    """Marks such as 'reduced 1', and the legend with the text of each."""

    def __init__(self, *kinds):
        self.texts: dict[str, dict[str, int]] = {kind: {} for kind in kinds}

    def mark(self, kind, text):
        """The mark of a text; equal texts share one."""
        texts = self.texts[kind]
        return f'{kind} {texts.setdefault(text, len(texts) + 1)}'

    def size(self, records):
        """The marks of averaged results that are smaller or longer than the paper's protocol."""
        if not records:
            return []
        first, marks = records[0], []
        if first['reduced']:
            marks.append(self.mark('reduced', first.get('reduced_why') or 'not recorded how'))
        if first.get('enlarged_why'):
            marks.append(self.mark('longer', first['enlarged_why']))
        return marks

    def legend(self):
        """A text for each mark."""
        return [f'{kind} {number}: {text}.' for kind, texts in self.texts.items()
                for text, number in texts.items()]
