"""A skipped test is named with what would run it, and fails a run that was to skip nothing."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .skips import name_of

pytestmark = pytest.mark.slow

CONFTEST = '''
from skips import Skips


def pytest_configure(config):
    config.pluginmanager.register(Skips())
'''
TESTS = '''
import pytest


def test_it():
    pass


@pytest.mark.skip(reason='no chromium on this machine')
@pytest.mark.parametrize('i', range(3))
def test_page(i):
    pass
'''


@pytest.mark.parametrize('allowed, status, said', [
    (None, 0, 'skipped: 3 (browser: needs apt-get install chromium)'),
    ('data browser', 0, 'skipped: 3 (browser'),
    ('data', 1, 'FAILED: skips that are not allowed: browser'),
    ('', 1, 'FAILED: skips that are not allowed: browser')])
def test_a_skip_that_is_not_allowed_fails_the_run(tmp_path, allowed, status, said):
    shutil.copy(Path(__file__).with_name('skips.py'), tmp_path)
    (tmp_path / 'conftest.py').write_text(CONFTEST)
    (tmp_path / 'test_it.py').write_text(TESTS)
    env = {k: v for k, v in os.environ.items() if k != 'SEMMAE_ALLOWED_SKIPS'}
    env |= {} if allowed is None else dict(SEMMAE_ALLOWED_SKIPS=allowed)
    done = subprocess.run([sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider'],
                          cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == status and said in done.stdout
    assert done.stdout.splitlines()[-1].startswith('1 passed, 3 skipped')


def test_an_unknown_reason_is_its_own_name():
    assert name_of('Skipped: only on Tuesdays') == 'Skipped: only on Tuesdays'
