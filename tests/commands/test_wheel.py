"""The package from a wheel, in a folder without a checkout."""
import os
import shutil
import subprocess
import sys

import pytest

from ..tiny import REPO

pytestmark = pytest.mark.slow
PIP = [sys.executable, '-m', 'pip', '--disable-pip-version-check', '--quiet']
SOURCES = 'setup.py', 'setup.cfg', 'pyproject.toml', 'README.md', 'LICENSE'


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    """A folder into which the wheel is installed, without its dependencies."""
    source, site = tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('site')
    for folder in ('semmae', 'mm_configs'):
        shutil.copytree(REPO / folder, source / folder,
                        ignore=shutil.ignore_patterns('__pycache__'))
    for name in SOURCES:
        shutil.copy(REPO / name, source)
    built = subprocess.run([*PIP, 'wheel', '--no-deps', '--no-build-isolation', '--no-index', '-w',
                            str(source / 'dist'), str(source)], text=True, capture_output=True)
    if built.returncode:
        pytest.skip(f'the wheel cannot be built: {built.stderr.strip().splitlines()[-1]}')
    wheel, = (source / 'dist').glob('*.whl')
    subprocess.run([*PIP, 'install', '--no-deps', '--no-index', '--target', str(site), str(wheel)],
                   check=True)
    return site


@pytest.fixture
def semmae(site, tmp_path):
    """Runs ``python -m semmae`` in an empty folder; the package comes from the wheel alone."""
    def run(*words):
        return subprocess.run(
            [sys.executable, '-m', 'semmae', *map(str, words)], cwd=tmp_path, text=True,
            capture_output=True, env=dict(os.environ, PYTHONPATH=str(site), OMP_NUM_THREADS='1'))
    return run


def test_the_wheel_has_every_config_and_all_data_of_the_package(site):
    def files(root, pattern='*'):
        return sorted(str(path.relative_to(root)) for path in root.rglob(pattern)
                      if path.is_file() and path.suffix != '.pyc')
    assert files(site / 'semmae/mm_configs') == files(REPO / 'mm_configs')
    installed = [name for name in files(site / 'semmae') if not name.startswith('mm_configs')]
    assert installed == files(REPO / 'semmae')
    assert (site / 'bin/semmae').is_file()
    names = {path.name.split('-')[0] for path in site.iterdir()}
    assert names == {'semmae', 'bin'}  # no other top-level package


def test_commands_answer_and_errors_name_semmae(semmae):
    from semmae import __version__
    assert semmae('--version').stdout == f'semmae {__version__}\n'
    assert 'example: semmae train' in semmae('train', '--help').stdout
    done = semmae('train', 'mm_configs/semmae_pretrain.py')
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert 'needs: ImageNet-1k in data/imagenet, and its part store: semmae parts extract ' in (
        done.stderr)


def test_a_suite_plans_its_shipped_configs_and_tables_have_the_papers_numbers(semmae, tmp_path):
    planned = semmae('suite', 'mini', '--dry-run')
    assert planned.returncode == 0, planned.stderr
    assert '-m semmae train mm_configs/mini/mae_p16_mini.py --work-dir' in planned.stdout
    assert 'tools/' not in planned.stdout and 'OneDL' not in planned.stdout
    (tmp_path / 'empty').mkdir()
    tables = semmae('tables', 'empty')
    assert tables.returncode == 0 and '68.7' in tables.stdout
    assert '`semmae suite paper --only linprobe/semmae_p8`' in tables.stdout


def test_a_shipped_config_trains_in_a_folder_without_a_checkout(semmae, toy, tmp_path):
    data = 'train_dataloader.dataset'
    done = semmae('train', 'mm_configs/mini/mae_p16_mini.py', '--accept-batch', '--work-dir', 'w',
                  '--cfg-options', f'{data}.dataset.data_root={toy / "imagenet/train"}',
                  f'{data}.min_length=0', 'train_dataloader.batch_size=8', 'train_cfg.max_epochs=1',
                  'default_hooks.checkpoint.interval=1')
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'w/epoch_1.pth').is_file()
    assert 'hooks' not in done.stdout.lower() and 'Config:' not in done.stdout
