"""One training per work directory, and none that mixes its files with another."""
import contextlib
import os
import signal
import socket
import time

import pytest
from mmengine.config import Config

from semmae.checkpoints import load
from semmae.checkpoints.folder import is_first_process
from semmae.checkpoints.read import read_checkpoint
from semmae.training import run as training
from semmae.training import run_lock
from semmae.training.run_lock import only_run, trained_by

from ..tiny import VALIDATION, config, fork, start, trained, wait
from .test_checkpointing import names


def test_the_refusal_of_a_second_run_in_a_folder_names_the_first(tmp_path):
    path, lock = config(tmp_path, 'model.update(pause=60)'), tmp_path / 'work/.lock.holder'
    first = start(tmp_path, path)
    try:
        deadline = time.time() + 60
        while not (lock.is_file() and lock.read_text()) and time.time() < deadline:
            time.sleep(.02)
        second = start(tmp_path, path, lambda: setattr(run_lock, 'PATIENCE', 0), said='second.txt')
        assert wait(second) == 2
        assert f'is in use by process {first} on {socket.gethostname()}' in (
            tmp_path / 'second.txt').read_text()
        assert not names(tmp_path / 'work')
        assert trained_by(tmp_path / 'work') == f'process {first} on {socket.gethostname()}'
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(first, signal.SIGKILL)
    assert wait(first) == -signal.SIGKILL
    assert trained_by(tmp_path / 'work') == ''
    with only_run(tmp_path / 'work'):  # the file of a killed holder is no lock
        assert lock.read_text() == f'process {os.getpid()} on {socket.gethostname()}'


def test_a_new_run_in_a_folder_with_checkpoints_is_refused(tmp_path):
    path = config(tmp_path, 'train_cfg.update(max_epochs=2)')
    assert trained(tmp_path, path)[0] == 0
    before = {p.name: p.read_bytes() for p in (tmp_path / 'work').glob('*.pth*')}
    code, said = trained(tmp_path, path)
    assert code == 2 and 'has checkpoints of a run (epoch_2.pth), expected none' in said
    assert '--resume' in said and '--work-dir' in said and 'Traceback' not in said
    assert before == {p.name: p.read_bytes() for p in (tmp_path / 'work').glob('*.pth*')}
    assert trained(tmp_path, path, resume=True)[0] == 0


def test_without_a_launcher_each_process_is_a_run_of_its_own(tmp_path, monkeypatch):
    """As under ``srun -n 4 python tools/train.py ...``, which numbers them."""
    monkeypatch.setenv('SLURM_PROCID', '3')
    monkeypatch.setenv('RANK', '1')
    monkeypatch.setattr(run_lock, 'PATIENCE', 0)
    assert [is_first_process(launcher) for launcher in ('none', 'slurm', 'pytorch')] == [
        True, False, False]
    with only_run(tmp_path), only_run(tmp_path, 'slurm'):
        with pytest.raises(ValueError, match='is in use by process'), only_run(tmp_path):
            pass


def test_a_test_beside_a_training_says_so_and_reads_its_checkpoint_once(tmp_path, whole):
    path, work = config(tmp_path, VALIDATION.replace('val_', 'test_')), tmp_path / 'work'

    def tested():
        Config.pretty_text, reads = '', []
        for module in (training, load):
            module.read_checkpoint = lambda file: reads.append(file) or read_checkpoint(file)
        metrics = training.test(path, whole / 'epoch_3.pth', work_dir=work)
        print(metrics, len(reads), 'reads')
    with only_run(work):
        code = wait(fork(tested, tmp_path / 'said.txt'))
    said = (tmp_path / 'said.txt').read_text()
    assert code == 0 and f'is in use by process {os.getpid()}' in said, said
    assert "'score'" in said and ' 1 reads' in said, said
