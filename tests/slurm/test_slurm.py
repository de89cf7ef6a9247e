"""A real Slurm of two nodes: jobs that are stopped or requeued end with the same weights."""
import io
import os
import shutil
import subprocess
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
import torch
from rich.console import Console

from semmae.suites.engine import SLURM, execute
from semmae.suites.rows import Train
from semmae.suites.schedule import plan

from ..suites.conftest import command, little, mae_on, writer
from ..tiny import REPO

HERE = Path(__file__).parent
MISSING = [name for name in ('slurmctld', 'slurmd', 'munged') if not shutil.which(name)]
QUICK = ['--slurm-status-command', 'squeue', '--slurm-init-seconds-before-status-checks', '1',
         '--seconds-between-status-checks', '1', '--latency-wait', '5', '--retries', '1']
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING) or os.geteuid() != 0 or not find_spec(
        'snakemake_executor_plugin_slurm'), reason='needs root, slurm-wlm, munge and '
        'snakemake-executor-plugin-slurm')]


@pytest.fixture(scope='module', autouse=True)
def slurm(tmp_path_factory):
    """A Slurm of two nodes."""
    folder = tmp_path_factory.mktemp('slurm')
    started = subprocess.run(['bash', HERE / 'start.sh', folder], text=True, capture_output=True)
    if started.returncode:
        pytest.skip(f'slurm-wlm does not start on this machine: {started.stderr}')
    before = dict(os.environ)
    os.environ.update(SLURM_CONF=str(folder / 'slurm.conf'), PARTITION='test', GPUS_PER_NODE='0',
                      CPUS_PER_TASK='1')
    yield
    subprocess.run(['bash', HERE / 'stop.sh', folder], check=True)
    os.environ.clear()
    os.environ.update(before)


def recipe(folder, batch):
    """A config of mini MAE whose recipe has this global batch."""
    path = folder / 'recipe.py'
    path.write_text(f'_base_ = [{str(REPO / "mm_configs/mini/mae_p16_mini.py")!r}]\n'
                    f'recipe = dict(full=dict(batch_size={batch}))\n')
    return str(path)


def pretraining(folder, toy, epochs, batch=8):
    return Train('mae', f'epoch_{epochs}.pth', recipe(folder, batch), mae_on(toy, epochs))


def weights(folder):
    return torch.load(folder / 'seed0/mae/epoch_8.pth', weights_only=False)['state_dict']


def run(suite, folder, *more, launcher='slurm', gpus=1, **how):
    """What a user sees of a suite."""
    console = Console(file=io.StringIO(), width=300)
    runs = plan(suite, folder, gpus=gpus, launcher=launcher)
    try:
        execute(runs, folder, 2, console, more=[*(SLURM + QUICK if launcher else []), *more], **how)
    finally:
        print(console.file.getvalue())
    return console.file.getvalue()


def jobs(folder):
    """The ids of the running jobs of a suite in ``folder``."""
    lines = subprocess.run(['squeue', '-h', '-o', '%i %Z', '-t', 'RUNNING'], check=True, text=True,
                           capture_output=True).stdout.splitlines()
    return [line.split()[0] for line in lines if line.split()[1] == str(folder)]


def wait_for(fact, seconds=400):
    deadline = time.time() + seconds
    while not (found := fact()):
        assert time.time() < deadline, fact
        time.sleep(.05)
    return found


def test_two_processes_are_one_job_of_two_tasks_and_a_failed_row_is_named(toy, tmp_path):
    rows = little(pretraining(tmp_path, toy, 2, batch=16), writer('after', ('mae',)),
                  command('bad', 'raise SystemExit("out of cheese")'),
                  command('later', 'pass', needs=('bad',)))
    with pytest.raises(RuntimeError, match='1 failed: bad; not run: later'):
        run(rows, tmp_path, gpus=2, keep_going=True)
    saved = torch.load(tmp_path / 'seed0/mae/epoch_2.pth', weights_only=False)
    assert saved['meta']['semmae']['batch_size'] == 16
    assert (tmp_path / 'seed0/after/out').exists() and not (tmp_path / 'seed0/later').exists()
    assert (tmp_path / 'seed0/bad/console.log').read_text().count('started ====') == 1


def signal_it(job, _):
    subprocess.run(['scancel', '--signal=TERM', job], check=True)


def requeue(job, _):
    subprocess.run(['scontrol', 'requeue', job], check=True)


def cut_off(job, folder):
    """A time limit that has passed. Slurm looks twice a minute; so long the training waits."""
    training = next(p for p in psutil.process_iter(['cmdline'])
                    if 'tools/train.py' in (p.info['cmdline'] or ())
                    and str(folder) in str(p.info['cmdline']))
    training.suspend()
    subprocess.run(['scontrol', 'update', f'JobId={job}', 'TimeLimit=0'], check=True)
    wait_for(lambda: not jobs(folder))
    training.resume()


@pytest.fixture(scope='module')
def undisturbed(toy, tmp_path_factory):
    """The weights of a training that nothing stopped."""
    folder = tmp_path_factory.mktemp('undisturbed')
    run(little(pretraining(folder, toy, 8)), folder, launcher=None)
    return weights(folder)


def require_equal(folder, undisturbed):
    found = weights(folder)
    assert found.keys() == undisturbed.keys()
    assert all(torch.equal(found[name], undisturbed[name]) for name in found), folder


def test_a_training_goes_on_when_slurmd_is_killed_and_started_again(toy, tmp_path, undisturbed):
    daemons = [p for p in psutil.process_iter(['name', 'cmdline']) if p.info['name'] == 'slurmd']
    thread = threading.Thread(target=run, args=(little(pretraining(tmp_path, toy, 8)), tmp_path))
    thread.start()
    wait_for((tmp_path / 'seed0/mae/epoch_2.pth').exists)
    for daemon in daemons:
        daemon.kill()
    time.sleep(2)
    assert len(daemons) == 2 and not any(daemon.is_running() for daemon in daemons)
    for node in ('n1', 'n2'):
        subprocess.run(['slurmd', '-N', node], check=True)
    thread.join(400)
    assert (tmp_path / 'seed0/mae/console.log').read_text().count('started ====') == 1
    require_equal(tmp_path, undisturbed)


def test_jobs_that_are_stopped_go_on_and_end_bit_identically(toy, tmp_path, undisturbed):
    """Stopped by a signal, requeued, and at the time limit, all at once."""
    disturbs, said = (signal_it, requeue, cut_off), {}

    def stopped_by(disturb):
        folder = tmp_path / disturb.__name__
        folder.mkdir()
        thread = threading.Thread(target=lambda: said.update({disturb: run(
            little(pretraining(folder, toy, 8)), folder)}))
        thread.start()
        wait_for((folder / 'seed0/mae/epoch_2.pth').exists)
        disturb(*jobs(folder), folder)
        return thread
    for thread in [stopped_by(disturb) for disturb in disturbs]:
        thread.join(400)
    for disturb in disturbs:
        assert 'again: was stopped before' in said[disturb] and 'goes on from' in said[disturb]
        log = tmp_path / disturb.__name__ / 'seed0/mae/console.log'
        assert log.read_text().count('started ====') == 2
        require_equal(tmp_path / disturb.__name__, undisturbed)
