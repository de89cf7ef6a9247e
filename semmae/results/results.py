"""results.jsonl: one line for each measured number, written by the run that measured it.

Reading never fails because of a damaged line: damaged lines are skipped and counted.
"""

import json
import math
import os
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from .protocol import Record, fingerprint, is_percent

Paths = str | Path | Iterable[str | Path]

FILE_NAME = 'results.jsonl'

# Fields that identify a number, its conditions and its run. A line that lacks one is skipped.
REQUIRED: dict[str, tuple[type, ...]] = {
    'row': (str,), 'method': (str,), 'recipe': (str,), 'task': (str,), 'dataset': (str,),
    'split': (str,), 'metric': (str,), 'value': (int, float, type(None)), 'unit': (str,),
    'seed': (int, type(None)), 'protocol': (dict,), 'fingerprint': (str,), 'config': (str,),
    'checkpoint': (str, type(None)), 'checkpoint_sha256': (str, type(None)), 'reduced': (bool,),
    'status': (str,), 'time': (str,)}

# Tasks without random numbers: with the same weights every seed gives the same value.
SEEDLESS = frozenset({'knn', 'logistic'})

# Written as null where unknown, so that every line has the same keys.
DOCUMENTARY = ('tables', 'epochs', 'iters', 'config_sha256', 'load_report', 'git_commit',
               'versions', 'device', 'wall_time_s', 'reduced_why', 'predictions', 'pretraining',
               'model', 'kind', 'enlarged_why', 'differs')

DOCUMENTARY_TYPES = dict(tables=list, versions=dict, load_report=dict, reduced_why=str,
                         predictions=str, git_commit=str, device=str, why=str, pretraining=dict,
                         model=dict, kind=str, enlarged_why=str, provenance=str, differs=dict)


def append_result(path: str | Path, record: Record) -> Record:
    """Append one record as one line, atomically, and return it as written.

    Fills ``status`` ('ok'), ``time``, ``fingerprint`` (of the protocol) and absent documentary
    fields. NaN and infinity are written as null with status 'non-finite'. The line also gets its
    checksum, ``crc``, which reading checks and removes. Raises ValueError for a record that lacks a
    required field, and writes nothing.
    """
    record = {**dict.fromkeys(DOCUMENTARY), 'tables': [], 'status': 'ok',
              'time': datetime.now(UTC).isoformat(timespec='milliseconds'),
              **_plain(record)}
    if isinstance(record.get('protocol'), dict):
        expected = fingerprint(record['protocol'])
        if record.setdefault('fingerprint', expected) != expected:
            raise ValueError(
                f"result {record.get('row')!r}: fingerprint {record['fingerprint']!r} is not that "
                f'of its protocol, {expected!r}. Leave the field out: it is computed.')
    if record['status'] == 'ok' and record.get('value', 0) is None:
        record['status'] = 'non-finite'
    if why := complaint(record):
        raise ValueError(f"result {record.get('row')!r} for {path}: {why}. Required: "
                         f"{', '.join(REQUIRED)}.")
    _append_line(Path(path), as_line(record))
    return record


def as_line(record: Record) -> bytes:
    """A record as one line of results.jsonl, with its checksum."""
    return json.dumps({**record, 'crc': checksum(record)}, allow_nan=False).encode() + b'\n'


def checksum(record: Record) -> str:
    """CRC-32 of a record without ``crc``, eight hex digits; the order of keys does not count."""
    rest = {name: value for name, value in record.items() if name != 'crc'}
    return f'{zlib.crc32(json.dumps(rest, sort_keys=True).encode()):08x}'


# Where a folder of runs is expected and missing.
HOW_TO_MAKE_RUNS = ('. Expected a work directory with a results.jsonl in it or below. To make one: '
                    'python tools/run_suite.py mini')


def read_results(paths: Paths) -> tuple[list[Record], list[str]]:
    """All usable records under the given work dirs and files, and a text for each problem met.

    Returns (records, problems); neither depends on the order of paths, files or lines. Raises
    FileNotFoundError for a path that does not exist.

    Lines with the same row, dataset, split, metric, seed, fingerprint and weights are repetitions:
    the one with the latest ``time`` counts. The weights are the pre-trained ones if the load report
    names them, else the checkpoint. So a probe that was trained again from the same weights and
    seed is not a second sample. For tasks in ``SEEDLESS`` the seed does not count. A failed
    repetition never replaces a good number; both are kept. ``source`` is the file of a record.
    """
    given = [Path(path) for path in ([paths] if isinstance(paths, (str, Path)) else paths)]
    missing = [str(path) for path in given if not path.exists()]
    if missing:
        raise FileNotFoundError(f"no such file or folder: {', '.join(missing)}. "
                                f'Expected work dirs or {FILE_NAME} files.')
    problems: list[str] = []
    records: list[Record] = []
    files = {file.resolve(): file for path in given for file in _result_files(path, problems)}
    for file in files.values():
        found, trouble = _read_file(file)
        records += found
        problems += trouble
    return _latest(_of_one_training(records)), sorted(set(problems))


def _append_line(path: Path, line: bytes) -> None:
    """Write one line under a lock, after a newline if a killed writer left a partial line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f'{path}.lock', timeout=60):
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(fd).st_size
            if size and os.pread(fd, 1, size - 1) != b'\n':
                line = b'\n' + line
            written = os.write(fd, line)
            if written != len(line):
                raise OSError(f'{path}: {written} of {len(line)} bytes written; is the disk full?')
            os.fsync(fd)
        finally:
            os.close(fd)


def _plain(value: Any) -> Any:
    """JSON values only: numpy and torch numbers become Python's, NaN and infinities become None."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, (set, frozenset)):
        return sorted((_plain(inner) for inner in value), key=str)
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, 'tolist'):  # numpy and torch, scalars and arrays, without importing either
        return _plain(value.tolist())
    raise TypeError(f'a result holds {type(value).__name__} {value!r}; expected JSON values')


def complaint(record: Record) -> str:
    """Why a record cannot be used, or '' if it can."""
    lacking = [name for name in REQUIRED if name not in record]
    if lacking:
        return f"lacks {', '.join(lacking)}"
    for name, types in REQUIRED.items():
        value = record[name]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            wanted = ' or '.join('null' if kind is type(None) else kind.__name__ for kind in types)
            return f'{name} is {type(value).__name__}, expected {wanted}'
    return ''


def _result_files(path: Path, problems: list[str]) -> list[Path]:
    """``path`` itself if it is a file, else every results.jsonl below it."""
    if not path.is_dir():
        return [path]
    files, seen = [], set()

    def unreadable(error: OSError) -> None:
        problems.append(f'{error.filename}: folder not read ({error.strerror})')

    for root, folders, names in os.walk(path, followlinks=True, onerror=unreadable):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        if FILE_NAME in names:
            files.append(Path(root) / FILE_NAME)
    return files


def _read_file(file: Path) -> tuple[list[Record], list[str]]:
    """(records, problems) of one file, line by line: the file may be large or half written."""
    records: list[Record] = []
    rejected: dict[str, list[int]] = defaultdict(list)
    lines = 0
    try:
        with file.open('rb') as stream:
            for number, line in enumerate(stream, 1):
                if number == 1:
                    line = line.removeprefix(b'\xef\xbb\xbf')
                if not line.strip():
                    continue
                lines += 1
                record, why = _parse(line)
                if record is not None:
                    records.append({**record, 'source': str(file.resolve())})
                if why:
                    rejected[why].append(number)
    except OSError as error:
        return records, [f'{file}: not read further ({error.strerror})']
    return records, [f'{file}: {len(numbers)} of {lines} lines {why} ({few(numbers)})'
                     for why, numbers in rejected.items()]


def _parse(line: bytes) -> tuple[Record | None, str]:
    """(record or None, problem or ''); a NaN or Infinity token makes the status 'non-finite'."""
    try:
        record = json.loads(line.decode('utf-8'))
        if not isinstance(record, dict):
            return None, 'damaged and skipped'
        # Lines of earlier versions and other writers have no checksum.
        if 'crc' in record and record.pop('crc') != checksum(record):
            return None, 'changed since they were written (crc) and skipped'
    except (ValueError, RecursionError):
        return None, 'damaged and skipped'
    if why := complaint(record):
        return None, f'skipped: {why}'
    record['value'] = finite(record['value'])
    if record['status'] == 'ok' and record['value'] is None:
        record['status'] = 'non-finite'
    lowest = -100 if record['metric'].endswith('ARI') else 0  # 0 is chance
    if record['status'] == 'ok' and is_percent(record) and not lowest <= record['value'] <= 100:
        record['status'] = 'impossible'
        record['why'] = f"{record['value']:g} percent"
    odd = [name for name, kind in DOCUMENTARY_TYPES.items()
           if not isinstance(record.get(name, None), (kind, type(None)))]
    if 'tables' not in odd and any(type(t) not in (int, str) for t in record.get('tables') or ()):
        odd.append('tables')
    record.update(dict.fromkeys(odd))
    expected = fingerprint(record['protocol']) if record['protocol'] else record['fingerprint']
    if record['fingerprint'] != expected:
        record['fingerprint'] = expected
        return record, 'carry a fingerprint that is not that of their protocol; the protocol counts'
    return record, f"have unreadable fields, left out: {', '.join(odd)}" if odd else ''


def finite(value: Any) -> float | None:
    """The value as a float; None if it is NaN, infinite or not a number."""
    try:
        value = float(value)
    except (TypeError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def few(numbers: Sequence[int]) -> str:
    """'lines 1, 2, 3, 4, 5, ...' of line numbers."""
    shown = ', '.join(map(str, numbers[:5]))
    return f"line{'s' if len(numbers) > 1 else ''} {shown}{', ...' if len(numbers) > 5 else ''}"


def _of_one_training(records: list[Record]) -> list[Record]:
    """The records, with one seed (that of the first) for all records of the same weights.

    A test of a checkpoint is not a second run of its training, whatever the seed of the test.
    """
    seeds: dict[tuple[Any, ...], int | None] = {}
    for record in sorted(records, key=_age):
        weights = record['checkpoint_sha256']
        key = (*(record[name] for name in ('row', 'dataset', 'split', 'metric', 'fingerprint')),
               weights)
        if weights:
            record['seed'] = seeds.setdefault(key, record['seed'])
    return records


def _latest(records: list[Record]) -> list[Record]:
    """The last good record of each evaluation, and a failed one where it came later."""
    good: dict[tuple[Any, ...], Record] = {}
    failed: dict[tuple[Any, ...], Record] = {}
    for record in sorted(records, key=_age):
        report = record.get('load_report')
        pretrained = report.get('sha256') if isinstance(report, dict) else None
        weights = pretrained or record['checkpoint_sha256']
        seed = None if record['task'] in SEEDLESS and weights else record['seed']
        key = (*(record[name] for name in ('row', 'dataset', 'split', 'metric')), seed,
               record['fingerprint'], str(weights))
        (good if record['status'] == 'ok' else failed)[key] = record
    failed = {key: record for key, record in failed.items()
              if key not in good or _age(record) > _age(good[key])}
    return sorted([*good.values(), *failed.values()],
                  key=lambda record: (record['row'], record['metric'], _age(record)))


def _age(record: Record) -> tuple[float, bool, str, str]:
    """A key that sorts by time, and by content where times are equal or unreadable."""
    try:
        moment = datetime.fromisoformat(record['time'].replace('Z', '+00:00'))
        seconds = moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
    except (ValueError, OverflowError):
        seconds = -math.inf
    # For two copies of one line, use the copy with its predictions.
    folder, name = Path(record.get('source') or '.').parent, record.get('predictions')
    is_whole = isinstance(name, str) and (folder / name).is_file()
    content = {key: value for key, value in record.items() if key != 'source'}
    return seconds, is_whole, json.dumps(content, sort_keys=True), record.get('source', '')
