"""Starting several processes: mistakes before the start, one message, the right exit status."""
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.distributed.elastic.multiprocessing.api import SignalException

from semmae.commands import test, train
from semmae.training import errors, processes

from ..tiny import REPO, config, fork, tool, wait

PRETRAIN = 'mm_configs/semmae_pretrain.py'
MINI = 'mm_configs/mini/mae_p16_mini.py'
ALL_SIGNALS = [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129),
               (signal.SIGUSR1, 143)]


def start(*command, **env):
    """Start a user's command, without the environment variables of pytest."""
    clean = {k: v for k, v in os.environ.items() if k not in (
        'OMP_NUM_THREADS', 'PYTHONWARNINGS', 'SEMMAE_TRACEBACK', errors.FIRST_FAILURE)}
    return subprocess.Popen(
        [str(c) for c in command], cwd=REPO, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, start_new_session=True,
        env=dict(clean, PYTHON=sys.executable, **{k: str(v) for k, v in env.items()}))


def ended(process):
    """(exit status, lines of stdout and stderr)."""
    said = process.communicate(timeout=300)[0]
    return process.returncode, said.splitlines()


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


# ------------------------------------------------------------------ before a process starts
def test_more_processes_than_gpus_are_refused_with_the_nodes_that_they_need():
    for wanted, available in ((4, 0), (8, 8), (3, 8)):
        processes.require_devices(wanted, available)
    with pytest.raises(ValueError, match='this node has 8 GPUs, got 16 processes for it. Run: '
                       r'NNODES=2 tools/dist_train.sh CONFIG 8 on each node'):
        processes.require_devices(16, 8)
    with pytest.raises(ValueError, match='NNODES=4 tools/dist_train.sh CONFIG 8 on each node'):
        processes.require_devices(16, 8, nodes=2)
    with pytest.raises(ValueError, match='this node has 1 GPU, got 2 processes .*dist_test.sh '
                                         'CONFIG CHECKPOINT 1 on each node.*; or 1 here$'):
        processes.require_devices(2, 1, tool='test')


@pytest.mark.parametrize('environ, said', [
    (dict(NNODES='two'), "NNODES is 'two', expected a whole number"),
    (dict(NNODES='2'), 'NNODES is 2 and NODE_RANK is not set: expected 0 to 1'),
    (dict(NNODES='2', NODE_RANK='0'), 'NNODES is 2 and MASTER_ADDR is not set'),
    (dict(NNODES='2', NODE_RANK='2', MASTER_ADDR='a'), "NODE_RANK is '2', expected a whole number"),
    (dict(PORT='99999'), "PORT is '99999', expected a whole number")])
def test_impossible_nodes_are_refused(environ, said):
    with pytest.raises(ValueError, match=said):
        processes.Nodes.of(environ)


def test_a_port_in_use_is_refused():
    with socket.socket() as s:
        s.bind(('', 0))
        s.listen()
        with pytest.raises(ValueError, match='Address already in use. Give another PORT'):
            processes.Nodes(2, 0, '127.0.0.1', s.getsockname()[1]).require_free_port()


TWO_NODES = dict(NNODES='2', NODE_RANK='0', MASTER_ADDR='127.0.0.1')


@pytest.mark.parametrize('tool, count, arguments, environ, said', [
    ('train', '16', ['nothing.py'], {}, 'no config at nothing.py'),
    ('train', '16', [PRETRAIN], TWO_NODES,
     'would be 8192 = 256 images x 16 processes on each of 2 nodes'),
    ('train', '16', [PRETRAIN, '--wrong'], {}, 'tools/train.py: unrecognized arguments: --wrong'),
    ('train', '16', [PRETRAIN, '--cfg-options', 'modle.x=1'], {}, 'has no such key'),
    ('train', '16', [PRETRAIN, '--cfg-options', 'train_dataloader.batch_size=0'], {},
     'batch_size is'),
    ('train', 'two', [PRETRAIN], {}, "got 'two' processes"),
    ('test', '16', ['nothing.py', 'x.pth'], {}, 'no config at nothing.py')])
def test_mistakes_in_the_command_are_printed_before_processes_start(
        monkeypatch, capsys, tool, count, arguments, environ, said):
    monkeypatch.setattr(processes, 'run', lambda *_: pytest.fail('started'))
    with pytest.raises(SystemExit) as end, errors.fail_clearly():
        processes.launch(dict(test=test, train=train)[tool], count, arguments, environ)
    printed = capsys.readouterr()
    lines = (printed.out + printed.err).splitlines()
    assert end.value.code == 2 and said in lines[0], lines
    assert len(lines) == (1 if 'no config' in said else 2), lines


def test_gpus_are_counted_before_processes_start(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 8)
    monkeypatch.setattr(processes, 'run', lambda *_: pytest.fail('started'))
    with pytest.raises(ValueError, match='this node has 8 GPUs, got 16 processes'):
        processes.launch(train, '16', [PRETRAIN], {})


@pytest.mark.parametrize('script, arguments, launched', [
    ('dist_train', ['CONFIG', 2, '--amp'], 'launch.py train 2 CONFIG --amp'),
    ('dist_test', ['CONFIG', 'FILE', 2, '--work-dir', 'x'],
     'launch.py test 2 CONFIG FILE --work-dir x')])
def test_the_scripts_count_gpus_per_node_and_pass_arguments_on(script, arguments, launched):
    assert 'EACH node' in (REPO / f'tools/{script}.sh').read_text()
    status, said = ended(start('bash', f'tools/{script}.sh'))
    assert status == 2 and len(said) == 1 and 'GPUS_PER_NODE' in said[0]
    with subprocess.Popen(['bash', f'tools/{script}.sh', *map(str, arguments)], cwd=REPO, text=True,
                          stdout=subprocess.PIPE, env=dict(os.environ, PYTHON='echo')) as echo:
        assert echo.communicate()[0].strip().endswith(launched)


# ------------------------------------------------------------------ exit statuses
@pytest.mark.parametrize('exitcode, said, expected', [
    (2, '2', 2), (1, '2', 2), (-15, '1', 1), (143, '', 143), (130, '', 130), (-9, '', 137)])
def test_the_status_is_that_of_the_process_that_failed_first(
        tmp_path, capsys, exitcode, said, expected):
    path = tmp_path / 'first'
    if said:
        path.write_text(said)
    failed = [SimpleNamespace(exitcode=code, timestamp=at, local_rank=at)
              for at, code in enumerate((exitcode, -15))]
    error = SimpleNamespace(failures=dict(enumerate(failed)))
    assert processes.status_of(error, path) == expected
    assert capsys.readouterr().err == (
        'process 0 of this node was killed by SIGKILL: by hand, or because memory ran out\n'
        if expected == 137 else '')


@pytest.mark.parametrize('number, status', ALL_SIGNALS)
def test_a_launcher_ends_with_the_status_of_its_signal(monkeypatch, tmp_path, number, status):
    def launch(config, entrypoint):
        assert {'SIGTERM', 'SIGINT', 'SIGHUP', 'SIGUSR1'} <= {*config.signals_to_handle.split(',')}
        raise SignalException('', number)
    monkeypatch.setattr('torch.distributed.launcher.api.elastic_launch', launch)
    assert processes.run('train', 2, [], processes.Nodes(), tmp_path / 'first') == status


def test_processes_without_data_print_one_message(tmp_path):
    done = tool('train', MINI, '--work-dir', tmp_path / 'work', '--cfg-options',
                'train_dataloader.dataset.dataset.data_root=/nonexistent', processes=2,
                env={errors.FIRST_FAILURE: str(tmp_path / 'first')})
    assert done.returncode == 2
    assert done.stdout == '' and (tmp_path / 'first').read_text() == '2'
    assert not (tmp_path / 'work').exists()  # checked before anything is written
    [message] = done.stderr.splitlines()
    assert message.startswith('FileNotFoundError: no image folder at /nonexistent. ')


def test_a_test_on_several_processes_without_its_checkpoint_ends_with_status_2(tmp_path):
    done = tool('test', 'mm_configs/mini/linprobe_p16_mini.py', 'nothing.pth', '--work-dir',
                tmp_path, processes=2, env={errors.FIRST_FAILURE: str(tmp_path / 'first')})
    assert done.returncode == 2 and (tmp_path / 'first').read_text() == '2'
    [message] = done.stderr.splitlines()
    assert 'no checkpoint at nothing.pth' in message


# ------------------------------------------------------------------ real launches
STAND_IN = '''
import os, sys, time
sys.path.insert(0, {repo!r})
from semmae.training.errors import fail_clearly

if __name__ == '__main__':
    with fail_clearly():
        if os.environ['RANK'] == '1':
            raise ValueError('this process fails')
        time.sleep(120)
'''


def launched(monkeypatch, folder, count, *environments):
    """[(exit status, lines)] of launchers of a tool whose second process fails; it imports little.
    """
    (folder / 'train.py').write_text(STAND_IN.format(repo=str(REPO)))
    monkeypatch.setattr(processes, 'TOOLS', folder)
    module = SimpleNamespace(__name__='train', check=lambda *_: None,
                             parse=lambda _: SimpleNamespace(config=REPO / MINI))
    children = [fork(lambda environ=environ: sys.exit(processes.launch(
        module, count, [], environ)), folder / f'said{i}') for i, environ in
        enumerate(environments)]
    return [(wait(child), (folder / f'said{i}').read_text().splitlines())
            for i, child in enumerate(children)]


def test_a_process_that_fails_alone_ends_the_others_and_its_status_is_returned(
        monkeypatch, tmp_path):
    [(status, said)] = launched(monkeypatch, tmp_path, '2', {})
    assert status == 2 and said == ['ValueError: this process fails',
                                    '(SEMMAE_TRACEBACK=1 shows where)']


@pytest.mark.slow
def test_the_end_of_one_node_ends_the_other(monkeypatch, tmp_path):
    port = str(free_port())
    (first, said_first), (second, said_second) = launched(monkeypatch, tmp_path, '1', *(
        dict(TWO_NODES, NODE_RANK=str(rank), PORT=port) for rank in range(2)))
    assert (first, second) == (2, 2), (said_first, said_second)
    assert said_second[0] == 'ValueError: this process fails' and len(said_second) == 2
    assert said_first == ['another node of this run ended first; see its output for the reason']


@pytest.mark.slow
def test_a_signal_to_the_launcher_saves_and_keeps_its_status(tmp_path):
    path = Path(config(tmp_path, 'model.update(pause=.2)', 'train_cfg.update(max_epochs=99)',
                       f'import sys\nsys.path.insert(0, {str(REPO)!r})\nimport tests.tiny'))
    process = start('bash', 'tools/dist_train.sh', path, 2, '--work-dir', tmp_path / 'work')
    deadline = time.time() + 120
    while not (tmp_path / 'work/epoch_1.pth').is_file() and time.time() < deadline:
        time.sleep(.2)
        assert process.poll() is None, process.communicate()[0]
    process.send_signal(signal.SIGINT)
    status, said = ended(process)
    assert status == 130, said
    assert list((tmp_path / 'work').glob('iter_*.pth')), said
    # The interpreters of launcher and processes are new ones, so that imports print here.
    assert not [line for line in said if re.search('Traceback|OneDL|MultiScale|jit', line)], said


FAKE_SRUN = '''#!/usr/bin/env bash
# Starts as many tasks as it is told, and reports those that fail as srun does.
while [[ "$1" == -* ]]; do
  [ "$1" = --ntasks ] && tasks=$2
  if [[ "$1" == *=* ]]; then shift; else shift 2; fi
done
for ((i = 0; i < tasks; i++)); do
  (SLURM_PROCID=$i "$@"
   code=$?; echo "srun: error: node0: task $i: Exited with exit code $code" >&2; exit $code) &
done
code=0
for job in $(jobs -p); do wait $job || code=$?; done
exit $code
'''
FAKE_PYTHON = '''#!{python}
import sys
sys.path.insert(0, {repo!r})
from semmae.training.errors import fail_clearly
with fail_clearly():
    raise FileNotFoundError(' '.join(sys.argv[2:]))
'''


def test_slurm_tasks_with_a_mistake_print_one_message(tmp_path):
    for name, text in (('srun', FAKE_SRUN),
                       ('python', FAKE_PYTHON.format(python=sys.executable, repo=str(REPO)))):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    process = start('env', f'PYTHON={tmp_path}/python', 'bash', 'tools/slurm_train.sh', 'vision',
                    'job', MINI, '--amp', GPUS=2, TMPDIR=tmp_path,
                    PATH=f'{tmp_path}:{os.environ["PATH"]}')
    status, said = ended(process)
    assert status == 2 and len(said) == 1, said
    assert said[0].startswith('FileNotFoundError: ')
    assert said[0].endswith(f'tools/train.py {MINI} --amp --launcher slurm')
