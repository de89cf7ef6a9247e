"""The main numbers of a report: for each task the methods, the best first, with intervals."""
from collections import defaultdict
from statistics import fmean

from semmae.results import protocol

from .comparison import to_the_best
from .lines import ours
from .long import line_of

MOST_CARDS, MOST_LINES = 12, 6  # the rest is in the tables


def headlines(records) -> list[dict]:
    """One dict for each task, data set and protocol whose metric has a known direction.

    Its ``lines`` are the methods, the best first: name, text of the number, its 95 % interval over
    runs, the difference to the best, and positions in percent of the card's range. ``meaning`` says
    in a sentence whether the best is better than the others.
    """
    groups: dict = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record['status'] == 'ok' and protocol.direction(record['metric']):
            groups[protocol.conditions(record)][protocol.anchor(record)].append(record)
    cards = [card_of(list(group.values())) for _, group in sorted(groups.items())]
    return cards[:MOST_CARDS]


def card_of(groups):
    """The dict of results under the same conditions; groups: those that may be averaged."""
    first = groups[0][0]
    sign, shape = protocol.direction(first['metric']), (
        '.2f' if protocol.is_percent(first) else '.4g')
    groups = sorted(groups, key=lambda group: -sign * fmean(r['value'] for r in group))
    texts, bold = to_the_best([dict(records=group) for group in groups])
    lines = []
    for group, text in zip(groups[:MOST_LINES], texts):
        line = line_of(group)
        low, high = (line['low'], line['high']) if line['n'] > 1 else (line['mean'], line['mean'])
        lines.append(dict(
            method=name_of(group[0], groups), anchor=protocol.anchor(group[0]), value=ours(group),
            interval=(f'{low:{shape}} to {high:{shape}}' if line['n'] > 1
                      else 'one run: no interval'),
            difference='' if text.startswith('best') else text, low=low, mean=line['mean'],
            high=high))
    place(lines)
    return dict(task=first['task'], dataset=first['dataset'], split=first['split'],
                metric=first['metric'].rsplit('/', 1)[-1], unit=first['unit'],
                is_reduced=first['reduced'], lines=lines, more=max(0, len(groups) - MOST_LINES),
                direction='higher is better' if sign > 0 else 'lower is better',
                meaning=meaning(lines, texts, bool(bold)))


def name_of(record, groups):
    """The method; with its recipe, and then its pre-training, where others have the same."""
    names = [(group[0]['method'], group[0]['recipe']) for group in groups]
    same = [name for name in names if name[0] == record['method']]
    return record['method'] + (f" ({record['recipe']})" if len(set(same)) > 1 else '')


def place(lines):
    """Give each line its ``left``, ``width`` and ``dot`` in percent of the common range."""
    lowest, highest = min(line['low'] for line in lines), max(line['high'] for line in lines)
    span = (highest - lowest) or 1
    for line in lines:
        left, dot, right = (round(4 + 92 * (line[key] - lowest) / span, 1)
                            for key in ('low', 'mean', 'high'))
        line.update(left=left, dot=dot, width=round(right - left, 1))


def meaning(lines, texts, is_clear):
    """A sentence on the difference of the best to the others."""
    best, *others = (line['method'] for line in lines)
    if not others:
        return f'{best} is the only method here.'
    if is_clear:
        return f'{best} is better than every other method: no interval of a difference includes 0.'
    doubt = next(text for text in texts if text.startswith('best')).removeprefix('best; ')
    why = {'within noise': 'an interval of a difference includes 0',
           'one seed': 'a method has one run only',
           'no spread': 'the runs have no spread',
           'one pre-training': 'the runs share one pre-training',
           'predictions not usable': 'stored predictions cannot be used'}
    return (f'{best} has the best mean. It is not known to be better than every other method: '
            + '; '.join(why.get(text, text) for text in doubt.split(', ')) + '.')
