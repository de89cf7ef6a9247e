"""The lock, the Dockerfile and the declared versions fit each other."""
import configparser
import fnmatch
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from itertools import repeat
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .tiny import REPO

LOCK = (REPO / 'requirements/lock.txt').read_text()
VERSIONS = '3.11', '3.12', '3.13', '3.14'
DOCKERFILE = (REPO / 'Dockerfile').read_text().replace('\\\n', ' ')


def pins(version):
    """{name: version} that the lock has for a version of Python."""
    found = [Requirement(line) for line in LOCK.splitlines() if line and line[0] != '#']
    chosen = [pin for pin in found if not pin.marker or pin.marker.evaluate(
        dict(python_version=version))]
    names = [canonicalize_name(pin.name) for pin in chosen]
    assert len(names) == len({*names}) and all(
        re.fullmatch(r'==[\w.+!]+', str(pin.specifier)) for pin in chosen)
    return dict(zip(names, (str(pin.specifier)[2:] for pin in chosen)))


def wanted(version):
    """What setup.cfg asks for with all extras."""
    setup = configparser.ConfigParser()
    setup.read(REPO / 'setup.cfg')
    texts = setup['options']['install_requires'], *setup['options.extras_require'].values()
    found = [Requirement(line) for text in texts for line in text.splitlines()
             if line and line[0] != '#']
    return [need for need in found if not need.marker or need.marker.evaluate(
        dict(python_version=version))]


@pytest.mark.parametrize('version', VERSIONS)
def test_the_lock_has_one_version_of_each_declared_package_within_its_range(version):
    locked = pins(version)
    outside = [str(need) for need in wanted(version)
               if locked.get(canonicalize_name(need.name)) not in need.specifier]
    assert outside == []


def test_the_lock_names_no_index_and_no_file():
    assert not re.search(r'://|^-|@ ', LOCK, re.MULTILINE)


def test_the_classifiers_name_the_versions_of_the_lock():
    classified = re.findall(r'Python :: (3\.\d+)', (REPO / 'setup.cfg').read_text())
    assert tuple(classified) == VERSIONS


# ------------------------------------------------------------------ Docker
def copied():
    """The sources of the COPY instructions."""
    return [word for words in re.findall(r'^COPY (.*)$', DOCKERFILE, re.MULTILINE)
            for word in words.split()[:-1] if not word.startswith('--')]


def test_every_copied_file_of_the_dockerfile_exists_and_is_in_its_context():
    kept = [line[1:] for line in (REPO / '.dockerignore').read_text().splitlines()
            if line.startswith('!')]
    assert len(copied()) > 5 and all((REPO / source).exists() for source in copied())
    assert [source for source in copied() if not any(
        fnmatch.fnmatch(source.rstrip('/'), pattern) for pattern in kept)] == []


def test_the_dockerfile_has_what_the_quick_start_reads_and_a_user_who_is_not_root():
    setup = (REPO / 'tools/setup.sh').read_text()
    read = {'requirements/lock.txt', *re.findall(r'cksum [\w/.]+ ([\w.]+) ([\w.]+)', setup)[0]}
    assert read | {'tools', 'mm_configs', 'semmae'} <= {*copied()}
    assert re.search(r'^USER user$', DOCKERFILE, re.MULTILINE)
    assert '"tools/quickstart.sh"' in DOCKERFILE.splitlines()[-1]


def apt_packages():
    """The packages that the Dockerfile installs."""
    return [word for words in re.findall(r'apt-get install ([^&]*)&&', DOCKERFILE)
            for word in words.split() if not word.startswith('-')]


@pytest.mark.skipif(not shutil.which('apt-cache') or not any(
    Path('/var/lib/apt/lists').glob('*Packages*')), reason='no apt-cache with lists here')
def test_debian_has_every_package_of_the_dockerfile():
    assert apt_packages()
    for name in apt_packages():
        found = subprocess.run(['apt-cache', 'policy', name], text=True, capture_output=True)
        assert 'Candidate:' in found.stdout or 'Installed:' in found.stdout, name


# ------------------------------------------------------------------ other versions of Python
# docs/getting-started.md (Versions) says so: these have no wheel, for any version or for this one.
FROM_SOURCE = {'3.12': set(), '3.13': set(), '3.14': {'immutables'}}


def compiled():
    """Names of the installed packages whose wheels are for one version of Python."""
    found = set()
    for dist in metadata.distributions():
        tags = re.findall(r'^Tag: (cp\d+)-cp\d+t?-', dist.read_text('WHEEL') or '', re.MULTILINE)
        if tags:
            found.add(canonicalize_name(dist.metadata['Name']))
    return found


def versions_with_a_wheel(name, python):
    """The versions of a package that have a wheel for a version of Python; None without an index.
    """
    done = subprocess.run(
        [sys.executable, '-m', 'pip', 'index', 'versions', name, '--only-binary', ':all:',
         '--python-version', python, '--disable-pip-version-check', '--retries', '0',
         '--timeout', '60'], text=True, capture_output=True)
    listed = re.search(r'Available versions: (.*)', done.stdout)
    return listed[1].split(', ') if listed else (
        [] if 'No matching distribution' in done.stderr else None)


@pytest.fixture(scope='module')
def index():
    if not os.environ.get('SEMMAE_TEST_INDEX') or not versions_with_a_wheel('packaging', '3.12'):
        pytest.skip('no package index was asked (SEMMAE_TEST_INDEX=1), or none is reachable')


@pytest.mark.slow
@pytest.mark.parametrize('version', VERSIONS[1:])
def test_every_compiled_package_of_the_lock_has_a_wheel_for_this_python(index, version):
    locked = pins(version)
    names = sorted({*locked} & compiled())
    with ThreadPoolExecutor(8) as pool:
        listed = dict(zip(names, pool.map(versions_with_a_wheel, names, repeat(version))))
    if None in listed.values():
        pytest.skip('no package index is reachable')
    assert len(names) > 15
    assert {name for name in names if locked[name] not in listed[name]} <= FROM_SOURCE[version]
