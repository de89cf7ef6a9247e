"""A mistake is printed once and in few lines, with exit status 2 and what to run."""
import ast
import os
import re
import sys
import time
import warnings

import pytest
from mmengine.config import Config
from torch._utils import ExceptionWrapper

from semmae import needs
from semmae.datasets.image_files import DamagedImage
from semmae.datasets.part_store import PartStore
from semmae.registry import DATASETS, quiet_forks
from semmae.training import errors
from semmae.training.run import train

from ..tiny import REPO, fork, tool, wait

PRETRAIN = 'mm_configs/semmae_pretrain.py'
MINI = 'mm_configs/mini/mae_p16_mini.py'
EXACT = ('python tools/extract_parts.py mm_configs/semmae_parts.py '
         'work_dirs/semmae_parts/epoch_2.pth --images data/imagenet/train '
         '--out data/parts/imagenet_train_28 --grid 28')


# ------------------------------------------------------------------ one line
def one_line(capsys, action):
    """What `fail_clearly` prints for an error of ``action()``, without its hint."""
    with pytest.raises(SystemExit) as ended, errors.fail_clearly():
        action()
    text, hint = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and 'SEMMAE_TRACEBACK' in hint
    return text


def test_an_error_of_a_data_loaders_worker_is_printed_without_its_traceback(capsys):
    def read():
        try:
            raise DamagedImage('a.jpg: the cause')
        except DamagedImage as error:
            raise DamagedImage('a.jpg cannot be decoded: ValueError: no image') from error

    def as_a_worker():
        try:
            read()
        except DamagedImage:
            wrapper = ExceptionWrapper(where='in DataLoader worker process 0')  # as torch does
        wrapper.reraise()
    assert one_line(capsys, as_a_worker) == (
        'DamagedImage: a.jpg cannot be decoded: ValueError: no image')


def test_a_folder_without_classes_and_images_is_a_mistake_of_the_user(capsys, tmp_path):
    def build():
        DATASETS.build(dict(type='mmpretrain.CustomDataset', data_root=str(tmp_path)))
    assert one_line(capsys, build).startswith('RuntimeError: Found 0 files in subfolders of')
    with pytest.raises(RuntimeError, match='internal'), errors.fail_clearly():
        raise RuntimeError('internal')


def test_without_a_launcher_each_failure_is_printed(capsys):
    for _ in range(2):
        assert one_line(capsys, lambda: int('x')).startswith('ValueError: invalid literal')


def test_a_message_of_several_lines_becomes_one_line():
    error = ValueError('the checkpoint does not fit: 2 tensors differ:\n  a: 1\n  b: 2\nGive it.')
    assert errors.message_of(error) == (
        'ValueError: the checkpoint does not fit: 2 tensors differ: a: 1; b: 2; Give it.')
    assert errors.message_of(ValueError()) == 'ValueError: no message'


# ------------------------------------------------------------------ several processes
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


def test_one_of_several_processes_with_a_mistake_prints_it(tmp_path):
    def mistake(rank):
        raise ValueError('no data')
    statuses, said = many(tmp_path, mistake)
    assert statuses == [2] * 4
    assert said == ['ValueError: no data', '(SEMMAE_TRACEBACK=1 shows where)']
    assert (tmp_path / 'first').read_text() == '2'


def test_one_of_several_processes_with_an_internal_error_prints_its_traceback(tmp_path):
    def bug(rank):
        raise KeyError('ours')
    statuses, said = many(tmp_path, bug)
    assert statuses == [1] * 4
    assert sum('Traceback' in line for line in said) == 1 and said[-1] == "KeyError: 'ours'"


def test_lost_connections_to_a_process_that_failed_are_not_printed(tmp_path, monkeypatch):
    monkeypatch.setattr(errors, 'PATIENCE', 3)

    def alone(rank):
        if rank == 2:
            time.sleep(.1)
            raise FileNotFoundError('no data on this disk')
        raise RuntimeError('[pair.cc:547] Connection closed by peer [127.0.0.1]:4711')
    statuses, said = many(tmp_path, alone)
    assert statuses == [1, 1, 2, 1]
    assert said == ['FileNotFoundError: no data on this disk']


# ------------------------------------------------------------------ output before the first step
def test_output_before_the_first_step_is_discarded_for_a_mistake_only(capsys):
    def ends(error, begun):
        with pytest.raises((SystemExit, KeyError)), errors.fail_clearly(is_quiet=True):
            print('environment and config')
            errors.announce('a start')
            if begun:
                errors.show_output()
            raise error
        return capsys.readouterr().out.splitlines()
    assert ends(ValueError('no data'), False) == ['a start']
    assert ends(ValueError('NaN'), True) == ['a start', 'environment and config']
    assert ends(KeyError('ours'), False) == ['a start', 'environment and config']
    assert ends(SystemExit(143), False) == ['a start', 'environment and config']


def test_a_logger_made_while_output_is_held_back_keeps_writing(capsys):
    with errors.fail_clearly(is_quiet=True):
        stream = sys.stdout
        print('first', file=stream)
        assert capsys.readouterr().out == ''
        errors.show_output()
    print('later', file=stream)
    assert capsys.readouterr().out == 'first\nlater\n'


def test_output_is_held_back_for_a_limited_time(monkeypatch, capsys):
    monkeypatch.setattr(errors, 'HELD', 0)
    with errors.fail_clearly(is_quiet=True):
        print('slow data')
        assert capsys.readouterr().out == 'slow data\n'


def test_a_worker_prints_at_once_and_without_the_held_output_of_its_parent(tmp_path):
    def with_a_worker():
        with errors.held_back():
            print('of the parent')
            if not os.fork():
                print('of the worker')
                os._exit(0)
            os.wait()
            errors.show_output(False)
    assert wait(fork(with_a_worker, tmp_path / 'said')) == 0
    assert (tmp_path / 'said').read_text() == 'of the worker\n'


# ------------------------------------------------------------------ what a config needs
def test_the_error_for_a_missing_store_has_the_command_of_the_configs_docstring():
    with needs.run_of(PRETRAIN), pytest.raises(FileNotFoundError) as error:
        PartStore('data/parts/imagenet_train_28')
    assert str(error.value) == (
        f'no part store at data/parts/imagenet_train_28. {PRETRAIN} needs: ImageNet-1k in '
        f'data/imagenet, and its part store: {EXACT}')
    with pytest.raises(FileNotFoundError, match='extract_parts.py CONFIG CHECKPOINT'):
        PartStore('data/parts/imagenet_train_28')  # outside a run


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


@pytest.mark.slow
def test_every_config_that_reads_a_part_store_names_the_command_that_makes_it():
    for path in (REPO / 'mm_configs').rglob('*.py'):
        assert '...' not in needs.needs_of(path), path
        ast.parse(path.read_text())
        if '_base_' in path.parts:
            continue
        cfg = Config.fromfile(path)._cfg_dict.to_dict()
        cfg.pop('train_cfg', None)  # that of probes has a feature store
        for store in {*stores(cfg)}:
            with needs.run_of(path):
                found = needs.cure('', 'tools/extract_parts.py', store)
            assert f'--out {store} ' in found + ' ', f'{path} reads {store}'


def test_the_error_for_missing_data_says_what_the_config_needs(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'no image folder at nowhere. .* needs: '
                                                r'python -m semmae.datasets.toy --out data/toy$'):
        train(str(REPO / MINI), work_dir=tmp_path, options={
            'train_dataloader.dataset.dataset.data_root': 'nowhere'})


# ------------------------------------------------------------------ output of the forks
def test_only_known_output_of_the_forks_is_left_out(capsys):
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


COMMANDS = {
    ('convert_checkpoint', 'no.pth', 'x.pth', '--to', 'timm'): 'no checkpoint at',
    ('test', MINI, 'nothing.pth'): 'no checkpoint at nothing.pth',
    ('extract_parts', MINI, 'x', '--images', 'nothing', '--out', '{tmp}'): 'nothing',
    ('part_quality', MINI, 'nothing', '--cub', 'x', '--work-dir', '{tmp}'): 'nothing',
    ('visualize', 'masks', '--help'): 'usage',
    ('make_report', 'nothing', '--out', '{tmp}/x.html'): 'nothing',
    ('check_data', 'imagenet', '--root', '{tmp}'): 'imagenet',
    ('run_suite', 'mini', '--only', 'nothing', '--work-dir', '{tmp}'): 'no row'}


@pytest.mark.parametrize('command', COMMANDS, ids=lambda command: command[0])
def test_a_command_prints_its_message_and_no_warnings(tmp_path, command):
    done = tool(*(c.replace('{tmp}', str(tmp_path)) for c in command))
    text = done.stdout + done.stderr
    assert COMMANDS[command] in text
    assert not re.search('OneDL|Warning|warnings.warn|Traceback', text), text
