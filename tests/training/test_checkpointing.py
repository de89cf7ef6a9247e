"""A complete checkpoint exists at every instant, and damaged ones are not loaded."""
import contextlib
import errno
import os
import pathlib
import resource
import shutil
import subprocess
from unittest.mock import Mock, patch

import pytest
import torch

from semmae.checkpoints.folder import latest
from semmae.checkpoints.read import read_checkpoint
from semmae.checkpoints.write import Digesting, write_checkpoint
from semmae.files import check_digest, digest_file
from semmae.mmengine_patches import AtomicBackend
from semmae.training import checkpointing

from ..tiny import STOCK, VALIDATION, config, trained

BEST = "default_hooks['checkpoint'].update(save_best='score', rule='greater')"


def keep(number):
    return f"default_hooks['checkpoint'].update(max_keep_ckpts={number})"


def names(folder):
    return sorted(p.name for p in folder.glob('*.pth*'))


def with_digests(*stems):
    return sorted(f'{stem}.pth{end}' for stem in stems for end in ('', '.sha256'))


def weights(path):
    content = read_checkpoint(path)
    state = content['optimizer']['state']
    return [*content['state_dict'].values(), *(v for k in sorted(state) for v in state[k].values())]


def equal(one, two):
    return all(torch.equal(a, b) for a, b in zip(weights(one), weights(two), strict=True))


def is_whole(path):
    with contextlib.suppress(ValueError):
        return bool(read_checkpoint(path))


# ------------------------------------------------------------------ at every instant
def look_at_every_instant(work):
    """Before and after each write, sync, rename and removal, a checkpoint is complete."""
    seen, most, files = -1, 0, None

    def look():
        nonlocal seen, most, files
        now = {p.name: p.stat().st_ino for p in work.glob('*.pth*') if 'partial' not in p.name}
        if now == files:
            return
        files = now
        newest = latest(work)
        done = read_checkpoint(newest)['meta']['iter'] if newest else -1
        assert done >= seen, f'{seen} iterations were saved, now {done} are'
        seen = done
        best = [p for p in work.glob('best_*.pth') if is_whole(p)]
        assert len(best) >= most, 'the best one is gone'
        most = min(1, len(best))

    def watched(act):
        def inner(*args, **kwargs):
            look()
            try:
                return act(*args, **kwargs)
            finally:
                look()
        return inner
    for place, name in ((os, 'replace'), (os, 'fsync'), (pathlib.Path, 'unlink'),
                        (Digesting, 'write'), (AtomicBackend, 'remove')):
        setattr(place, name, watched(getattr(place, name)))


@pytest.mark.slow
@pytest.mark.parametrize('number, best', [(1, True), (2, True), (3, False)])
def test_at_every_instant_the_newest_work_is_whole(tmp_path, number, best):
    path = config(tmp_path, *([VALIDATION, BEST] if best else []), keep(number),
                  "train_cfg.update(max_epochs=4)")
    code, said = trained(tmp_path, path, lambda: look_at_every_instant(tmp_path / 'work'))
    assert code == 0, said
    kept = [f'epoch_{epoch}' for epoch in range(5 - number, 5)]
    assert names(tmp_path / 'work') == with_digests(*kept, *['best_score_epoch_4'] * best)


def test_with_mmengines_hook_there_is_an_instant_without_any(tmp_path):
    path = config(tmp_path, STOCK, keep(1))
    code, said = trained(tmp_path, path, lambda: look_at_every_instant(tmp_path / 'work'))
    assert code and '6 iterations were saved, now -1 are' in said, said


def test_the_best_checkpoint_stays_if_none_is_better(tmp_path):
    path = config(tmp_path, VALIDATION, BEST, keep(1), 'val_evaluator.update(best=2)')
    code, said = trained(tmp_path, path)
    assert code == 0, said
    assert names(tmp_path / 'work') == with_digests('best_score_epoch_2', 'epoch_3')


def at_byte(act, share, save=2):
    """Calls ``act`` in a save, after that share of what the first one wrote."""
    sizes, write = [], Digesting.write

    def counting(self, data):
        if not hasattr(self, 'size'):
            self.size = 0
            sizes.append(self)
        if len(sizes) == save and self.size >= share * sizes[0].size:
            self.file.write(data[:len(data) // 2])
            self.file.flush()
            act(self)
        self.size += len(data)
        return write(self, data)
    Digesting.write = counting


@pytest.mark.slow
@pytest.mark.parametrize('share', [0, .9])
def test_a_run_killed_in_a_save_and_resumed_is_bit_identical(tmp_path, whole, share):
    path = config(tmp_path, keep(1))
    code, _ = trained(tmp_path, path, lambda: at_byte(lambda _: os._exit(137), share))
    work = tmp_path / 'work'
    assert code == 137
    assert names(work) == [*with_digests('epoch_1'), 'epoch_2.pth.partial']
    code, said = trained(tmp_path, path, resume=True)
    assert code == 0, said
    assert equal(work / 'epoch_3.pth', whole / 'epoch_3.pth')


def test_a_run_killed_between_writing_and_removing_removes_when_resumed(tmp_path):
    path = config(tmp_path, keep(1))

    def die(self, name):
        os._exit(137) if name else None
    code, _ = trained(tmp_path, path, lambda: setattr(checkpointing.CheckpointHook, 'remove', die))
    assert code == 137 and names(tmp_path / 'work') == with_digests('epoch_1', 'epoch_2')
    code, said = trained(tmp_path, path, resume=True)
    assert code == 0 and names(tmp_path / 'work') == with_digests('epoch_3'), said


def full(stream):
    stream.file = Mock(write=Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))


def limit(stream):
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 13, 1 << 13))


@pytest.mark.parametrize('act, reason', [(full, 'No space left on device'),
                                         (limit, 'File too large')])
def test_a_save_that_fails_says_why_and_leaves_the_earlier_checkpoints(tmp_path, act, reason):
    code, said = trained(tmp_path, config(tmp_path, keep(1)), lambda: at_byte(act, .2))
    assert code == 2
    [line] = [line for line in said.splitlines() if reason in line]
    assert 'epoch_2.pth could not be saved' in line and 'bytes' in line and '--resume' in line
    assert 'Traceback' not in said
    assert names(tmp_path / 'work') == with_digests('epoch_1')
    assert latest(tmp_path / 'work').name == 'epoch_1.pth'


# ------------------------------------------------------------------ which one is taken
def saved(folder, *stems):
    for i, stem in enumerate(stems, 1):
        write_checkpoint(dict(meta=dict(epoch=i, iter=10 * i), state_dict=dict(
            x=torch.arange(100.))), folder / f'{stem}.pth')


def flip(path):
    content = bytearray(path.read_bytes())
    place = content.index(torch.arange(100.).numpy().tobytes()) + 50
    content[place] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize('damage', [flip, cut, lambda path: path.write_bytes(b'')])
@pytest.mark.parametrize('has_digest', [True, False])
def test_a_damaged_newest_checkpoint_is_skipped_and_named(tmp_path, capsys, damage, has_digest):
    saved(tmp_path, 'epoch_1', 'epoch_2')
    damage(tmp_path / 'epoch_2.pth')
    if not has_digest:
        digest_file(tmp_path / 'epoch_2.pth').unlink()
    assert latest(tmp_path).name == 'epoch_1.pth'
    said = capsys.readouterr().err
    assert 'skipped damaged epoch_2.pth: ' in said and 'continuing from' in said
    with pytest.raises(ValueError, match='is damaged or was changed: its sha256' if has_digest
                       else 'not a checkpoint that can be read'):
        read_checkpoint(tmp_path / 'epoch_2.pth')


def test_a_flipped_byte_goes_unnoticed_by_torch(tmp_path):
    saved(tmp_path, 'epoch_1')
    flip(tmp_path / 'epoch_1.pth')
    x = torch.load(tmp_path / 'epoch_1.pth', weights_only=True)['state_dict']['x']
    assert not torch.equal(x, torch.arange(100.))


def test_if_all_checkpoints_are_damaged_resuming_is_refused(tmp_path):
    work = tmp_path / 'work'
    saved(work, 'epoch_1', 'epoch_2')
    for path in work.glob('*.pth'):
        cut(path)
    code, said = trained(tmp_path, config(tmp_path), resume=True)
    assert code == 2 and 'has checkpoints, and all are damaged' in said
    assert 'epoch_1.pth: ' in said and 'epoch_2.pth: ' in said


def test_resuming_without_a_checkpoint_starts_anew_and_says_so(tmp_path):
    (tmp_path / 'work').mkdir()
    (tmp_path / 'work' / 'epoch_7.pth.partial').write_bytes(b'x')
    (tmp_path / 'work' / 'epoch_best.pth').write_bytes(b'x')
    assert latest(tmp_path / 'work') is None
    code, said = trained(tmp_path, config(tmp_path), resume=True)
    assert code == 0 and 'no checkpoint in' in said and 'starting anew' in said


def test_epochs_and_iterations_are_ordered_by_the_iteration_in_the_file(tmp_path):
    saved(tmp_path, 'epoch_1', 'iter_15', 'epoch_2')  # 10, 20 and 30 iterations
    assert latest(tmp_path).name == 'epoch_2.pth'
    saved(tmp_path, 'epoch_1', 'epoch_2', 'iter_15')
    assert latest(tmp_path).name == 'iter_15.pth'


def test_a_moved_run_is_resumed_from_its_own_files(tmp_path, whole):
    """Also if the old paths of the last and the best checkpoint still exist."""
    old, new = tmp_path / 'old', tmp_path / 'new'
    for folder in (old, new):
        folder.mkdir()
    more = VALIDATION, BEST, keep(1), 'train_cfg.update(max_epochs=2)'
    assert trained(old, config(old, *more))[0] == 0
    shutil.copytree(old / 'work', new / 'work')
    before = {p: p.read_bytes() for p in (old / 'work').rglob('*') if p.is_file()}
    cut(old / 'work/epoch_2.pth')
    before[old / 'work/epoch_2.pth'] = (old / 'work/epoch_2.pth').read_bytes()
    code, said = trained(new, config(new, VALIDATION, BEST, keep(1)), resume=True)
    assert code == 0, said
    assert equal(new / 'work/epoch_3.pth', whole / 'epoch_3.pth')
    # The metric counts anew, so the best of before is as good as any.
    assert names(new / 'work') == with_digests('best_score_epoch_2', 'epoch_3')
    assert before == {p: p.read_bytes() for p in (old / 'work').rglob('*') if p.is_file()}


# ------------------------------------------------------------------ the digest
def test_sha256sum_reads_the_digest_file_of_a_checkpoint(tmp_path):
    saved(tmp_path, 'epoch_1')
    if not shutil.which('sha256sum'):
        pytest.skip('no sha256sum')
    command = ['sha256sum', '--strict', '-c', 'epoch_1.pth.sha256']
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0
    flip(tmp_path / 'epoch_1.pth')
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 1


def test_an_unchanged_file_is_hashed_once(tmp_path):
    saved(tmp_path, 'epoch_1')
    check_digest(tmp_path / 'epoch_1.pth')
    with patch('hashlib.sha256', side_effect=AssertionError('hashed again')):
        assert check_digest(tmp_path / 'epoch_1.pth')
    flip(tmp_path / 'epoch_1.pth')
    with pytest.raises(ValueError, match='was changed'):
        check_digest(tmp_path / 'epoch_1.pth')


def test_tensors_are_written_one_by_one_without_a_copy_of_all(tmp_path):
    written, content = [], {name: torch.zeros(1 << 18) for name in 'abcd'}  # of 1 MB

    class Counting(Digesting):
        def write(self, data):
            written.append(len(data))
            return super().write(data)
    with patch('semmae.checkpoints.write.Digesting', Counting):
        write_checkpoint(content, tmp_path / 'x.pth')
    assert max(written) <= 1 << 20 and sum(written) > 4 << 20
    assert check_digest(tmp_path / 'x.pth')
