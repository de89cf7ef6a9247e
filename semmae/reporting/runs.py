"""The runs below a folder as data for the side-by-side view of a report."""
import json
import os
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from semmae.results import protocol
from semmae.results.mmengine_logs import SCALARS, TIME

from ..config.dumped_config import read_config
from .compared import PredictionSets
from .page import visible

MOST_RUNS = 200
NEVER_ENTERED = ('predictions', 'vis_data', 'vis_image', '.snakemake')
CONDITIONS = ('task', 'dataset', 'split', 'metric', 'unit', 'reduced_why')


class WorkDir(NamedTuple):
    """A work directory. name: below the folder of the report. recipe: the name without a seed."""

    path: Path
    name: str
    recipe: str
    config: dict

    @property
    def kind(self) -> str:
        """The type of the model, without scope: 'SemMAE' of a pre-training; '' if not known."""
        model = self.config.get('model')
        return str(model.get('type', '')).rpartition('.')[2] if isinstance(model, dict) else ''


def work_dirs(folder) -> list[WorkDir]:
    """The directories of trainings and evaluations below a folder, sorted by name."""
    found = []
    for root, folders, files in os.walk(folder):
        is_run = 'config.py' in files or any(
            Path(root, name, SCALARS).is_file() for name in folders if TIME.fullmatch(name))
        folders[:] = sorted(name for name in folders
                            if name not in NEVER_ENTERED and not TIME.fullmatch(name))
        if is_run:
            path = Path(root)
            parts = path.relative_to(folder).parts
            below = parts[1:] if parts and is_seed(parts[0]) else parts
            config = read_config(path / 'config.py', [], tuple) if 'config.py' in files else {}
            own = path.resolve().name
            found.append(WorkDir(path, '/'.join(parts) or own, '/'.join(below) or own, config))
    return found


def is_seed(name):
    """Whether a folder is that of a seed of a suite: seed0, seed1, ..."""
    return name.startswith('seed') and name[4:].isdigit()


def explorer(records, dirs, out, names_of, drawn) -> dict:
    """JSON values of all runs: facts, links, protocol, stored predictions, pictures.

    out: the path of the report, to which links are relative. names_of: as `class_sections` takes
    it. drawn: draws images (`visualization.examples.Examples`); see `PredictionSets`. Runs are
    those with results and those of ``dirs`` without, as pre-trainings; at most ``MOST_RUNS``.
    """
    runs = defaultdict(list)
    for record in records:
        work = folder_of(record)
        runs[str(work), record['row'], record['seed'], record['fingerprint'],
             record.get('predictions') or ''].append(record)
    by_path = {work.path.resolve(): work for work in dirs}
    measured = {Path(key[0]).resolve() for key in runs}
    sets, shown = PredictionSets(names_of, drawn), []
    fields: dict[str, tuple] = {}
    for (source, *_), group in runs.items():
        work = by_path.get(Path(source).resolve())
        shown.append((work.path if work else Path(source), work, group))
    shown.sort(key=lambda run: (title_of(*run), str(run[0]), run[2][0]['fingerprint']))
    shown += [(work.path, work, []) for path, work in by_path.items() if path not in measured]
    found = []
    for path, work, group in shown[:MOST_RUNS]:
        run = dict(name=title_of(path, work, group), row=group[0]['row'] if group else '',
                   facts=facts_of(group),
                   links=links_of(path, work, group, out), protocol=protocol_of(group, fields),
                   pictures=drawn.stored(path, by_path, group))
        sets.add(run, group, work)
        found.append(run)
    order = sorted(fields, key=lambda name: (fields[name], name))
    places = {name: place for place, name in enumerate(order)}
    sheets = list(dict.fromkeys(data for run in found for _, data in run['pictures']))
    for run in found:
        run['pictures'] = [[title, sheets.index(data)] for title, data in run['pictures']]
        run['protocol'] = {places[name]: text for name, text in run['protocol'].items()}
    return as_visible(dict(runs=found, fields=[[name, fields[name][0]] for name in order],
                           sheets=sheets, tests=sets.finished(),
                           left_out=max(0, len(shown) - MOST_RUNS)))


def folder_of(record):
    """The work directory of a record."""
    source = Path(record.get('source') or '.')
    return source if source.is_dir() else source.parent


def title_of(path, work, group):
    """'MAE: linprobe on toy set, seed 0' or, without results, the name of the folder."""
    if not group:
        return f'{work.name} (no result)'
    first = group[0]
    seed = '' if first['seed'] is None else f", seed {first['seed']}"
    return f"{first['task']} on {first['dataset']}: {first['method']} ({first['recipe']}){seed}"


def facts_of(group):
    """[[name, text]] of the results of one run."""
    texts = [[record['metric'], record['status'] if record['status'] != 'ok' else
              f"{record['value']:.4g} {record['unit']}"] for record in group]
    return texts + [[name, str(group[0][name])] for name in ('row', 'device', 'time')
                    if group and group[0].get(name)]


def links_of(path, work, group, out):
    """[[text, relative address]] of the config, the logs and the results that are still there."""
    logs = sorted(path.glob('*/*.log'))
    files = [('config', path / 'config.py'), ('log', logs[-1] if logs else path / 'none.log'),
             ('console', path / 'console.log'), ('results', path / 'results.jsonl')]
    return [[text, quote(os.path.relpath(file, out.parent))]
            for text, file in files if file.is_file()]


def protocol_of(group, fields):
    """{field: text} of conditions, protocol and pre-training; ``fields`` gets the kind of each.

    The kind is 'measurement', 'method' or 'pre-training'.
    """
    if not group:
        return {}
    first = group[0]
    found = {name: str(first.get(name) or '-') for name in CONDITIONS}
    fields.update(dict.fromkeys(found, ('measurement', 0)))
    for number, name in enumerate(protocol.differing_fields([first['protocol'], {}])):
        kind = 'method' if protocol.is_of_the_method(name) else 'measurement'
        fields.setdefault(name, (kind, number + 1))
    own = protocol.comparable(first['protocol'])
    found |= {name: text_of(value) for name, value in own.items()}
    for name, value in protocol.comparable(protocol.identity(first)).items():
        found[f'pre-training: {name}'] = text_of(value)
        fields.setdefault(f'pre-training: {name}', ('pre-training', 0))
    return found


def text_of(value):
    """A value of a protocol as text."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def as_visible(value):
    """The JSON values with control characters in texts shown, as `page.visible` does."""
    if isinstance(value, dict):
        return {key: as_visible(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_visible(inner) for inner in value]
    is_plain = not isinstance(value, str) or value.isascii() and value.isprintable()
    return value if is_plain else visible(value)
