"""Suites of real trainings, as small as possible: killed, started again, on two checkpoints."""
import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import sys
import threading
import time

import psutil
import pytest
import torch

from semmae.checkpoints.folder import latest
from semmae.commands.suite import main
from semmae.registry import MODELS
from semmae.suites.catalogue import MINI, PAPER, SUITES
from semmae.suites.engine import execute
from semmae.suites.rows import Train
from semmae.suites.schedule import plan

from ..tiny import REPO, tool
from .conftest import FORK, command, fresh, little, mae_on, quiet, writer

MAE = 'mm_configs/mini/mae_p16_mini.py'
SLEEP = 'import time; time.sleep(60)'


def pretraining(name, toy, epochs, config=MAE, needs=()):
    return Train(name, f'epoch_{epochs}.pth', str(config), mae_on(toy, epochs), needs=needs)


@pytest.fixture
def start(tmp_path):
    """Starts tools/run_suite.py on rows, in a process group of its own; (process, its output)."""
    started = []

    def suite(rows, output):
        fresh(output)
        os.setsid()
        SUITES['little'] = little(*rows)
        sys.argv = ['run_suite.py', 'little', '--work-dir', str(tmp_path)]
        main()

    def begin(*rows):
        said = tmp_path / f'said{len(started)}.txt'
        with said.open('w') as f:
            started.append(FORK.Process(target=suite, args=(rows, f.fileno())))
            started[-1].start()
        return started[-1], said
    yield begin
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.join()


def wait_for(path, seconds=300):
    deadline = time.time() + seconds
    while not path.exists():
        assert time.time() < deadline, f'{path} did not appear'
        time.sleep(.01)


def fingerprints(folder):
    return {p: (p.stat().st_mtime_ns, hashlib.sha256(p.read_bytes()).hexdigest())
            for p in folder.rglob('*') if p.is_file()}


@pytest.mark.slow
def test_a_suite_that_was_killed_runs_only_what_is_missing_from_where_it_was(toy, tmp_path, start):
    rows = (pretraining('first', toy, 1), pretraining('long', toy, 8, needs=('first',)),
            writer('last', ('long',)))
    suite, _ = start(*rows)
    wait_for(tmp_path / 'seed0/long/epoch_2.pth')
    os.killpg(suite.pid, signal.SIGKILL)
    suite.join()
    assert not (tmp_path / 'seed0/long/epoch_8.pth').exists()
    before = fingerprints(tmp_path / 'seed0/first')
    saved = max(int(p.stem[6:]) for p in (tmp_path / 'seed0/long').glob('epoch_*.pth'))
    suite, said = start(*rows)
    suite.join(300)
    said = said.read_text()
    assert suite.exitcode == 0, said
    assert fingerprints(tmp_path / 'seed0/first') == before, 'what was done is left alone'
    assert 'done before: first' in said and 'was stopped before, goes on from epoch_' in said
    log = (tmp_path / 'seed0/long/console.log').read_text()
    assert len(re.findall('==== .* started ====', log)) == 2, 'the first log is kept'
    second = log[log.rindex(' started ===='):]
    assert f'resumed epoch: {saved}' in second and saved >= 2
    assert (tmp_path / 'seed0/long/epoch_8.pth').exists() and (tmp_path / 'seed0/last/out').exists()


def test_ctrl_c_at_a_suite_ends_its_training_with_a_checkpoint(toy, tmp_path, start):
    """The terminal signals both, then the suite signals the training once more."""
    suite, shown = start(pretraining('long', toy, 500))
    wait_for(tmp_path / 'seed0/long/epoch_2.pth')
    os.killpg(suite.pid, signal.SIGINT)
    suite.join(100)
    assert suite.exitcode == 130
    after = shown.read_text().partition('console.log)\n')[2]
    assert [line for line in after.splitlines() if ' elapsed' not in line] == [
        'Stopped. The same command continues.'], after
    said = (tmp_path / 'seed0/long/console.log').read_text()
    (done,) = re.findall(r'stopped by a signal after (\d+) iterations', said)
    newest = latest(tmp_path / 'seed0/long')
    assert newest.stem in (f'iter_{done}', f'epoch_{int(done) // 2}'), newest


def probe(tmp_path, toy, name, *more, base=f'{REPO}/mm_configs/mini/linprobe_p16_mini.py'):
    """A config: one epoch of linear probing on 16 images."""
    path = tmp_path / f'{name}.py'
    path.write_text('\n'.join([
        f'_base_ = [{base!r}]',
        'train_dataloader, val_dataloader = _base_.train_dataloader, _base_.val_dataloader',
        f'train_dataloader.dataset.dataset.data_root = {str(toy / "imagenet/train")!r}',
        f'val_dataloader.dataset.data_root = {str(toy / "imagenet/val")!r}',
        *more, 'train_dataloader.batch_size = 8', 'test_dataloader = val_dataloader',
        'train_cfg = dict(max_epochs=1, val_interval=1)', '']))
    return str(path)


@pytest.mark.slow
def test_two_checkpoints_share_a_protocol_and_another_crop_is_another(toy, tmp_path):
    tasks = {'linprobe': {8: probe(tmp_path, toy, 'probe')}, 'crop': {8: probe(
        tmp_path, toy, 'crop', 'val_dataloader.dataset.pipeline[1].scale = 72')}}
    suite = little(tasks=tasks)
    for seed, name in enumerate('ab'):
        torch.manual_seed(seed)
        vit = MODELS.build(dict(type='semmae.ViT', img_size=64, patch_size=8, arch=dict(
            embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=384)))
        torch.save(dict(model=vit.state_dict()), tmp_path / f'{name}.pth')
    runs = [run for name, only in (('a', None), ('b', ['linprobe/b'])) for run in plan(
        suite, tmp_path / 'runs', only, tmp_path / f'{name}.pth')]
    assert [run.id for run in runs] == ['linprobe/a', 'crop/a', 'linprobe/b']
    execute(runs, tmp_path, jobs=2, console=quiet())
    a, crop, b = (json.loads(run.product.read_text().splitlines()[0]) for run in runs)
    assert (a['row'], b['row']) == ('linprobe/a', 'linprobe/b')
    assert a['checkpoint_sha256'] != b['checkpoint_sha256']
    assert a['fingerprint'] == b['fingerprint'] != crop['fingerprint']
    assert a['protocol'] == b['protocol']
    assert {k for k in a['protocol'] if a['protocol'][k] != crop['protocol'][k]} == {
        'val_dataloader.dataset.pipeline.1.scale'}


def with_batch(tmp_path, batch):
    """A config whose recipe has this global batch."""
    path = tmp_path / 'recipe.py'
    path.write_text(f'_base_ = [{str(REPO / MAE)!r}]\n'
                    f'recipe = dict(full=dict(batch_size={batch}))\n')
    return path


@pytest.mark.slow
def test_two_processes_share_a_row_and_the_plan_says_so(toy, tmp_path, capsys, monkeypatch):
    row = pretraining('mae', toy, 1, with_batch(tmp_path, 16))
    monkeypatch.setitem(SUITES, 'little', little(row))
    monkeypatch.setattr(sys, 'argv', ['run_suite.py', 'little', '--work-dir', str(tmp_path),
                                      '--launcher', 'pytorch', '--gpus', '2'])
    main()
    assert 'mae: global batch 16 = 8 x 2 processes' in capsys.readouterr().out.replace('\n', ' ')
    saved = torch.load(tmp_path / 'seed0/mae/epoch_1.pth', weights_only=False)
    assert saved['meta']['semmae']['batch_size'] == 16


@pytest.mark.slow
def test_a_training_runs_as_a_task_of_slurm(toy, tmp_path):
    (run,) = plan(little(pretraining('mae', toy, 1, with_batch(tmp_path, 8))), tmp_path)
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    done = tool('train', *run.command[2:], '--launcher', 'slurm', env=dict(
        SLURM_NTASKS='1', SLURM_PROCID='0', SLURM_LOCALID='0', RANK='0', LOCAL_RANK='0',
        WORLD_SIZE='1', MASTER_ADDR='127.0.0.1', MASTER_PORT=port))
    assert done.returncode == 0 and run.is_done, done.stderr


def test_slurm_needs_a_partition_and_gets_the_gpus_that_fit_the_batch(monkeypatch):
    monkeypatch.delenv('PARTITION', raising=False)
    with pytest.raises(ValueError, match='PARTITION is not set'):
        plan(PAPER, 'w', ['mae_p16'], launcher='slurm', gpus=16)
    monkeypatch.setenv('PARTITION', 'vision')
    run = plan(PAPER, 'w', ['mae_p16'], launcher='slurm', gpus=12)[-1]
    assert run.command[:3] == ['srun', '--ntasks', '8'] and '--keep-batch' in run.command
    assert run.command[run.command.index('--launcher') + 1] == 'slurm'
    assert run.resources == dict(slurm_partition='vision', cpus_per_task=8, gpu=8, tasks_per_gpu=1,
                                 nodes=1, mpi='srun', tasks=8)
    monkeypatch.setenv('GPUS_PER_NODE', '4')
    assert plan(PAPER, 'w', ['mae_p16'], launcher='slurm', gpus=8)[-1].resources['nodes'] == 2
    monkeypatch.setenv('GPUS_PER_NODE', '0')
    assert 'gpu' not in plan(PAPER, 'w', ['mae_p16'], launcher='slurm', gpus=8)[-1].resources


def test_a_plan_prints_the_factors_of_the_batch_and_whether_it_differs_from_the_recipe():
    assert plan(PAPER, 'w', ['mae_p16'], gpus=8)[-1].batch == (
        'global batch 4096 = 256 x 8 processes x 2 accumulated steps')
    assert plan(PAPER, 'w', ['mae_p16'])[-1].batch == (
        'global batch 4096 = 256 x 1 process x 16 accumulated steps')
    assert 'global batch 128 = 128 x 1 process, but the recipe has 1024' in plan(
        PAPER, 'w', ['finetune/mae_p8'])[-1].batch


def test_a_mini_suite_keeps_its_own_batch_on_any_machine():
    """Accumulated to the paper's 4096 images it would make too few updates."""
    run = plan(MINI, 'w', ['mae_p16'], gpus=8)[-1]
    assert '--keep-batch' not in run.command and run.processes == 1


def test_keep_going_runs_what_does_not_need_the_failed_row(tmp_path):
    rows = (command('bad', 'raise SystemExit("out of cheese")'),
            command('after', 'pass', needs=('bad',)), writer('good'))
    with pytest.raises(RuntimeError, match='1 failed: bad; not run: after. Read'):
        execute(plan(little(*rows), tmp_path), tmp_path, console=quiet(), keep_going=True)
    assert (tmp_path / 'seed0/good/out').exists()


def test_a_row_that_failed_before_says_so_and_keeps_its_log(tmp_path):
    suite, console = little(command('bad', 'print("cheese"); raise SystemExit(3)')), quiet()
    for _ in range(2):
        with pytest.raises(RuntimeError, match='1 failed: bad'):
            execute(plan(suite, tmp_path), tmp_path, console=console)
    said = console.file.getvalue()
    assert said.count('again: failed before (exit 3, no out), begins again') == 1
    log = (tmp_path / 'seed0/bad/console.log').read_text()
    assert log.count('cheese') == 2 and log.count('failed (exit 3, no out) ====') == 2


def test_a_row_that_was_stopped_after_its_product_is_not_run_again(tmp_path):
    """Snakemake tries it again, and does not delete what is there."""
    suite = little(command('late', 'import pathlib, sys; pathlib.Path(sys.argv[1]).touch(); '
                           'raise SystemExit(143)', '{work_dir}/out'))
    execute(plan(suite, tmp_path), tmp_path, console=quiet(), more=['--retries', '1'])
    assert (tmp_path / 'seed0/late/console.log').read_text().count('started ====') == 1


def test_a_row_that_another_process_runs_is_waited_for(tmp_path):
    """Two suites in one folder: the row runs once."""
    (run,) = plan(little(command('slow', 'import pathlib, sys, time; time.sleep(4); '
                                 'pathlib.Path(sys.argv[1]).write_text("x")', '{work_dir}/out')),
                  tmp_path)
    said = [quiet(), quiet()]
    threads = [threading.Thread(target=execute, args=([run], tmp_path / name, 1, console))
               for name, console in zip('ab', said)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert run.log.read_text().count('started ====') == 1
    assert sorted('another process runs it' in c.file.getvalue() for c in said) == [False, True]


def test_two_suites_with_other_rows_run_in_one_work_directory_at_the_same_time(tmp_path):
    suites = [[command(f'{name}1', 'import pathlib, sys, time; time.sleep(3); '
                       'pathlib.Path(sys.argv[1]).touch()', '{work_dir}/out'),
               writer(f'{name}2', needs=(f'{name}1',))] for name in 'ab']
    threads = [threading.Thread(target=execute, args=(plan(little(*rows), tmp_path), tmp_path, 1,
                                                      quiet())) for rows in suites]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(p.parent.name for p in tmp_path.glob('seed0/*/out')) == ['a1', 'a2', 'b1', 'b2']


@pytest.mark.parametrize('victim', ['front', 'snakemake', 'row'])
def test_a_row_ends_with_the_process_that_started_it(tmp_path, start, victim):
    """kill -9 of the suite, of Snakemake, and of the process between it and the command."""
    pid = tmp_path / 'seed0/slow/pid'
    suite, _ = start(command('slow', written(pid)))
    wait_for(pid)
    row = psutil.Process(int(pid.read_text())).parent()
    snakemake = next(p for p in row.parents() if 'snakemake' in ' '.join(p.cmdline()))
    os.kill({'front': suite.pid, 'snakemake': snakemake.pid, 'row': row.pid}[victim],
            signal.SIGKILL)
    deadline = time.time() + 30
    while psutil.pid_exists(int(pid.read_text())):
        assert time.time() < deadline, 'the command of the row lives on'
        time.sleep(.05)


def written(pid):
    """Code that writes its process id to the file ``pid`` and sleeps."""
    return (f'import os; open(r"{pid}.x", "w").write(str(os.getpid())); '
            f'os.rename(r"{pid}.x", r"{pid}"); {SLEEP}')


def test_a_suite_that_is_terminated_ends_its_rows(tmp_path, start):
    pid = tmp_path / 'seed0/slow/pid'
    suite, _ = start(command('slow', written(pid)))
    wait_for(pid)
    suite.terminate()
    suite.join(60)
    assert suite.exitcode == 143
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
