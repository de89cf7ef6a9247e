"""Reads the results that a user names, and refuses a file without any."""
from collections.abc import Sequence
from pathlib import Path

from .mmengine_logs import read_everything
from .protocol import Record
from .results import Paths, read_results


class NoResult(ValueError):
    """A result file without any result."""


def read_records(paths: Paths) -> tuple[list[Record], list[str]]:
    """(records, problems) of `read_everything`.

    Raises FileNotFoundError for a missing path, and `NoResult` for a file without any result.
    """
    given = [Path(path) for path in ([paths] if isinstance(paths, (str, Path)) else paths)]
    records, problems = read_everything(given)
    require_results(given, records)
    return records, problems


def require_results(paths: Sequence[Path], records: list[Record]) -> None:
    """Raises `NoResult` for a file among ``paths`` without any result."""
    sources = {record['source'] for record in records}
    for path in (path for path in paths if not path.is_dir()):
        if str(path.resolve()) in sources:
            continue
        found, problems = read_results([path])  # a newer result of another path may replace it
        if not found:
            why = '; '.join(text.removeprefix(f'{path}: ') for text in problems) or 'it is empty'
            raise NoResult(f'{path} holds no result: {why}. Expected a results.jsonl, or a '
                           'folder with some, as a training or test of this project leaves it')
