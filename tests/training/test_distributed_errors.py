"""A mistake is told once and in few lines, whatever the number of processes, and ends in status 2.

The processes are real ones, started by the scripts that users call; they are slow to import what
they need, so what can be tested on the functions is tested there.
"""
import ast
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
from mmengine.config import Config

from semmae import needs
from semmae.config.identity import precision_of_training
from semmae.datasets.part_store import PartStore
from semmae.registry import quiet_forks
from semmae.suites.schedule import keeps_batch, plan
from semmae.training import errors, global_batch, processes
from semmae.training import run as training

from ..tiny import REPO, config, fork, wait

PRETRAIN = 'mm_configs/semmae_pretrain.py'
MINI = 'mm_configs/mini/mae_p16_mini.py'
EXACT = ('python tools/extract_parts.py mm_configs/semmae_parts.py '
         'work_dirs/semmae_parts/epoch_2.pth --images data/imagenet/train '
         '--out data/parts/imagenet_train_28 --grid 28')


def start(*command, **env):
    """A command of a user, without what pytest and the shell of a developer have set."""
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


def run(*command, **env):
    return ended(start(*command, **env))


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


# ------------------------------------------------------------------ precision
def resolved(monkeypatch, gpu, asked, **wrapper):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: gpu)
    monkeypatch.setattr(training, 'multiplies_bfloat16', lambda: True)
    return training.mixed_precision(Config(dict(w=wrapper)).w, asked=asked)


@pytest.mark.parametrize('wrapper', [
    dict(type='OptimWrapper'), dict(type='AmpOptimWrapper'),
    dict(type='AmpOptimWrapper', loss_scale='dynamic'), dict(type='mmengine.AmpOptimWrapper'),
    dict(type='AmpOptimWrapper', dtype='bfloat16', loss_scale='dynamic')])
def test_amp_on_a_gpu_is_bfloat16_and_the_protocol_says_so(monkeypatch, wrapper):
    found = resolved(monkeypatch, True, True, **wrapper)
    assert (found['type'], found['dtype'], found['loss_scale']) == (
        'AmpOptimWrapper', 'bfloat16', 1.0)
    assert precision_of_training(Config(dict(optim_wrapper=found))) == 'bfloat16'


def test_float16_is_trained_only_where_the_config_asks_for_it(monkeypatch):
    found = resolved(monkeypatch, True, False, type='AmpOptimWrapper', dtype='float16')
    assert (found['dtype'], found['loss_scale']) == ('float16', 'dynamic')
    assert precision_of_training(Config(dict(optim_wrapper=found))) == 'float16'


def test_without_a_gpu_the_protocol_says_what_the_cpu_computes(monkeypatch):
    asked = resolved(monkeypatch, False, True, type='OptimWrapper')
    by_itself = resolved(monkeypatch, False, False, type='semmae.CPUAmpOptimWrapper')
    for found in (asked, by_itself):
        assert (found['type'], found['dtype']) == ('semmae.CPUAmpOptimWrapper', 'bfloat16')
        assert precision_of_training(Config(dict(optim_wrapper=found))) == 'bfloat16'
    other = resolved(monkeypatch, False, False, type='AmpOptimWrapper', dtype='bfloat16')
    assert other == dict(type='OptimWrapper')


# ------------------------------------------------------------------ global batch
def refused(processes, nodes=1, **options):
    cfg = training.read_config(PRETRAIN, options)
    with pytest.raises(ValueError) as error:
        global_batch.require_batch(cfg, processes, PRETRAIN, nodes=nodes)
    return str(error.value)


def test_a_pretraining_at_another_batch_is_refused_with_three_ways_out():
    said = refused(32, nodes=2)
    assert 'would be 8192 = 256 images x 16 processes on each of 2 nodes' in said
    assert 'the recipe has 4096' in said
    assert 'start 8 processes on each node or set train_dataloader.batch_size=128' in said
    assert '--keep-batch with train_dataloader.batch_size=64, which accumulates 2 steps' in said
    assert '--accept-batch, which marks the results' in said


@pytest.mark.parametrize('processes', [1, 3, 6, 8, 12, 24, 32, 100])
def test_the_numbers_that_a_refusal_names_give_the_batch_of_the_recipe(processes):
    said = refused(processes)
    start = re.search(r'start (\d+) process', said)
    size = re.search(r'or set train_dataloader.batch_size=(\d+)', said)
    kept = re.search(r'--keep-batch with train_dataloader.batch_size=(\d+)', said)
    found = [256 * int(start[1])] + ([processes * int(size[1])] if size else [])
    assert set(found) == {4096}
    if 'number of processes that divides' not in said:
        cfg = training.read_config(
            PRETRAIN, {'train_dataloader.batch_size': int(kept[1])} if kept else {})
        assert training.accumulate(cfg, processes).startswith('global batch 4096 ')


def test_the_recipes_own_batch_and_an_accepted_one_are_trained():
    cfg = training.read_config(PRETRAIN)
    assert global_batch.require_batch(cfg, 16, PRETRAIN) == ''
    assert global_batch.require_batch(cfg, 32, PRETRAIN, accept=True) == ''
    cfg.optim_wrapper.accumulative_counts = 2
    assert global_batch.require_batch(cfg, 8, PRETRAIN) == ''
    assert 'x 2 accumulated steps' in global_batch.require_batch(cfg, 8, PRETRAIN, keep=True)


@pytest.mark.parametrize('path', sorted((REPO / 'mm_configs/mini').glob('*.py')), ids=str)
def test_mini_configs_have_batches_of_their_own(path):
    cfg = Config.fromfile(path)
    assert {global_batch.require_batch(cfg, n, path) for n in (1, 3)} == {''}


def test_each_full_size_recipe_starts_at_the_processes_of_its_docstring():
    checked = 0
    for path in [*(REPO / 'mm_configs').glob('*.py'), *(REPO / 'mm_configs/ablations').glob('*')]:
        cfg = Config.fromfile(path)
        started = re.search(r'dist_train.sh \S+ (\d+)( --keep-batch)?', needs.docstring(path))
        if cfg.get('recipe'):
            number, keep = (int(started[1]), bool(started[2])) if started else (1, False)
            said = global_batch.require_batch(cfg, number, path, keep)
            assert bool(said) == keep, path
            checked += 1
    assert checked > 20


def test_the_refusal_comes_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match='would be 256 = 256 images x 1 process, '):
        training.train(str(REPO / PRETRAIN), work_dir=tmp_path / 'work')
    assert not (tmp_path / 'work').exists()


def test_a_suite_accumulates_where_a_pretraining_would_be_refused(tmp_path):
    from benchmarks.suite import MINI as mini
    from benchmarks.suite import PAPER
    assert keeps_batch(str(REPO / PRETRAIN)) and not keeps_batch(str(REPO / MINI))
    (run,) = plan(PAPER, tmp_path, ['mae_p16'])
    assert '--keep-batch' in run.command and run.steps == 16
    assert not [r for r in plan(mini, tmp_path) if '--keep-batch' in r.command]


def test_nodes_are_told_by_the_processes_of_this_one(monkeypatch):
    monkeypatch.delenv('LOCAL_WORLD_SIZE', raising=False)
    assert global_batch.nodes_of(32) == 1
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '16')
    assert global_batch.nodes_of(32) == 2


# ------------------------------------------------------------------ processes, nodes, GPUs
def test_more_processes_than_gpus_are_refused_with_the_nodes_that_they_need():
    for wanted, available in ((4, 0), (8, 8), (3, 8)):
        processes.require_devices(wanted, available)
    with pytest.raises(ValueError, match='this node has 8 GPUs, got 16 processes for it: '
                       r'NNODES=2 tools/dist_train.sh CONFIG 8 on each node'):
        processes.require_devices(16, 8)
    with pytest.raises(ValueError, match='NNODES=4 tools/dist_train.sh CONFIG 8 on each node'):
        processes.require_devices(16, 8, nodes=2)
    with pytest.raises(ValueError, match='this node has 1 GPU, got 2 processes .*dist_test.sh '
                                         'CONFIG CHECKPOINT 1 on each node.*; or 1 here$'):
        processes.require_devices(2, 1, tool='test')


def test_devices_are_counted_before_a_process_is_started(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 8)
    monkeypatch.setattr(processes, 'run', lambda *_: pytest.fail('started'))
    with pytest.raises(ValueError, match='this node has 8 GPUs, got 16 processes'):
        processes.launch('train', '16', [PRETRAIN], {})


@pytest.mark.parametrize('environ, said', [
    (dict(NNODES='two'), "NNODES is 'two', expected a whole number"),
    (dict(NNODES='2'), 'NNODES is 2 and NODE_RANK is not set: expected 0 to 1'),
    (dict(NNODES='2', NODE_RANK='0'), 'NNODES is 2 and MASTER_ADDR is not set'),
    (dict(NNODES='2', NODE_RANK='2', MASTER_ADDR='a'), "NODE_RANK is '2', expected a whole number"),
    (dict(PORT='99999'), "PORT is '99999', expected a whole number")])
def test_nodes_that_make_no_sense_are_refused(environ, said):
    with pytest.raises(ValueError, match=said):
        processes.Nodes.of(environ)


def test_a_port_in_use_is_told_before_a_process_is_started():
    with socket.socket() as s:
        s.bind(('', 0))
        s.listen()
        with pytest.raises(ValueError, match='Address already in use. Give another PORT'):
            processes.Nodes(2, 0, '127.0.0.1', s.getsockname()[1]).require_free_port()


def test_the_scripts_say_that_gpus_are_counted_for_each_node():
    for name in ('dist_train', 'dist_test'):
        assert 'EACH node' in (REPO / f'tools/{name}.sh').read_text()
        status, said = run('bash', f'tools/{name}.sh')
        assert status == 2 and len(said) == 1 and 'GPUS_PER_NODE' in said[0]


# ------------------------------------------------------------------ one process speaks
def many(folder, action, count=4):
    """(exit statuses, output) of processes that fail as those of a launcher do."""
    os.environ[errors.FIRST_FAILURE] = str(folder / 'first')
    try:
        children = [fork(lambda rank=rank: action(rank), folder / f'said{rank}')
                    for rank in range(count)]
    finally:
        del os.environ[errors.FIRST_FAILURE]
    statuses = [wait(child) for child in children]
    return statuses, [line for rank in range(count)
                      for line in (folder / f'said{rank}').read_text().splitlines()]


def test_of_several_processes_with_a_mistake_one_tells_it(tmp_path):
    def mistake(rank):
        raise ValueError('no data')
    statuses, said = many(tmp_path, mistake)
    assert statuses == [2] * 4
    assert said == ['ValueError: no data', '(SEMMAE_TRACEBACK=1 shows where)']
    assert (tmp_path / 'first').read_text() == '2'


def test_of_several_processes_with_a_bug_one_shows_its_traceback(tmp_path):
    def bug(rank):
        raise KeyError('ours')
    statuses, said = many(tmp_path, bug)
    assert statuses == [1] * 4
    assert sum('Traceback' in line for line in said) == 1 and said[-1] == "KeyError: 'ours'"


def test_a_process_that_fails_alone_tells_it_and_what_follows_from_it_is_not_told(
        tmp_path, monkeypatch):
    monkeypatch.setattr(errors, 'PATIENCE', .2)

    def alone(rank):
        if rank == 2:
            time.sleep(.1)
            raise FileNotFoundError('no data on this disk')
        raise RuntimeError('[pair.cc:547] Connection closed by peer [127.0.0.1]:4711')
    statuses, said = many(tmp_path, alone)
    assert statuses == [1, 1, 2, 1]
    assert said[0] == 'FileNotFoundError: no data on this disk' and len(said) == 2


def test_a_process_that_no_launcher_started_is_not_kept_from_speaking(capsys):
    for _ in range(2):
        with pytest.raises(SystemExit) as end, errors.fail_clearly():
            raise ValueError('again')
        assert end.value.code == 2 and 'again' in capsys.readouterr().err


def test_a_message_of_several_lines_is_told_in_one():
    error = ValueError('the checkpoint does not fit: 2 tensors differ:\n  a: 1\n  b: 2\nGive it.')
    assert errors.message_of(error) == (
        'ValueError: the checkpoint does not fit: 2 tensors differ: a: 1; b: 2; Give it.')
    assert errors.message_of(ValueError()) == 'ValueError: no message'


def test_what_was_printed_before_the_first_step_is_dropped_for_a_mistake_only(capsys):
    def ends(error, begun):
        with pytest.raises((SystemExit, KeyError)), errors.fail_clearly(is_quiet=True):
            print('environment and config')
            errors.announce('a start')
            if begun:
                errors.speak()
            raise error
        return capsys.readouterr().out.splitlines()
    assert ends(ValueError('no data'), False) == ['a start']
    assert ends(ValueError('NaN'), True) == ['a start', 'environment and config']
    assert ends(KeyError('ours'), False) == ['a start', 'environment and config']
    assert ends(SystemExit(143), False) == ['a start', 'environment and config']


def test_a_logger_made_while_output_is_held_back_writes_on(capsys):
    with errors.fail_clearly(is_quiet=True):
        stream = sys.stdout
        print('first', file=stream)
        assert capsys.readouterr().out == ''
        errors.speak()
    print('later', file=stream)
    assert capsys.readouterr().out == 'first\nlater\n'


def test_output_is_held_back_for_a_limited_time(monkeypatch, capsys):
    monkeypatch.setattr(errors, 'HELD', 0)
    with errors.fail_clearly(is_quiet=True):
        print('slow data')
        assert capsys.readouterr().out == 'slow data\n'


def test_what_a_worker_prints_is_shown_at_once_and_without_what_its_parent_holds_back(tmp_path):
    def with_a_worker():
        with errors.held_back():
            print('of the parent')
            if not os.fork():
                print('of the worker')
                os._exit(0)
            os.wait()
            errors.drop()
    assert wait(fork(with_a_worker, tmp_path / 'said')) == 0
    assert (tmp_path / 'said').read_text() == 'of the worker\n'


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
        'process 0 of this node was ended by SIGKILL, from outside or for want of memory\n'
        if expected == 137 else '')


# ------------------------------------------------------------------ what a config needs
def test_a_missing_store_is_told_with_the_command_of_the_configs_docstring():
    with needs.run_of(PRETRAIN), pytest.raises(FileNotFoundError) as error:
        PartStore('data/parts/imagenet_train_28')
    assert str(error.value) == (
        f'no part store at data/parts/imagenet_train_28. {PRETRAIN} needs: ImageNet-1k in '
        f'data/imagenet, and its part store: {EXACT}')


def test_outside_of_a_run_the_command_has_places_to_fill_in():
    with pytest.raises(FileNotFoundError, match='extract_parts.py CONFIG CHECKPOINT'):
        PartStore('data/parts/imagenet_train_28')


def test_a_config_without_a_command_of_its_own_names_that_of_its_base(tmp_path):
    leaf = tmp_path / 'leaf.py'
    leaf.write_text('"""A leaf.\n\nNeeds:  the part store\n"""\n'
                    f'_base_ = [{str(REPO / PRETRAIN)!r}]')
    with needs.run_of(leaf):
        assert needs.cure('template', 'tools/extract_parts.py',
                          'data/parts/imagenet_train_28').endswith(EXACT)
        assert needs.cure('template', 'tools/extract_parts.py', 'elsewhere') == 'template'


def stores(node):
    """The part stores that a config reads in training."""
    if isinstance(node, dict):
        yield from (v for k, v in node.items() if k in ('part_store', 'store') and v)
        node = list(node.values())
    for inner in node if isinstance(node, (list, tuple)) else ():
        yield from stores(inner)


@pytest.mark.parametrize('path', [p for p in sorted((REPO / 'mm_configs').rglob('*.py'))
                                  if '_base_' not in p.parts], ids=lambda p: p.stem)
def test_every_config_that_reads_a_part_store_knows_the_command_that_makes_it(path):
    for store in {*stores(Config.fromfile(path)._cfg_dict.to_dict())}:
        with needs.run_of(path):
            found = needs.cure('', 'tools/extract_parts.py', store)
        assert f'--out {store} ' in found + ' ', f'{path} reads {store}'


def test_missing_data_are_told_with_what_the_config_needs(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'no image folder at nowhere. .* needs: '
                                                r'python -m semmae.datasets.toy --out data/toy$'):
        training.train(str(REPO / MINI), work_dir=tmp_path, options={
            'train_dataloader.dataset.dataset.data_root': 'nowhere'})


# ------------------------------------------------------------------ noise of the forks
def test_of_what_forks_print_only_the_known_is_left_out(capsys):
    import warnings
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        with quiet_forks():
            print('Could not import OneDL')
            print('something else')
            warnings.warn('Fail to import ``MultiScaleDeformableAttention`` from ...', stacklevel=2)
            warnings.warn('another warning', stacklevel=2)
    printed = capsys.readouterr()
    assert printed.out == '' and printed.err == 'something else\n'
    assert [str(w.message) for w in seen] == ['another warning']


QUICK = {('tools/convert_checkpoint.py', 'no.pth', 'x.pth', '--to', 'timm'): 'no checkpoint at',
         ('tools/train.py', 'nothing.py'): 'no config at nothing.py'}
SLOW = {('tools/test.py', MINI, 'nothing.pth'): 'no checkpoint at nothing.pth',
        ('tools/extract_parts.py', MINI, 'x', '--images', 'nothing', '--out', '{tmp}'): 'nothing',
        ('tools/part_quality.py', MINI, 'nothing', '--cub', 'x', '--work-dir', '{tmp}'): 'nothing',
        ('tools/visualize.py', 'masks', '--help'): 'usage',
        ('tools/make_report.py', 'nothing', '--out', '{tmp}/x.html'): 'nothing',
        ('tools/check_data.py', 'imagenet', '--root', '{tmp}'): 'imagenet',
        ('tools/run_suite.py', 'mini', '--only', 'nothing', '--work-dir', '{tmp}'): 'no row'}


@pytest.mark.parametrize('command', [
    *QUICK, *(pytest.param(command, marks=pytest.mark.slow) for command in SLOW)],
    ids=lambda command: Path(command[0]).stem)
def test_a_command_prints_what_it_has_to_say_and_nothing_of_the_forks(tmp_path, command):
    status, lines = run(sys.executable, *(c.replace('{tmp}', str(tmp_path)) for c in command))
    text = '\n'.join(lines)
    assert {**QUICK, **SLOW}[command] in text
    assert not re.search('OneDL|Warning|warnings.warn|Traceback', text), text
    if command in QUICK:
        assert status == 2 and len(lines) == 2, text


# ------------------------------------------------------------------ real processes
def no_images(tmp_path, name='work'):
    return (MINI, '--work-dir', tmp_path / name, '--cfg-options',
            'train_dataloader.dataset.dataset.data_root=/nonexistent')


def test_processes_without_data_tell_it_once(tmp_path):
    path, *more = no_images(tmp_path)
    status, said = run('bash', 'tools/dist_train.sh', path, 2, *more)
    assert status == 2 and len(said) == 3, said
    assert said[0].startswith(f'{MINI}: 64 images x 2 processes -> ')
    assert said[1].startswith('FileNotFoundError: no image folder at /nonexistent. ')


@pytest.mark.parametrize('tool, count, arguments, said', [
    ('train', '16', ['nothing.py'], 'no config at nothing.py'),
    ('train', '32', [PRETRAIN], 'would be 8192'),
    ('train', '16', [PRETRAIN, '--wrong'], 'tools/train.py: unrecognized arguments: --wrong'),
    ('train', '16', [PRETRAIN, '--cfg-options', 'modle.x=1'], 'has no such key'),
    ('train', '16', [PRETRAIN, '--cfg-options', 'train_dataloader.batch_size=0'], 'batch_size is'),
    ('train', 'two', [PRETRAIN], "found 'two'"),
    ('test', '16', ['nothing.py', 'x.pth'], 'no config at nothing.py')])
def test_what_the_command_gives_away_is_told_before_processes_start(
        monkeypatch, capsys, tool, count, arguments, said):
    monkeypatch.setattr(processes, 'run', lambda *_: pytest.fail('started'))
    with pytest.raises(SystemExit) as end, errors.fail_clearly():
        processes.launch(tool, count, arguments, {})
    printed = capsys.readouterr()
    lines = (printed.out + printed.err).splitlines()
    assert end.value.code == 2 and len(lines) == 2 and said in lines[0], lines


def test_sixteen_processes_at_a_wrong_batch_end_in_two_lines_and_status_2():
    status, said = run('bash', 'tools/dist_train.sh', PRETRAIN, 16, NNODES=2, NODE_RANK=0,
                       MASTER_ADDR='127.0.0.1', PORT=free_port())
    assert status == 2 and len(said) == 2, said
    assert 'would be 8192 = 256 images x 16 processes on each of 2 nodes' in said[0]


@pytest.mark.slow
def test_a_missing_checkpoint_is_told_once_by_a_test_on_several_processes(tmp_path):
    status, said = run('bash', 'tools/dist_test.sh', 'mm_configs/mini/linprobe_p16_mini.py',
                       'nothing.pth', 2, '--work-dir', tmp_path)
    assert status == 2 and len(said) == 2, said
    assert 'no checkpoint at nothing.pth' in said[0]


TINY = '''
import sys
sys.path.insert(0, {repo!r})
import tests.tiny
'''


@pytest.mark.slow
@pytest.mark.parametrize('number, code', [
    (signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129), (signal.SIGUSR1, 143)])
def test_a_signal_to_the_launcher_saves_and_keeps_its_status(tmp_path, number, code):
    path = Path(config(tmp_path, 'model.update(pause=.2)', 'train_cfg.update(max_epochs=99)'))
    path.write_text(path.read_text() + TINY.format(repo=str(REPO)))
    process = start('bash', 'tools/dist_train.sh', path, 2, '--work-dir', tmp_path / 'work')
    deadline = time.time() + 120
    while not (tmp_path / 'work/epoch_1.pth').is_file() and time.time() < deadline:
        time.sleep(.2)
        assert process.poll() is None, process.communicate()[0]
    process.send_signal(number)
    status, said = ended(process)
    assert status == code, said
    assert list((tmp_path / 'work').glob('iter_*.pth')), said
    assert not [line for line in said if 'Traceback' in line], said


ONE_FAILS = '''
import os
if os.environ.get('RANK') == '1':
    train_dataloader['dataset']['dataset'].update(length='none')
'''


@pytest.mark.slow
def test_a_process_that_fails_alone_ends_the_others_and_its_status_is_passed_on(tmp_path):
    path = Path(config(tmp_path))
    path.write_text(path.read_text() + TINY.format(repo=str(REPO)) + ONE_FAILS)
    begun = time.time()
    status, said = run('bash', 'tools/dist_train.sh', path, 2, '--work-dir', tmp_path / 'work')
    assert status in (1, 2) and time.time() - begun < 120
    assert sum('Error:' in line for line in said if not line.startswith(' ')) == 1, said


def nodes(path, more, count=2, each=1):
    port = free_port()
    started = [start('bash', 'tools/dist_train.sh', path, each, *more, NNODES=count, NODE_RANK=rank,
                     MASTER_ADDR='127.0.0.1', PORT=port) for rank in range(count)]
    return [ended(process) for process in started]


@pytest.mark.slow
def test_two_nodes_without_data_tell_it_once_each(tmp_path):
    path, *more = no_images(tmp_path)
    for status, said in nodes(path, more):
        assert status == 2 and len(said) <= 3, said
        assert [line for line in said if 'no image folder at /nonexistent' in line]


ONE_NODE_FAILS = '''
import os
if os.environ.get('RANK') == '1':
    raise ValueError('this node has another disk')
'''


@pytest.mark.slow
def test_the_end_of_one_node_ends_the_other(tmp_path):
    path = Path(config(tmp_path))
    path.write_text(path.read_text() + TINY.format(repo=str(REPO)) + ONE_NODE_FAILS)
    (first, said_first), (second, said_second) = nodes(path, ('--work-dir', tmp_path / 'work'))
    assert (first, second) == (2, 2), (said_first, said_second)
    assert 'this node has another disk' in said_second[0] and len(said_second) == 2
    assert said_first[-1] == 'another node of this run ended first; its own output says why'
    assert len(said_first) <= 3


FAKE_SRUN = '''#!/usr/bin/env bash
# Starts as many tasks as it is told, and reports those that fail as srun does.
while [[ "$1" == -* ]]; do
  [ "$1" = --ntasks ] && tasks=$2
  if [[ "$1" == *=* ]]; then shift; else shift 2; fi
done
export SLURM_NTASKS=$tasks SLURM_NODELIST=localhost MASTER_ADDR=127.0.0.1 WORLD_SIZE=$tasks
for ((i = 0; i < tasks; i++)); do
  (RANK=$i LOCAL_RANK=$i SLURM_PROCID=$i SLURM_LOCALID=$i "$@"
   code=$?; echo "srun: error: node0: task $i: Exited with exit code $code" >&2; exit $code) &
done
code=0
for job in $(jobs -p); do wait $job || code=$?; done
exit $code
'''


@pytest.mark.slow
def test_slurm_tasks_without_data_tell_it_once(tmp_path):
    (tmp_path / 'srun').write_text(FAKE_SRUN)
    (tmp_path / 'srun').chmod(0o755)
    path, *more = no_images(tmp_path)
    status, said = run('bash', 'tools/slurm_train.sh', 'vision', 'job', path, *more, GPUS=2,
                       PATH=f'{tmp_path}:{os.environ["PATH"]}', MASTER_PORT=free_port(),
                       TMPDIR=tmp_path)
    assert status == 2 and len(said) <= 3, said
    assert sum('no image folder' in line for line in said) == 1, said


def test_no_config_is_left_that_names_a_tool_without_its_interpreter():
    for path in (REPO / 'mm_configs').rglob('*.py'):
        needed = needs.needs_of(path)
        assert '...' not in needed, path
        ast.parse(path.read_text())
