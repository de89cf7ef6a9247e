"""Records of runs without a results.jsonl, from the logs of mmengine.

    WORK/<config>.py                        the config of the last start, as text
    WORK/<time>/<time>.log                  what a start printed
    WORK/<time>/<time>.json                 the metrics of a test: one object
    WORK/<time>/vis_data/config.py          the config of this start
    WORK/<time>/vis_data/scalars.json       a line for each logged step and each validation

A config is read as data and never run. Reading never fails because of a damaged file.
"""

import json
import os
import re
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from ..config.dumped_config import (
    dataset_of,
    dict_at,
    dumped_protocol,
    dumped_split,
    int_or_none,
    kind,
    read_config,
)
from ..config.lookup import Fields, at
from .protocol import Record, fingerprint, metric_name
from .results import DOCUMENTARY, FILE_NAME, Paths, few, finite, read_results

SCALARS = 'vis_data/scalars.json'
TIME = re.compile(r'[0-9]{8}_[0-9]{6}')
NEVER_ENTERED = frozenset({'vis_data', 'predictions', 'vis_image'})
# Metrics that mmseg logs times 100, as mmpretrain logs its accuracies.
PERCENT = frozenset({'miou', 'macc', 'aacc'})
# The first metric that an evaluator logs.
METRICS = {'Accuracy': 'accuracy/top1', 'IoUMetric': 'mIoU'}

# Tensors that a training initialises: heads, norm after average pooling, relative positions.
NEW_IN_TRAINING = re.compile(r'(?:\w*head|neck|fc)\.|(?:backbone\.)?(?:ln2|fc_norm)\.|'
                             r'.*relative_position')
UNUSED_IN_TEST = re.compile(r'auxiliary_head\.|.*relative_position_index')


def read_everything(paths: Paths) -> tuple[list[Record], list[str]]:
    """Records and problems of ``results.read_results`` and of `read_work_dirs` together."""
    records, problems = read_results(paths)
    others, more = read_work_dirs(paths)
    return records + others, problems + more


def read_work_dirs(paths: Paths) -> tuple[list[Record], list[str]]:
    """Records of the mmengine work dirs below ``paths``, and a text for each problem met.

    A run of another project gives a record for each metric of its last test or validation, in the
    form of ``results.read_results``. Two more fields are ``source``, its folder, and ``why``, the
    reason for a status other than 'ok'. An evaluation of this project without a results.jsonl gives
    one record with status 'unfinished'. Finished evaluations and pre-trainings give none. The order
    of the paths does not matter.
    """
    paths = [paths] if isinstance(paths, (str, Path)) else paths
    problems: list[str] = []
    records: list[Record] = []
    foreign: list[_Run] = []
    for folder, starts in _run_folders(paths, problems):
        run = _read_run(folder, starts, problems)
        if isinstance(run.config.get('result'), dict):
            records.append(_own_record(run))
        elif not isinstance(run.config.get('recipe'), dict) and not _is_pretraining(run):
            foreign.append(run)
    for run, name in zip(foreign, _names([run.folder for run in foreign])):
        records += _foreign_records(run, name, problems)
    records.sort(key=lambda record: (record['row'], record['metric'], record['source']))
    return records, sorted(set(problems))


def _run_folders(paths: Iterable[str | Path], problems: list[str]
                 ) -> Iterator[tuple[Path, list[str]]]:
    """(folder, times of its starts) of each run without results.jsonl; each folder once.

    Links are followed last, so that a run is named by its own folder and not by a link to it.
    """
    pending = sorted({Path(path) for path in paths}, reverse=True)
    links: deque[Path] = deque()
    seen: set[tuple[int, int]] = set()
    while pending or links:
        folder = pending.pop() if pending else links.popleft()
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
            below = [entry for entry in entries if entry.is_dir()]
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            problems.append(f'{folder}: folder not read ({error.strerror})')
            continue
        times = [entry.name for entry in below if TIME.fullmatch(entry.name)]
        below = [entry for entry in below
                 if entry.name not in NEVER_ENTERED and entry.name not in times]
        pending += [folder / entry.name for entry in reversed(below) if not entry.is_symlink()]
        links += [folder / entry.name for entry in below if entry.is_symlink()]
        if (times and not any(entry.name == FILE_NAME and entry.stat().st_size
                              for entry in entries)
                and any(_is_start(folder, time) for time in times)):
            yield folder, times


def _is_start(folder: Path, time: str) -> bool:
    return any((folder / time / name).exists() for name in (SCALARS, f'{time}.json', f'{time}.log'))


def _normal(folder: Path) -> Path:
    """The absolute path without '..'; links stay."""
    return Path(os.path.normpath(folder.absolute()))


def _names(folders: list[Path]) -> list[str]:
    """The name of each folder, with enough parent folders to distinguish equal names."""
    parts = [_normal(folder).parts for folder in folders]
    same: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for path in parts:
        same[path[-1]].add(path)
    counts = {name: next(n for n in range(1, max(map(len, paths)) + 1)
                         if len({path[-n:] for path in paths}) == len(paths))
              for name, paths in same.items()}
    return ['/'.join(path[-counts[path[-1]]:]).replace('//', '/') for path in parts]


class _Scalars(NamedTuple):
    """The first logged step, last training line and validations of one or more scalars.json."""

    first: int = 0
    last: Fields | None = None
    validations: dict[int, Fields] = {}  # {step: metrics}, in order of time
    is_validated: bool = False  # nothing was trained after the last validation


class _Run(NamedTuple):
    folder: Path
    config_file: Path | None
    config: Fields
    scalars: _Scalars
    test: Fields | None
    tested: str  # the checkpoint that a test loaded
    lost: list[str]  # tensors that were not in the checkpoint
    log_iters: int | None  # iterations of the whole training, if the log has them
    modified: float


def _read_run(folder: Path, times: list[str], problems: list[str]) -> _Run:
    """All starts of a run, joined in order of time; the latest start takes precedence."""
    joined, test, test_time, train_time, modified = _Scalars(), None, '', '', 0.0
    for time in sorted(times):
        scalars_file, test_file = folder / time / SCALARS, folder / time / f'{time}.json'
        scalars = _read_scalars(scalars_file, problems)
        if scalars.last or scalars.validations:
            joined, test, train_time = _joined(joined, scalars), None, time
            modified = _modified(scalars_file)
        if metrics := _read_test(test_file, problems):
            test, test_time, modified = metrics, time, _modified(test_file)
    newest = max(times)
    log = _read_log(folder / (train_time or newest), problems)
    lost, tested = [key for key in log.lost if not NEW_IN_TRAINING.match(key)], ''
    if test:
        test_log = _read_log(folder / test_time, problems)
        tested = test_log.loaded
        if test_time != train_time:
            lost = [key for key in test_log.lost if not UNUSED_IN_TEST.match(key)] or (
                lost if train_time else [])
    config_file = _config_file(folder, test_time if test else newest)
    config = read_config(config_file, problems) if config_file else {}
    modified = modified or _modified(folder / newest / f'{newest}.log')
    return _Run(folder, config_file, config, joined, test, tested, lost, log.iters, modified)


def _joined(before: _Scalars, after: _Scalars) -> _Scalars:
    """Two starts as one training, unless the second began again at the first step."""
    if before.last and after.last and after.first <= before.first:
        return after
    validations = {step: metrics for step, metrics in before.validations.items()
                   if step not in after.validations}
    return _Scalars(before.first if before.last else after.first, after.last or before.last,
                    validations | after.validations, after.is_validated)


def _modified(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def scalar_lines(file: Path, problems: list[str]) -> list[Fields]:
    """The lines of a scalars.json that have a step, or [] if there is no file.

    Lines of a training carry 'iter', those of a validation do not. Other lines are damaged: they
    are skipped, and a new problem counts them.
    """
    found: list[Fields] = []
    damaged, lines = [], 0
    try:
        with file.open('rb') as stream:
            for number, line in enumerate(stream, 1):
                if not line.strip():
                    continue
                lines += 1
                scalars = json_object(line)
                step = int_or_none(scalars.get('step')) if scalars else None
                if scalars is None or finite(step) is None:
                    damaged.append(number)
                else:
                    found.append(scalars)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        problems.append(f'{file}: not read further ({error.strerror})')
    if damaged:
        problems.append(f'{file}: {len(damaged)} of {lines} lines damaged and skipped '
                        f'({few(damaged)})')
    return found


def _read_scalars(file: Path, problems: list[str]) -> _Scalars:
    """The scalars of one start."""
    first, last, is_validated = 0, None, False
    validations: dict[int, Fields] = {}
    for scalars in scalar_lines(file, problems):
        step = scalars['step']
        if 'iter' in scalars:
            first, last, is_validated = step if last is None else first, scalars, False
        elif metrics := _metrics(scalars):
            validations.pop(step, None)
            validations[step], is_validated = metrics, True
    return _Scalars(first, last, validations, is_validated)


def _read_test(file: Path, problems: list[str]) -> Fields | None:
    """The metrics of a finished test, or None."""
    try:
        scalars = json_object(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        problems.append(f'{file}: not read ({error.strerror})')
        return None
    if scalars is None:
        problems.append(f'{file}: damaged and skipped')
    return _metrics(scalars or {})


def json_object(line: bytes) -> Fields | None:
    """The object in a line of bytes, or None."""
    try:
        value = json.loads(line.decode('utf-8-sig'))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _metrics(scalars: Fields) -> Fields:
    """The measured values, without times and without the 'val/' of a hierarchical log."""
    metrics = {re.sub('^(val|test)/', '', key): value for key, value in scalars.items()
               if isinstance(value, (int, float)) and not isinstance(value, bool)}
    return {key: value for key, value in metrics.items()
            if key not in ('time', 'data_time', 'step', 'epoch', 'memory')}


class _Log(NamedTuple):
    loaded: str  # the checkpoint
    lost: list[str]  # tensors that it lacked
    iters: int | None  # iterations of the whole training


def _read_log(start: Path, problems: list[str]) -> _Log:
    """The log of a start before its first step.

    mmengine writes the missing tensors of a 'Pretrained' initialisation into the log. For load_from
    and for a tested checkpoint it prints them to the console only, so they are unknown here.
    """
    loaded, lost, iters, file = '', [], None, start / f'{start.name}.log'
    try:
        with file.open(encoding='utf-8', errors='replace') as stream:
            for line in stream:
                if found := re.match(r'missing keys in source state_dict: (.*)', line):
                    lost += [key.strip() for key in found[1].split(',') if key.strip()]
                elif found := re.match(r'size mismatch for ([^:]+):', line):
                    lost.append(found[1])
                elif found := re.search(r' - Load checkpoint from (.*)', line):
                    loaded = found[1].strip()
                elif re.search(r' - (?:Epoch|Iter)\((?:train|val|test)\) ', line):
                    if found := re.search(r'Iter\(train\) +\[ *\d+/(\d+)\]', line):
                        iters = int(found[1])
                    break
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        problems.append(f'{file}: not read further ({error.strerror})')
    return _Log(loaded, lost, iters)


def _config_file(folder: Path, time: str) -> Path | None:
    """The config of a start, else the newest config in the work dir."""
    for file in (folder / time / 'vis_data/config.py', folder / f'{time}.py'):
        if file.is_file():
            return file
    files = [file for file in folder.glob('*.py') if file.is_file()]
    return max(files, key=lambda file: (_modified(file), file), default=None)


def _is_pretraining(run: _Run) -> bool:
    """Whether a run had no evaluation, such as the pre-training of an autoencoder."""
    loaders = ('val_dataloader', 'test_dataloader')
    return bool(run.config.get('train_dataloader') and not run.test
                and not run.scalars.validations
                and not any(run.config.get(loader) for loader in loaders))


def _measured(run: _Run) -> tuple[str, str]:
    """(dataset name, split) of the last test or validation."""
    order = ('test_dataloader', 'val_dataloader')
    for loader in order if run.test else reversed(order):
        if data := dataset_of(at(run.config, loader)):
            return kind(data), dumped_split(data)
    return 'unknown', 'val'


class _Progress(NamedTuple):
    missing: str = ''  # why a training is not finished
    field: str = ''  # the field of a protocol that counts its steps, if some are missing
    reached: int = 0


def _progress(run: _Run) -> _Progress:
    """The completed steps of a training, and those in its config.

    mmengine always validates after the last step. It counts validations in epochs unless
    log_metric_by_epoch is off; in a run of iterations an epoch is a pass over the data.
    """
    train, logger = dict_at(run.config, 'train_cfg'), dict_at(run.config, 'default_hooks.logger')
    last, ended = run.scalars.last or {}, run.scalars.is_validated
    by_epoch = logger.get('log_metric_by_epoch') is not False
    step = next(reversed(run.scalars.validations), 0)
    epochs, iters = int_or_none(train.get('max_epochs')), int_or_none(train.get('max_iters'))
    total: int | None
    epoch, done = int_or_none(last.get('epoch')) or 0, int_or_none(last.get('iter')) or 0
    if not last and run.scalars.validations and not step:
        return _Progress()  # no training, only a validation
    if epochs is not None and (epoch or by_epoch):
        field, unit, total = 'epochs', 'epoch', epochs
        reached = max(epoch, step if by_epoch else 0)
        is_done = step >= epochs if by_epoch else ended and epoch >= epochs
    else:
        total = iters if iters is not None else run.log_iters
        field, unit, reached = 'iters', 'iteration', done if by_epoch else max(done, step)
        if total is None:
            return _Progress('' if epochs is None else 'the iterations in an epoch are not known')
        # The last steps are not logged where the interval does not divide them.
        interval = int_or_none(logger.get('interval')) or 10
        is_done = step >= total or by_epoch and ended and done > total - interval
    if is_done:
        return _Progress()
    if reached >= total:
        return _Progress(f'not validated after {unit} {reached} of {total}')
    return _Progress(f'{unit} {reached} of {total}', field, reached)


def _common(run: _Run, name: str, dataset: str, split: str, protocol: Fields) -> Record:
    last, seed = run.scalars.last or {}, int_or_none(at(run.config, 'randomness.seed'))
    moment = datetime.fromtimestamp(run.modified, UTC).isoformat(timespec='milliseconds')
    return {**dict.fromkeys(DOCUMENTARY), 'tables': [], 'method': name, 'recipe': name,
            'dataset': dataset, 'split': split, 'seed': seed, 'protocol': protocol,
            'fingerprint': fingerprint(protocol), 'config': str(run.config_file or 'unknown'),
            'checkpoint': None, 'checkpoint_sha256': None, 'reduced': False, 'time': moment,
            'epochs': int_or_none(last.get('epoch')), 'iters': int_or_none(last.get('iter')),
            'source': str(run.folder), 'why': ''}


def _own_record(run: _Run) -> Record:
    """An evaluation of this project that was started and wrote no result."""
    result, name = run.config['result'], _normal(run.folder).name
    dataset, split, task = (str(result.get(key, 'unknown')) for key in ('dataset', 'split', 'task'))
    metric, tables = result.get('metric'), result.get('tables')
    metric = metric[0] if isinstance(metric, list) and metric else metric
    metric = str(metric or 'unknown')
    protocol = dumped_protocol(run.config, dataset, split, bool(run.test))
    return {**_common(run, name, dataset, split, protocol), 'row': f'{task}/{name}',
            'task': task, 'metric': metric, 'value': None, 'unit': _unit(metric),
            'tables': tables if isinstance(tables, list) else [],
            'status': 'unfinished', 'why': _progress(run).missing or f'no {FILE_NAME}'}


def _foreign_records(run: _Run, name: str, problems: list[str]) -> list[Record]:
    """A record for each metric of the last test, or else of the last validation."""
    dataset, split = _measured(run)
    protocol = dumped_protocol(run.config, dataset, split, bool(run.test))
    validations = run.scalars.validations
    progress = _progress(run)
    metrics: Fields = run.test or next(reversed(validations.values()), {})
    status, why = 'ok', ''
    if run.test:
        if Path(run.tested).name.startswith('best_'):
            protocol['selection'] = f"best of {len(validations) or 'several'} validations"
        if progress.field and run.scalars.last:
            # A test of a stopped training: the protocol has the steps that were done.
            protocol[progress.field], why = progress.reached, f'tested after {progress.missing}'
    elif progress.missing or not metrics:
        status, why = 'unfinished', progress.missing or 'nothing was validated'
    if not run.config_file:
        problems.append(f'{run.folder}: no config found; whether the run finished is not known')
    if loss := _loss_trouble(run.scalars.last):
        status, why = 'non-finite', loss
    if run.lost:
        plural = 's' if len(run.lost) > 1 else ''
        status, why = 'not loaded', (f'{len(run.lost)} tensor{plural} of the '
                                     f'{_owner(run.lost)} missing, first: {run.lost[0]}')
    common = _common(run, name, dataset, split, protocol)
    return [{**common, 'row': f'run/{name}', 'task': 'run', 'metric': metric,
             'unit': _unit(metric), **_value(metric, value, status, why)}
            for metric, value in (metrics or {_expected_metric(run): None}).items()]


def _owner(lost: Sequence[str]) -> str:
    """'backbone', or 'model' where a head was lost too."""
    is_head = re.compile(r'(?:\w*head|neck|fc)\.')
    return 'model' if any(is_head.match(key) for key in lost) else 'backbone'


def _value(metric: str, value: Any, status: str, why: str) -> Fields:
    number = None if status != 'ok' else finite(value)
    if status == 'ok' and number is None:
        status, why = 'non-finite', f'{metric} is {_token(value)}'
    return dict(value=number, status=status, why=why)


def _loss_trouble(last: Fields | None) -> str:
    """A text if the last loss is not finite, else ''."""
    last = last or {}
    loss = last.get('loss', last.get('train/loss'))
    if not isinstance(loss, (int, float)) or finite(loss) is not None:
        return ''
    return f"loss is {_token(loss)} at step {last['step']}"


def _token(value: float) -> str:
    try:
        return json.dumps(float(value))
    except OverflowError:
        return 'too large'


def _unit(metric: str) -> str:
    is_accuracy = metric.startswith('accuracy/') or '/accuracy/' in metric
    return '%' if is_accuracy or metric_name(metric) in PERCENT else ''


def _expected_metric(run: _Run) -> str:
    evaluator = kind(run.config.get('val_evaluator'))
    return METRICS.get(evaluator, evaluator)
