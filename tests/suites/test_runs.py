"""Suites of real trainings, as small as they come: killed, started again, on two checkpoints."""
import contextlib
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console

import benchmarks.suite
from benchmarks.suite import Row, Suite
from semmae.checkpoints.folder import latest
from semmae.registry import MODELS
from semmae.suites.schedule import execute, launch, plan, stop
from tools.run_suite import main

REPO = Path(__file__).resolve().parents[2]
MAE = 'mm_configs/mini/mae_p16_mini.py'
SLEEP = 'import time; time.sleep(60)'
WRITE = 'import pathlib, sys; pathlib.Path(sys.argv[1]).write_text("x")'


def quiet():
    return Console(file=io.StringIO(), width=300)


def little(*rows, tasks=()):
    return Suite(rows=rows, tasks=dict(tasks), images='images')


def pretraining(name, toy, epochs, config=MAE, needs=()):
    """Mini MAE on 16 images with a checkpoint after each epoch."""
    data = 'train_dataloader.dataset'
    return Row(name, f'epoch_{epochs}.pth', str(config), {
        f'{data}.dataset.data_root': str(toy / 'imagenet/train'), f'{data}.min_length': '0',
        'train_dataloader.batch_size': '8', 'train_cfg.max_epochs': str(epochs),
        'default_hooks.checkpoint.interval': '1'}, needs=needs)


@pytest.fixture
def start():
    """Starts tools/run_suite.py on a suite of rows, in a process group of its own."""
    started = []

    def begin(rows, *arguments):
        started.append(suite_process(rows, *arguments))
        return started[-1]
    yield begin
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def suite_process(rows, *arguments):
    code = (f'import sys, benchmarks.suite as s; from benchmarks.suite import Row\n'
            f's.SUITES["little"] = s.Suite(rows={rows!r}, tasks={{}}, images="images")\n'
            f'from tools.run_suite import main; main()')
    return subprocess.Popen([sys.executable, '-c', code, 'little', *arguments], cwd=REPO,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            start_new_session=True, env=dict(os.environ, PYTHONPATH=str(REPO)))


def wait_for(path, seconds=300):
    deadline = time.time() + seconds
    while not path.exists():
        assert time.time() < deadline, f'{path} did not appear'
        time.sleep(.02)


def fingerprints(folder):
    return {p: (p.stat().st_mtime_ns, hashlib.sha256(p.read_bytes()).hexdigest())
            for p in folder.rglob('*') if p.is_file()}


@pytest.mark.slow
def test_a_suite_that_was_killed_runs_only_what_is_missing_from_where_it_was(toy, tmp_path, start):
    rows = (pretraining('first', toy, 1), pretraining('long', toy, 8, needs=('first',)),
            Row('last', 'out', needs=('long',), command=('-c', WRITE, '{work_dir}/out')))
    suite = start(rows, '--work-dir', str(tmp_path))
    wait_for(tmp_path / 'seed0/long/epoch_2.pth')
    os.killpg(suite.pid, signal.SIGKILL)
    suite.wait()
    assert not (tmp_path / 'seed0/long/epoch_8.pth').exists()
    before = fingerprints(tmp_path / 'seed0/first')
    saved = max(int(p.stem[6:]) for p in (tmp_path / 'seed0/long').glob('epoch_*.pth'))
    suite = start(rows, '--work-dir', str(tmp_path))
    said = suite.communicate(timeout=300)[0]
    assert suite.returncode == 0, said
    assert fingerprints(tmp_path / 'seed0/first') == before, 'what was done is left alone'
    assert 'done before: first' in said and 'was stopped before, goes on from epoch_' in said
    log = (tmp_path / 'seed0/long/console.log').read_text()
    assert len(re.findall('==== .* started ====', log)) == 2, 'the first log is kept'
    second = log[log.rindex(' started ===='):]
    assert f'resumed epoch: {saved}' in second and saved >= 2
    assert (tmp_path / 'seed0/long/epoch_8.pth').exists() and (tmp_path / 'seed0/last/out').exists()


@pytest.mark.slow
def test_ctrl_c_at_a_suite_ends_its_training_with_a_checkpoint(toy, tmp_path, start):
    """The terminal tells both, then the suite tells the training once more."""
    suite = start((pretraining('long', toy, 500),), '--work-dir', str(tmp_path))
    wait_for(tmp_path / 'seed0/long/epoch_2.pth')
    os.killpg(suite.pid, signal.SIGINT)
    suite.communicate(timeout=100)
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
    suite = little(Row('unused', 'out', command=('-c', 'pass')), tasks=tasks)
    for seed, name in enumerate('ab'):
        torch.manual_seed(seed)
        vit = MODELS.build(dict(type='semmae.ViT', img_size=64, patch_size=8, arch=dict(
            embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=384)))
        torch.save(dict(model=vit.state_dict()), tmp_path / f'{name}.pth')
    runs = [run for name, only in (('a', None), ('b', ['linprobe/b'])) for run in plan(
        suite, tmp_path / 'runs', only, tmp_path / f'{name}.pth')]
    assert [run.id for run in runs] == ['linprobe/a', 'crop/a', 'linprobe/b']
    execute(runs, jobs=2, console=quiet())
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
    monkeypatch.setitem(benchmarks.suite.SUITES, 'little', little(row))
    monkeypatch.setattr(sys, 'argv', ['run_suite.py', 'little', '--work-dir', str(tmp_path),
                                      '--launcher', 'pytorch', '--gpus', '2'])
    main()
    assert 'mae: global batch 16 = 8 x 2 processes' in capsys.readouterr().out.replace('\n', ' ')
    saved = torch.load(tmp_path / 'seed0/mae/epoch_1.pth', weights_only=False)
    assert saved['meta']['semmae']['batch_size'] == 16


FAKE_SRUN = """#!/usr/bin/env bash
# Writes down its arguments, then runs the command as a step of one task.
printf '%s\\n' "$*" >> "$SRUN_LOG"
while [[ "$1" == -* ]]; do if [[ "$1" == *=* ]]; then shift; else shift 2; fi; done
export SLURM_NTASKS=1 SLURM_PROCID=0 SLURM_LOCALID=0
export RANK=0 LOCAL_RANK=0 WORLD_SIZE=1 MASTER_ADDR=127.0.0.1 MASTER_PORT="$FREE_PORT"
exec "$@"
"""


@pytest.fixture
def srun(tmp_path, monkeypatch):
    """A stand-in for srun on PATH; the file that it writes."""
    import socket
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        monkeypatch.setenv('FREE_PORT', str(free.getsockname()[1]))
    (tmp_path / 'bin').mkdir()
    fake = tmp_path / 'bin/srun'
    fake.write_text(FAKE_SRUN)
    fake.chmod(0o755)
    monkeypatch.setenv('PATH', f'{fake.parent}:{os.environ["PATH"]}')
    for name, value in dict(SRUN_LOG=tmp_path / 'srun.log', PARTITION='vision', CPUS_PER_TASK=4,
                            SRUN_ARGS='--account lab').items():
        monkeypatch.setenv(name, str(value))
    return tmp_path / 'srun.log'


@pytest.mark.slow
def test_slurm_starts_each_row_through_srun_and_waits_for_it(toy, tmp_path, srun):
    rows = (pretraining('task/mae', toy, 1, with_batch(tmp_path, 8)),
            Row('after', 'out', needs=('task/mae',), command=('-c', WRITE, '{work_dir}/out')))
    execute(plan(little(*rows), tmp_path, gpus=8, launcher='slurm'), console=quiet())
    training, command = srun.read_text().splitlines()
    assert training.startswith('-p vision --job-name task-mae --gres gpu:1 --ntasks 1 '
                               '--ntasks-per-node 1 --cpus-per-task 4 --kill-on-bad-exit=1 '
                               '--account lab ')
    assert training.endswith('--launcher slurm') and 'tools/train.py' in training
    assert command.startswith('-p vision --job-name after --gres gpu:1 --ntasks 1 ')
    assert (tmp_path / 'seed0/after/out').exists()


def test_slurm_needs_a_partition_and_gets_the_gpus_that_fit_the_batch(monkeypatch):
    monkeypatch.delenv('PARTITION', raising=False)
    paper = benchmarks.suite.PAPER
    with pytest.raises(ValueError, match='PARTITION is not set'):
        plan(paper, 'w', ['mae_p16'], launcher='slurm', gpus=16)
    monkeypatch.setenv('PARTITION', 'vision')
    run = plan(paper, 'w', ['mae_p16'], launcher='slurm', gpus=12)[-1]
    assert run.command[:5] == ['env', 'GPUS=8', 'GPUS_PER_NODE=8', 'bash', 'tools/slurm_train.sh']
    assert '--keep-batch' in run.command


def test_a_plan_says_of_what_the_batch_is_made_and_when_it_is_not_the_recipes():
    paper = benchmarks.suite.PAPER
    assert plan(paper, 'w', ['mae_p16'], gpus=8)[-1].batch == (
        'global batch 4096 = 256 x 8 processes x 2 accumulated steps')
    assert plan(paper, 'w', ['mae_p16'])[-1].batch == (
        'global batch 4096 = 256 x 1 process x 16 accumulated steps')
    assert 'global batch 128 = 128 x 1 process, but the recipe has 1024' in plan(
        paper, 'w', ['finetune/mae_p8'])[-1].batch


def test_a_mini_suite_keeps_its_own_batch_on_any_machine():
    """Accumulated to the paper's 4096 images it would make a handful of updates."""
    (run,) = (r for r in plan(benchmarks.suite.MINI, 'w', ['mae_p16'], gpus=8) if r.config)
    assert '--keep-batch' not in run.command and run.processes == 1


def test_keep_going_runs_what_does_not_need_the_failed_row(tmp_path):
    bad = Row('bad', 'never', command=('-c', 'raise SystemExit("out of cheese")'))
    good = Row('good', 'out', command=('-c', WRITE, '{work_dir}/out'))
    rows = (bad, Row('after', 'x', needs=('bad',), command=('-c', 'pass')), good)
    with pytest.raises(RuntimeError, match='1 failed: bad; not run, because .* them: after'):
        execute(plan(little(*rows), tmp_path), console=quiet(), keep_going=True)
    assert (tmp_path / 'seed0/good/out').exists()


def test_a_row_that_failed_before_says_so_and_keeps_its_log(tmp_path):
    suite = little(Row('bad', 'never', command=('-c', 'print("cheese"); raise SystemExit(3)')))
    console = quiet()
    for _ in range(2):
        with pytest.raises(RuntimeError, match='exit 3'):
            execute(plan(suite, tmp_path), console=console)
    said = console.file.getvalue()
    assert said.count('again: failed before (exit 3, no never), begins again') == 1
    log = (tmp_path / 'seed0/bad/console.log').read_text()
    assert log.count('cheese') == 2 and log.count('failed (exit 3, no never) ====') == 2


def test_a_row_that_outlived_its_suite_is_not_started_a_second_time(tmp_path):
    suite = little(Row('slow', 'never', command=('-c', SLEEP)))
    (orphan,) = plan(suite, tmp_path)
    launch(orphan, 1)
    try:
        with pytest.raises(RuntimeError, match='slow is running already'):
            execute(plan(suite, tmp_path), console=quiet())
    finally:
        stop([orphan])
    assert orphan.process.returncode == -signal.SIGTERM


def test_a_suite_that_is_terminated_ends_its_rows(tmp_path, start):
    pid = tmp_path / 'seed0/slow/pid'
    code = f'import os; open(r"{pid}.x", "w").write(str(os.getpid())); ' \
           f'os.rename(r"{pid}.x", r"{pid}"); {SLEEP}'
    suite = start((Row('slow', 'never', command=('-c', code)),), '--work-dir', str(tmp_path))
    wait_for(pid)
    suite.terminate()
    suite.wait(60)
    assert suite.returncode == 143
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
