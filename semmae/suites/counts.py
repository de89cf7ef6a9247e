"""Counts of training steps that are kept: in the package for the suites, else for the user.

    python -m semmae.suites.counts        counts the steps of all suites into steps.json (minutes)

A count holds for the same code of models and the same versions of their libraries only.
"""
import contextlib
import functools
import hashlib
import json
import os
import tempfile
from pathlib import Path

from ..files import write_atomically
from ..recording.environment import versions
from ..shipped import PACKAGE

SHIPPED = Path(__file__).with_name('steps.json')
LIBRARIES = ('torch', 'timm', 'onedl-mmengine', 'onedl-mmcv', 'onedl-mmpretrain',
             'onedl-mmsegmentation')


def known(asked, count) -> dict[str, int]:
    """The answer to ``asked``: of the package, of the user's cache folder, or ``count()``."""
    text = json.dumps([asked, code_and_versions()])
    name = hashlib.sha256(text.encode()).hexdigest()[:16]
    if name in shipped():
        return shipped()[name]
    path = cache_folder() / f'{name}.json'
    with contextlib.suppress(OSError, ValueError):
        return json.loads(path.read_text())
    counted = count()
    with contextlib.suppress(OSError):  # a folder that cannot be written
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda f: f.write(json.dumps(counted).encode()))
    return counted


@functools.cache
def shipped() -> dict[str, dict[str, int]]:
    """{hash of a question: its answer} for the rows of the suites."""
    return json.loads(SHIPPED.read_text())


def cache_folder() -> Path:
    """Where counts are kept: $XDG_CACHE_HOME/semmae/steps; by default ~/.cache/semmae/steps."""
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'semmae/steps'


@functools.cache
def code_and_versions() -> str:
    """A hash of the code that decides a count, and the versions of the libraries of the models."""
    code, found = hashlib.sha256(), versions()
    for path in sorted([*(PACKAGE / 'models').glob('*.py'), *(PACKAGE / 'functional').glob('*.py'),
                        PACKAGE / 'suites/step.py']):
        code.update(path.read_bytes())
    return f'{code.hexdigest()} {[found[name] for name in LIBRARIES]}'


def suites_in_full():
    """The plans of all suites but the dense one, which has no backbone of its own."""
    from .catalogue import SUITES
    from .schedule import plan
    return [plan(suite, f'work_dirs/{name}', list({row.id for row in suite.rows}))
            for name, suite in SUITES.items() if not suite.is_dense]


def ship():
    """Count the steps of all suites into `SHIPPED`."""
    from .costs import costs
    with tempfile.TemporaryDirectory() as folder:
        os.environ['XDG_CACHE_HOME'] = folder
        shipped.cache_clear()
        write_atomically(SHIPPED, lambda f: f.write(b'{}'))
        for runs in suites_in_full():
            costs(runs)
        found = {path.stem: json.loads(path.read_text())
                 for path in sorted(cache_folder().glob('*.json'))}
    lines = ',\n'.join(f'"{name}": {json.dumps(values)}' for name, values in found.items())
    write_atomically(SHIPPED, lambda f: f.write(f'{{\n{lines}\n}}\n'.encode()))
    print(f'{len(found)} counts -> {SHIPPED}')


if __name__ == '__main__':
    ship()
