"""Progress of long work: what a terminal, a log file and a second process show."""
import contextlib
import os
import re
import shutil
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from semmae import progress_bar
from semmae.checkpoints import read
from semmae.commands import main
from semmae.config.options import read_config
from semmae.datasets.check import unreadable
from semmae.datasets.image_cache import pack_images
from semmae.datasets.toy import write_toy
from semmae.files import sha256, unpack
from semmae.parts.extract import extract_parts
from semmae.parts.learner import LearnerSource
from semmae.parts.quality import LandmarkTruth, part_quality
from semmae.progress_bar import Bar, shown_at_once, track
from semmae.registry import MODELS
from semmae.training.errors import held_back

from .models.small_timm import build
from .probes.test_loop import config_of
from .tiny import REPO, tool


class Clock:
    """A time that the test moves."""

    now = 0.

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(progress_bar, 'time', found)
    monkeypatch.delenv('RANK', raising=False)
    return found


@pytest.fixture
def chatty(monkeypatch):
    """A line for each tenth, however fast the work is."""
    monkeypatch.setattr(progress_bar, 'LINE_AFTER', -1.)


def work(clock, seconds, total=100, **more):
    """100 items, ``seconds`` each."""
    with Bar('encoding', total, **more) as bar:
        for _ in range(100):
            clock.now += seconds
            bar.add()


def test_a_log_has_a_line_for_each_tenth_with_count_rate_and_time_left(clock, capsys):
    work(clock, 2)
    out, told = capsys.readouterr()
    assert out == '' and len(told.splitlines()) == 10
    assert told.splitlines()[3] == (
        'encoding: 40 of 100 images (40%), 0.5 images/s, 0:02:00 left')


def test_lines_are_5_to_30_seconds_apart(clock, capsys):
    work(clock, .2)  # a tenth takes 2 s
    assert len(capsys.readouterr().err.splitlines()) == 3
    work(clock, 20)  # a tenth takes 200 s
    assert len(capsys.readouterr().err.splitlines()) == 50
    work(clock, 10, total=0)
    assert capsys.readouterr().err.splitlines()[0] == 'encoding: 4 images, 0.1 images/s'


def test_short_work_prints_nothing(clock, capsys):
    work(clock, .04)
    assert capsys.readouterr() == ('', '')


@pytest.mark.parametrize('name', ['RANK', 'SLURM_PROCID'])
def test_only_the_first_process_prints(name, clock, capsys, monkeypatch):
    monkeypatch.setenv(name, '1')
    work(clock, 2)
    assert capsys.readouterr().err == ''


def test_the_rate_leaves_out_what_an_earlier_run_did(clock, capsys):
    with Bar('parts', 100, done=80) as bar:
        clock.now = 10
        bar.to(90)
    assert '90 of 100 images (90%), 1 images/s, 0:00:10 left' in capsys.readouterr().err


def test_bytes_are_shown_in_megabytes(clock, capsys):
    with Bar('download', 4_000_000, 'bytes') as bar:
        clock.now = 10
        bar.add(1_000_000)
    assert '1.0 of 4.0 MB (25%), 0.1 MB/s, 0:00:30 left' in capsys.readouterr().err


@contextlib.contextmanager
def terminal(monkeypatch):
    """stderr is a terminal inside; yields a function that returns what it showed, at the end."""
    leader, follower = os.openpty()
    shown = []

    def read():
        with contextlib.suppress(OSError):  # the other end is closed
            while block := os.read(leader, 1 << 16):
                shown.append(block)
    reader = threading.Thread(target=read)
    reader.start()
    with open(follower, 'w') as stream, monkeypatch.context() as patch:
        patch.setattr(sys, 'stderr', stream)
        patch.setenv('TERM', 'xterm')
        patch.setenv('COLUMNS', '120')
        yield lambda: b''.join(shown).decode()
    reader.join()
    os.close(leader)


def test_a_terminal_shows_a_bar_after_a_second_and_stdout_stays_clean(clock, capsys, monkeypatch):
    with terminal(monkeypatch) as shown:
        with Bar('encoding', 100) as bar:
            clock.now = .5
            bar.add(10)
            assert not Bar.is_live
            clock.now = 2.
            bar.add(54)
            assert Bar.is_live
            print('a result')
        assert not Bar.is_live
    assert 'encoding' in shown() and '64 of 100 images (64%), 32 images/s, 0:00:01 left' in shown()
    assert capsys.readouterr().out == 'a result\n' and 'a result' not in shown()


def test_an_error_ends_the_bar_and_shows_the_cursor_again(clock, monkeypatch):
    def broken():
        for _ in track(range(100), 'encoding'):
            clock.now += 1
            if clock.now > 5:
                raise KeyError
    with terminal(monkeypatch) as shown, contextlib.suppress(KeyError):
        broken()
    assert not Bar.is_live
    assert shown().rindex('\x1b[?25h') > shown().rindex('\x1b[?25l')


def test_of_nested_bars_a_terminal_shows_the_first(clock, monkeypatch):
    with terminal(monkeypatch) as shown:
        with Bar('outer', 10) as outer, Bar('inner', 10) as inner:
            clock.now = 2
            outer.add()
            inner.add()
    assert 'outer' in shown() and 'inner' not in shown()


def test_held_back_output_does_not_hold_back_progress(clock, capfd):
    with held_back():
        print('later')
        with Bar('download', 10) as bar:
            clock.now = 10
            bar.add(5)
        with shown_at_once():
            print('a bar of a library', file=sys.stderr)
        assert capfd.readouterr() == ('', 'download: 5 of 10 images (50%), 0.5 images/s, 0:00:10 '
                                          'left\na bar of a library\n')


# ------------------------------------------------------------------ who shows progress
def last_line(text, what):
    """The last line about ``what``: 'DONE of TOTAL UNIT'."""
    return re.findall(rf'^{what}: (\S+ of \S+ \S+) \(', text, re.MULTILINE)[-1]


def test_packing_and_checking_a_cache(chatty, toy, tmp_path, capsys):
    cache = pack_images(toy / 'imagenet/val', tmp_path / 'c', 32, shard_size=3)
    assert last_line(capsys.readouterr().err, 'packing') == '8 of 8 images'
    cache.verify()
    assert last_line(capsys.readouterr().err, 'checking') == '3 of 3 shards'


@pytest.mark.parametrize('kind', ['gztar', 'zip', 'tar'])
def test_unpacking(kind, chatty, tmp_path, capsys):
    (tmp_path / 'in').mkdir()
    for number in range(20):
        (tmp_path / f'in/{number}').write_bytes(np.random.default_rng(number).bytes(100_000))
    archive = Path(shutil.make_archive(str(tmp_path / 'data'), kind, tmp_path / 'in'))
    assert unpack(archive, tmp_path / 'out', sha256(archive)) == 20
    told = capsys.readouterr().err
    assert last_line(told, f'sha256 of {archive.name}') == '2.0 of 2.0 MB'
    assert last_line(told, f'unpacking {archive.name}') in ('2.0 of 2.0 MB', '1.9 of 2.0 MB')


def test_drawing_the_toy_set_and_decoding_it(chatty, tmp_path, capsys):
    write_toy(tmp_path / 'toy', num_imagenet=(8, 8), num_cub=(16, 16), num_ade=(1, 1), workers=1)
    assert last_line(capsys.readouterr().err, 'drawing') == '50 of 50 images'
    assert unreadable(tmp_path / 'toy/imagenet') == []
    assert last_line(capsys.readouterr().err, 'decoding imagenet') == '32 of 32 images'


def test_a_download(chatty, tmp_path, capsys):
    (tmp_path / 'from').write_bytes(bytes(3_000_000))
    with (tmp_path / 'to').open('wb') as file:
        read.download((tmp_path / 'from').as_uri(), file)
    assert last_line(capsys.readouterr().err, 'downloading file:.*') == '3.0 of 3.0 MB'


def test_a_download_by_timm_is_announced_where_output_is_held_back(monkeypatch, capfd):
    create, source = timm.create_model, build().vit
    monkeypatch.setattr(timm, 'create_model', lambda *args, pretrained=False, **kwargs: (
        print('the bar of the hub', file=sys.stderr) or source if pretrained
        else create(*args, **kwargs)))
    model = build(pretrained=True)
    with held_back():
        model.init_weights()
        assert re.search("weights of timm's .*: from the cache, or downloaded\nthe bar of the hub",
                         capfd.readouterr().err)


def test_features_and_predictions_of_a_folder(chatty, toy, tmp_path, capsys):
    images, name = toy / 'imagenet/val', 'vit_tiny_patch16_224'
    save_file(timm.create_model(name).state_dict(), tmp_path / 'vit.safetensors')
    main(['embed', str(images), '--timm', name, '--checkpoint', str(tmp_path / 'vit.safetensors'),
          '--out', str(tmp_path / 'f.npz'), '--batch-size', '3', '--num-workers', '0'])
    assert last_line(capsys.readouterr().err, 'encoding') == '8 of 8 images'
    config = REPO / 'mm_configs/mini/linprobe_p16_mini.py'
    torch.save(dict(state_dict=MODELS.build(read_config(config).model).state_dict()),
               tmp_path / 'c.pth')
    main(['predict', str(config), str(tmp_path / 'c.pth'), '--images', str(images), '--out',
          str(tmp_path / 'out.csv')])
    out, told = capsys.readouterr()
    assert last_line(told, 'predicting') == '8 of 8 images'
    assert out.splitlines()[-1] == f'8 images -> {tmp_path / "out.csv"}'


def test_extracting_and_measuring_parts(chatty, learner, toy, tmp_path, capsys):
    config = REPO / 'mm_configs/mini/semmae_parts_mini.py'
    extract_parts(LearnerSource(config, learner, 8), toy / 'imagenet/val', tmp_path / 'store',
                  batch_size=2, shard_size=4)
    assert last_line(capsys.readouterr().err, 'parts') == '8 of 8 images'
    part_quality(LearnerSource(config, learner), LandmarkTruth(toy / 'CUB_200_2011'), tmp_path,
                 ['cells'], batch_size=16)
    assert last_line(capsys.readouterr().err, 'cells') == '2 of 2 batches'


def test_probes(chatty, toy, tmp_path):
    done = tool('train', config_of(toy, tmp_path), '--work-dir', tmp_path / 'work',
                '--cfg-options', 'default_hooks.logger.interval=1')
    assert done.returncode == 0, done.stderr[-3000:]
    assert last_line(done.stderr, 'features of CUB-200-2011') == '16 of 16 images'
    assert last_line(done.stderr, r'fitting \d+ settings').endswith(' steps')
    assert last_line(done.stderr, 'statistics') == last_line(done.stderr, 'test') == (
        '16 of 16 images')
    assert re.findall(r'Epoch\(val\) \[0\]\[(\d+)/8\]', done.stdout) == ['8', '8']
