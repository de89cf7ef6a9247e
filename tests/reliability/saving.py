"""Runs that crash while they save, are told to stop, share a folder or meet NaN.

    python -m tests.reliability.table --rows save newest signal one-run nan

Each case is a training of a few numbers (`tests.tiny`), six iterations an epoch, in a child
of this process. The same function tries ours and stock mmengine: its writer, reader, loop, sampler
and hooks, in a child where nothing of ours stands in their place.
"""
import contextlib
import errno
import io
import os
import shutil
import signal
import tempfile
import time
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.fileio import LocalBackend, register_backend
from mmengine.fileio import io as mmengine_io
from mmengine.runner import CheckpointLoader, EpochBasedTrainLoop, Runner
from mmengine.runner import runner as mmengine_runner
from mmengine.runner.checkpoint import load_from_local

from semmae.checkpoints import folder, read
from semmae.checkpoints.write import Digesting, save_with_mmengine
from semmae.training import run as training
from semmae.training import stopping
from tests.tiny import LENGTH, STOCK, VALIDATION, TinyModel, config, fork, start, wait
from tests.training.test_checkpointing import (
    BEST,
    cut,
    equal,
    full,
    keep,
    limit,
    look_at_every_instant,
)
from tests.training.test_finite import forbid_steps, scaled
from tests.training.test_stopping import SLOW_DATA, told

from .case import Case

ALL_STOCK = STOCK + '''
default_hooks['checkpoint'].update(max_keep_ckpts=-1)
custom_hooks = []
train_cfg.update(type='EpochBasedTrainLoop')
train_dataloader.update(sampler=dict(type='DefaultSampler', shuffle=True),
                        dataset=train_dataloader['dataset']['dataset'])
'''
STOCK_SLOW_DATA = """
train_dataloader.update(num_workers=1)
train_dataloader['dataset'].update(type='semmae.TinySlow')
"""
WITHOUT_HOOKS = "custom_hooks = [dict(type='semmae.StepSeedHook')]"
EACH_ITERATION = "default_hooks['checkpoint'].update(by_epoch=False, interval=1)"
LAST = 'epoch_3.pth'


class Trial(NamedTuple):
    """A way to train. stock: mmengine's own. more: lines of the config; off: called in the child.

    off switches off what a control is about.
    """
    root: Path
    stock: bool = False
    more: tuple = ()
    off: callable = None

    def folder(self):
        return Path(tempfile.mkdtemp(prefix='saving_', dir=self.root))

    def start(self, folder, *more, before=None, resume=False, said='said.txt'):
        """The pid of a child that trains in ``folder``/work."""
        path = config(folder, *[ALL_STOCK] * self.stock, *more, *self.more)
        work = folder / 'work'

        def prepare():
            note_begin(work)
            for act in (self.off, before):
                if act:
                    act()
        if not self.stock:
            return start(folder, path, prepare, said=said, resume=resume)

        def action():
            Config.pretty_text = ''
            mmengine_runner.collect_env = dict
            as_it_is_installed()
            prepare()
            cfg = Config.fromfile(path)
            cfg.update(work_dir=str(work), resume=resume)
            try:
                Runner.from_cfg(cfg).train()
            except KeyboardInterrupt:
                os._exit(130)  # what a shell is told
        return fork(action, folder / said)

    def train(self, folder, *more, **kwargs):
        """The exit code of such a child."""
        return wait(self.start(folder, *more, **kwargs))

    def resumed(self, folder, *more, begin, exactly=False):
        """What comes of resuming: a text. begin: iterations that it should go on from, or more."""
        (folder / 'work' / 'began').unlink(missing_ok=True)
        code = self.train(folder, *more, resume=True)
        began = began_at(folder / 'work')
        if code or began is None:
            return f'does not go on: {last_line(folder / "said.txt")}'
        if began < begin:
            return f'loses work: goes on from {began} of {begin} iterations' if began else (
                f'starts from zero: {begin} iterations were saved')
        if exactly and began != begin:
            return 'goes on from the damaged file'
        if self.stock or self.off:
            return 'ok, goes on'
        if not equal(folder / 'work' / LAST, straight(self.root) / LAST):
            return 'not bit-identical'
        return 'ok, bit-identical'


def as_it_is_installed():
    """Undo, in this process, what ours puts in the place of mmengine's writer and reader."""
    mmengine_runner.save_checkpoint = save_with_mmengine
    register_backend('local', LocalBackend, force=True, prefixes='')
    mmengine_io.backend_instances.clear()
    CheckpointLoader.register_scheme(prefixes='', loader=load_from_local, force=True)


def note_begin(work):
    """``work``/began holds how many iterations are done where training begins."""
    run = EpochBasedTrainLoop.run

    def noting(self):
        (work / 'began').write_text(str(self.iter))
        return run(self)
    EpochBasedTrainLoop.run = noting


def began_at(work):
    return int((work / 'began').read_text()) if (work / 'began').is_file() else None


def last_line(path):
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    return next((line for line in reversed(lines) if 'Error' in line), (lines or [''])[-1])[:150]


@cache
def straight(root):
    """The work directory of the run that nothing stops, three epochs."""
    trial = Trial(root)
    folder = trial.folder()
    if code := trial.train(folder):
        raise RuntimeError(f'exit {code}: {last_line(folder / "said.txt")}')
    return folder / 'work'


# ------------------------------------------------------------------ in a save
def in_our_save(act, share, save):
    """Calls ``act`` in that save, after that share of its bytes."""
    save_checkpoint, write, count, left = (
        mmengine_runner.save_checkpoint, Digesting.write, 0, None)

    def measured(checkpoint, *args, **kwargs):
        nonlocal count, left
        count += 1
        if count == save:  # the best ones are smaller: they have no optimiser
            torch.save(checkpoint, whole := io.BytesIO())
            left = int(share * whole.getbuffer().nbytes)
        return save_checkpoint(checkpoint, *args, **kwargs)

    def writing(self, data):
        nonlocal left
        if left is not None and len(data) > left:
            self.file.write(data[:left])
            self.file.flush()
            left = None
            act(self)
        elif left is not None:
            left -= len(data)
        return write(self, data)
    mmengine_runner.save_checkpoint, Digesting.write = measured, writing


def in_stock_save(act, share, save):
    """The same in a save of mmengine's."""
    put, count = LocalBackend.put, 0

    def putting(self, obj, filepath):
        nonlocal count
        count += str(filepath).endswith('.pth')
        if count == save and str(filepath).endswith('.pth'):
            with open(filepath, 'wb') as f:
                f.write(obj[:int(share * len(obj))])
                f.flush()
                act(f)
        return put(self, obj, filepath)
    LocalBackend.put = putting


def exits(stream):
    os._exit(137)


def has_no_space(stream):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def in_a_save(trial, act, share, save, number, best):
    """Crash in that save, resume: at most the interval since the one before is lost."""
    folder, more = trial.folder(), [*[VALIDATION, BEST] * best, keep(number)]
    if trial.stock:
        act = {full: has_no_space}.get(act, act)
        before = partial(in_stock_save, act, share, save)
    else:
        before = partial(in_our_save, act, share, save)
    code = trial.train(folder, *more, before=before)
    if code == 0:
        return 'was to crash, and did not'
    if not trial.stock and act in (full, limit) and code != 2:
        return f'exit {code}, expected 2 and a line'
    # With save_best each epoch is saved, then as the best, then again.
    complete = -(-(save - 1) // (3 if best else 1))
    return trial.resumed(folder, *more, begin=LENGTH * complete)


def at_every_instant(trial, number, best):
    """Before and after whatever is written or removed, the newest work is whole."""
    folder, epochs = trial.folder(), 'train_cfg.update(max_epochs=4)'
    code = trial.train(folder, *[VALIDATION, BEST] * best, keep(number), epochs,
                       before=lambda: look_at_every_instant(folder / 'work'))
    return 'ok' if code == 0 else f'an instant without one: {last_line(folder / "said.txt")}'


def crashes(quick):
    """(name, function, arguments) of each."""
    for number in (1, 2, 3):
        for best in (False, True):
            if not quick or (number, best) == (1, True):
                names = f'max_keep_ckpts={number}{", save_best" * best}'
                yield f'every instant, {names}', at_every_instant, (number, best)
    rng = np.random.default_rng(0)
    for i in range(6 if quick else 36):
        kind, act = [('kill', exits), ('kill', exits), ('disk full', full),
                     ('RLIMIT_FSIZE', limit)][i % 4]
        number, best = 1 + i % 3, bool(i // 4 % 2) if i % 2 else bool(i // 2 % 3)
        # A limit on the size of files has to lie inside of the file.
        share = float(rng.random()) if act is not limit else .2
        save = int(rng.integers(2, 6 if best else 4))
        yield (f'{kind} at {share:.1%} of save {save}, max_keep_ckpts={number}'
               f'{", save_best" * best}', in_a_save, (act, share, save, number, best))


# ------------------------------------------------------------------ what is resumed from
def change_weight(path):
    """Flip one bit of a weight."""
    content = path.read_bytes()
    weight = torch.load(path, weights_only=False)['state_dict']['first.weight'].numpy().tobytes()
    at = content.index(weight) + 5
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1:])


def newest(work):
    return work / 'epoch_2.pth'


# {name: (change(work, another work directory of one epoch), iterations to go on from or None where
# it has to be refused)}
DAMAGE = {
    'last_checkpoint missing': (lambda work, other: (work / 'last_checkpoint').unlink(), 12),
    'last_checkpoint empty': (lambda work, other: (work / 'last_checkpoint').write_text(''), 12),
    'last_checkpoint names a file of another run': (
        lambda work, other: (work / 'last_checkpoint').write_text(str(other / 'epoch_1.pth')), 12),
    'work directory moved': (
        lambda work, other: (work / 'last_checkpoint').write_text('/nowhere/epoch_2.pth'), 12),
    'newest file cut': (lambda work, other: cut(newest(work)), 6),
    'newest file cut, its digest lost': (lambda work, other: (
        cut(newest(work)), Path(f'{newest(work)}.sha256').unlink(missing_ok=True)), 6),
    'newest file empty': (lambda work, other: newest(work).write_bytes(b''), 6),
    'newest file, one bit flipped': (lambda work, other: change_weight(newest(work)), 6),
    'newest file removed': (lambda work, other: newest(work).unlink(), 6),
    'all files cut': (lambda work, other: [cut(p) for p in work.glob('*.pth')], None)}


@cache
def two_epochs(root, stock, epochs=2):
    trial = Trial(root, stock)
    folder = trial.folder()
    trial.train(folder, f'train_cfg.update(max_epochs={epochs})')
    return folder / 'work'


def after_damage(trial, name):
    """Resume in a copy of a run of two epochs that is damaged like this."""
    change, begin = DAMAGE[name]
    folder, other = trial.folder(), two_epochs(trial.root, trial.stock, 1)
    work = folder / 'work'
    shutil.copytree(two_epochs(trial.root, trial.stock), work)
    (work / 'last_checkpoint').write_text(str(newest(work)))
    change(work, other)
    said = trial.resumed(folder, begin=begin or 0, exactly=True)
    if begin is None:
        is_told = began_at(work) is None and 'epoch_2.pth' in (folder / 'said.txt').read_text()
        return f'ok, refused: {said}' if is_told else said
    return said


# ------------------------------------------------------------------ signals
def tell_in_a_save(number, stock):
    """The second save gets the signal, once."""
    owner, name = (LocalBackend, 'put') if stock else (Digesting, 'write')
    act, is_told = getattr(owner, name), False

    def acting(self, *args):
        nonlocal is_told
        done = list(Path(str(args[-1])).parent.glob('*.pth')) if stock else [
            *Path(self.file.name).parent.glob('*.pth')]
        if done and not is_told and '.pth' in str(args[-1] if stock else self.file.name):
            is_told = True
            os.kill(os.getpid(), number)
        return act(self, *args)
    setattr(owner, name, acting)


def signalled(trial, number, place, after=9):
    """It ends with the right code, within 30 seconds, and loses no iteration that was done."""
    folder, more = trial.folder(), {'validation': [VALIDATION], 'wait': [
        STOCK_SLOW_DATA if trial.stock else SLOW_DATA]}.get(place, [])
    before = {'step': told(number, after=after),
              'save': partial(tell_in_a_save, number, trial.stock),
              'wait': told(number, after=2, group=True, wait=.1),
              'validation': told(number, after=2, mode='predict')}[place]
    done = {'step': after, 'save': 12, 'validation': 6, 'wait': 3}[place]
    begun = time.time()
    code = trial.train(folder, *more, before=before)
    if time.time() - begun > 30:
        return f'took {time.time() - begun:.0f} s to end'
    said = trial.resumed(folder, *more, begin=done)
    wanted = {signal.SIGINT: 130, signal.SIGHUP: 129}.get(number, 143)
    return said if code == wanted or not said.startswith('ok') else (
        f'exit {code}, expected {wanted}')


def signalled_twice(trial, is_later):
    """A second signal ends it at once, in the step; not one that comes with the first."""
    folder = trial.folder()

    def before():
        stopping.GRACE = 0 if is_later else stopping.GRACE
        told(signal.SIGINT, signal.SIGTERM, after=9)()
    code = trial.train(folder, before=before)
    kept = sorted(p.name for p in (folder / 'work').glob('*.pth'))
    wanted = ['epoch_1.pth'] if is_later else ['epoch_1.pth', 'iter_9.pth']
    return 'ok' if code == 130 and kept == wanted else f'exit {code} with {kept}'


# ------------------------------------------------------------------ one folder
SLOW = 'model.update(pause=.8)', 'train_cfg.update(max_epochs=1)'


def two_at_once(trial):
    """Started together, one trains and the other ends with a line that names it."""
    folder = trial.folder()
    children = [trial.start(folder, *SLOW, said=f'said{i}.txt') for i in range(2)]
    codes = [wait(child) for child in children]
    if sorted(codes) != [0, 2]:
        return 'both train in it' if codes == [0, 0] else f'exit {codes}'
    loser = codes.index(2)
    text = (folder / f'said{loser}.txt').read_text()
    return 'ok' if f'process {children[1 - loser]} on' in text else text[:150]


def told_in_time(trial):
    """A second run ends within five seconds of its start, the first goes on."""
    folder = trial.folder()
    first = trial.start(folder, 'model.update(pause=60)')
    try:
        while began_at(folder / 'work') is None:
            time.sleep(.02)
        begun = time.time()
        second = trial.start(folder, 'model.update(pause=60)', said='second.txt')
        while (ended := os.waitpid(second, os.WNOHANG))[0] == 0 and time.time() - begun < 6:
            time.sleep(.02)
        took = time.time() - begun
        if ended[0] == 0:
            os.kill(second, signal.SIGKILL)
            wait(second)
            return 'both train in it'
        code = os.waitstatus_to_exitcode(ended[1])
        is_right = code == 2 and took < 5 and f'process {first}' in (
            folder / 'second.txt').read_text()
        return 'ok' if is_right else f'exit {code} after {took:.1f} s'
    finally:
        os.kill(first, signal.SIGKILL)
        wait(first)


def after_a_killed_holder(trial):
    """kill -9 leaves a lock file, which holds nobody up."""
    folder = trial.folder()
    trial.train(folder, before=told(signal.SIGKILL, after=9))
    return trial.resumed(folder, begin=6)


def begun_anew(trial):
    """A start without --resume where a run has saved: nothing of it is overwritten."""
    folder, epochs = trial.folder(), 'train_cfg.update(max_epochs=2)'
    trial.train(folder, epochs)
    before = {p: p.read_bytes() for p in (folder / 'work').glob('*.pth')}
    code = trial.train(folder, 'train_cfg.update(max_epochs=1)',
                       "optim_wrapper['optimizer'].update(lr=.5)")
    if changed := [p.name for p, content in before.items() if p.read_bytes() != content]:
        return f'overwrites {", ".join(changed)} of the run before (exit {code})'
    said = (folder / 'said.txt').read_text()
    return f'ok, refused: {last_line(folder / "said.txt")}' if (
        code == 2 and 'has checkpoints of a run' in said) else f'exit {code}'


# ------------------------------------------------------------------ NaN and infinity
def breaks(what, value, iteration):
    """The loss, or only its gradient, is ``value`` in that iteration."""
    forward, count = TinyModel.forward, 0

    def breaking(self, inputs, mode='tensor'):
        nonlocal count
        losses = forward(self, inputs, mode)
        count += mode == 'loss'
        if mode == 'loss' and count == iteration:
            if what == 'loss':
                losses['loss_other'] = losses['loss_other'] * value
            else:
                losses['loss_other'].register_hook(lambda grad: grad * value)
        return losses
    TinyModel.forward = breaking


def broken(trial, what, value, *more, iteration=5):
    """It stops before the step of that iteration, says which, and the files before are good."""
    folder = trial.folder()
    code = trial.train(folder, EACH_ITERATION, *more, before=lambda: (
        breaks(what, value, iteration), None if trial.stock or trial.more else forbid_steps(
            iteration)))
    files = [*(folder / 'work').glob('iter_*.pth')]
    spoilt = [p.name for p in files if not all(
        v.isfinite().all() for v in read.read_checkpoint(p)['state_dict'].values())]
    if spoilt:
        return f'saves NaN weights {len(spoilt)} times (exit {code})'
    said = (folder / 'said.txt').read_text()
    if code == 2 and f'iteration {iteration}' in said and len(files) == iteration - 1:
        return 'ok'
    return f'exit {code}, {len(files)} files: {last_line(folder / "said.txt")}'


CLIP = 'optim_wrapper.update(clip_grad=dict(max_norm=1.))'


def tries(quick):
    """(row, name, function, arguments) of everything that is tried on ours and on stock."""
    for name, function, arguments in crashes(quick):
        yield 'save', name, function, arguments
    for name in DAMAGE:
        yield 'newest', name, after_damage, (name,)
    signals = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]
    for i, place in enumerate(('step', 'save', 'validation')):
        for number in signals[i:i + 1] if quick else signals:
            for after in (9,) if quick or place != 'step' else (1, 6, 9, 12, 17):
                where = f'{place} {after}' if place == 'step' else place
                yield ('signal', f'{number.name} in {where}', signalled,
                       (number, place, after))
    yield 'signal', 'SIGHUP in step 9', signalled, (signal.SIGHUP, 'step')
    yield ('signal', 'SIGTERM while it waits for a batch, workers too', signalled,
           (signal.SIGTERM, 'wait'))
    yield 'signal', 'SIGINT and SIGTERM together', signalled_twice, (False,)
    yield 'signal', 'a second signal, later', signalled_twice, (True,)
    yield 'one-run', 'a second run', told_in_time, ()
    yield 'one-run', 'two runs at the same time', two_at_once, ()
    yield 'one-run', 'what a killed run leaves', after_a_killed_holder, ()
    yield 'one-run', 'a new start where a run has saved', begun_anew, ()
    for what in ('loss', 'gradient'):
        for value in (float('nan'), float('inf')):
            for more in ((),) if quick else ((), (CLIP,)):
                yield ('nan', f'{value} in the {what} of iteration 5{", clipped" * bool(more)}',
                       broken, (what, value, *more))
    for fused in (False, True):
        yield ('nan', f'nan in the gradient of iteration 5, bfloat16 with loss scaling'
               f'{", fused" * fused}', broken, ('gradient', float('nan'), scaled(
                   'bfloat16', fused)))


def cases(root, quick=False):
    """A `Case` for each way to end; quick: fewer offsets, one signal a place."""
    ours, stock = Trial(Path(root)), Trial(Path(root), stock=True)
    for row, name, function, arguments in tries(quick):
        yield Case(row, name, partial(function, ours, *arguments),
                   None if function is at_every_instant else partial(function, stock, *arguments))


def take_unseen():
    """No digest and no CRC is looked at."""
    folder.check_digest = read.check_digest = lambda path: True
    read.check_records = lambda path: None


def write_in_place():
    """mmengine's writer, and a crash in the middle of its second file."""
    as_it_is_installed()
    in_stock_save(exits, .5, 2)


def share_folders():
    training.only_run = lambda *_: contextlib.nullcontext()


def controls(root, quick=False):
    """The same with the mechanism switched off: each has to fail."""
    root = Path(root)
    with_hook_of_mmengine = Trial(root, more=(STOCK, keep(1)))
    yield Case('save', "every instant, mmengine's CheckpointHook",
               partial(at_every_instant, with_hook_of_mmengine, 1, False))
    yield Case('save', 'killed in a save, written in place', partial(
        killed_in_place, Trial(root, more=(STOCK, keep(1)))))
    yield Case('newest', 'one bit flipped, no digest and no CRC',
               partial(after_damage, Trial(root, off=take_unseen), 'newest file, one bit flipped'))
    without = Trial(root, more=(WITHOUT_HOOKS,))
    yield Case('signal', 'SIGTERM, no StopHook',
               partial(signalled, without, signal.SIGTERM, 'step'))
    yield Case('one-run', 'a second run, no lock', partial(
        told_in_time, Trial(root, off=share_folders)))
    for what in ('loss', 'gradient'):
        yield Case('nan', f'NaN in the {what}, no FiniteHook',
                   partial(broken, without, what, float('nan')))


def killed_in_place(trial):
    folder = trial.folder()
    trial.train(folder, before=write_in_place)
    return trial.resumed(folder, begin=LENGTH)
