"""Checkpoints that cannot be lost: a new one is whole, with its digest, before an old one goes.

Beside ``epoch_3.pth`` stands ``epoch_3.pth.sha256``; ``sha256sum -c *.sha256`` checks by hand.
mmengine writes through `write_checkpoint`, once `semmae` is imported.
"""
import errno
import hashlib
import os
import shutil
import sys
from collections import deque
from pathlib import Path

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook as Base
from mmengine.model import is_model_wrapper
from mmengine.runner import runner as mmengine_runner

from ..checkpoints.read import SAFE, read_checkpoint
from ..files import check_digest, digest_file, write_atomically
from ..registry import HOOKS

mmengines_own = mmengine_runner.save_checkpoint  # two copies in memory, written in place


class Digesting:
    """A file that hashes what is written, and keeps the error that torch turns into its own."""

    def __init__(self, file):
        self.file, self.digest, self.error = file, hashlib.sha256(), None

    def write(self, data):
        if self.error is None:
            try:
                self.file.write(data)
                self.digest.update(data)
            except OSError as error:
                self.error = error
                raise
        return len(data)

    def flush(self):
        if self.error is None:
            self.file.flush()


def write_checkpoint(checkpoint, filename, file_client_args=None, backend_args=None):
    """Write ``checkpoint`` and its digest, each whole or not at all; mmengine's for other places.

    At every instant ``filename`` is the old file or the new one, and no digest but its own stands
    beside it. ValueError if it cannot be written; what was there before stays.
    """
    if file_client_args or backend_args or '://' in str(filename):
        return mmengines_own(checkpoint, filename, file_client_args, backend_args)
    path, digest = Path(filename), None

    def write(file):
        nonlocal digest
        stream = Digesting(file)
        try:
            torch.save(checkpoint, stream)
        finally:
            if stream.error:
                raise stream.error
        digest = stream.digest.hexdigest()
        file.flush()
        os.fsync(file.fileno())
        digest_file(path).unlink(missing_ok=True)  # of the file that is replaced next
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, write)
        write_atomically(digest_file(path), lambda f: f.write(f'{digest}  {path.name}\n'.encode()))
    except OSError as error:
        raise ValueError(cannot_save(path, checkpoint, error)) from error


mmengine_runner.save_checkpoint = write_checkpoint


def cannot_save(path, checkpoint, error):
    needed = sum(t.numel() * t.element_size() for t in tensors(checkpoint))
    folder = next(p for p in path.absolute().parents if p.is_dir())
    cure = {errno.EFBIG: 'Raise the limit of file sizes (ulimit -f)',
            errno.EACCES: 'Make the folder writable'}.get(error.errno, 'Free space')
    return (f'{path} could not be saved: {error.strerror or error}. It needs about {needed} bytes; '
            f'{shutil.disk_usage(folder).free} are free in {folder}. Complete checkpoints are '
            f'still there. {cure}, or move the work directory (--work-dir), and start again '
            'with --resume')


def tensors(value):
    if torch.is_tensor(value):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from tensors(inner)


def remove(path):
    """Remove a checkpoint and its digest; of one that is removed by halves the rest goes, too."""
    Path(path).unlink(missing_ok=True)
    digest_file(path).unlink(missing_ok=True)


def checkpoints(work_dir):
    """The checkpoints of a run in its work directory, whole or not, from the oldest on."""
    found = {kind: [p for p in Path(work_dir).glob(f'{kind}_*.pth')
                    if p.stem.split('_')[1].isdigit()] for kind in ('epoch', 'iter')}

    def place(path):
        # Epochs and iterations are compared by what the files say; the unreadable come last.
        return iterations(path) if all(found.values()) else int(path.stem.split('_')[1])
    return sorted(sum(found.values(), []), key=place)


def latest(work_dir, launcher='none'):
    """The newest checkpoint in a work directory that is whole, or None if there is none at all.

    Only what lies there counts, whatever path ``last_checkpoint`` names. A damaged one is named on
    stderr, by the first process of a launch, and passed over; ValueError if all are.
    """
    passed = []
    for path in reversed(checkpoints(work_dir)):
        try:
            check_digest(path) or read_checkpoint(path)
        except ValueError as error:
            passed.append(f'{path.name}: {error}')
        else:
            if passed and is_first_process(launcher):
                print('\n'.join(f'passed over {line}' for line in passed)
                      + f'\ngoing on from {path}', file=sys.stderr)
            return path
    if passed:
        raise ValueError(f'{work_dir} has checkpoints, and none is whole. Restore one, or start '
                         'anew in another --work-dir:\n' + '\n'.join(passed))
    return None


def iterations(path):
    """How many iterations are in a checkpoint, without reading its tensors; inf if unreadable."""
    try:
        with torch.serialization.safe_globals(SAFE):
            content = torch.load(path, map_location='cpu', weights_only=True, mmap=True)
        return int(content['meta']['iter'])
    except Exception:  # as in `read_checkpoint`, which will say why
        return float('inf')


def is_first_process(launcher):
    """Whether this is the first process of a launch; also before they are connected.

    launcher: 'none' makes each process a run of its own, whatever else started it (srun).
    """
    name = dict(slurm='SLURM_PROCID', pytorch='RANK').get(launcher)
    return os.environ.get(name, '0') == '0' if name else True


@HOOKS.register_module()
class CheckpointHook(Base):
    """mmengine's, which removes an old checkpoint only when the new one is complete.

    That goes for the best ones (``save_best``), too. For a moment there is one more file than
    ``max_keep_ckpts``. All processes take part in ``before_save_checkpoint``, so that hooks may
    gather there.
    """

    saved_iter = None  # iterations in the last checkpoint that this process wrote

    def before_train(self, runner):
        # Paths of the best ones in a checkpoint are absolute; the folder may have moved since.
        info = runner.message_hub.runtime_info
        for key in [k for k in info if k.startswith('best_ckpt') and info[k]]:
            runner.message_hub.update_info(key, str(Path(runner.work_dir) / Path(info[key]).name))
        super().before_train(runner)
        if self.max_keep_ckpts > 0:
            self.keep_ckpt_ids = deque(self.keep_ckpt_ids)
        # A run that was killed between removing a file and its digest left the latter.
        for digest in Path(self.out_dir).glob('*.pth.sha256') if is_main_process() else ():
            if not digest.with_suffix('').is_file():
                digest.unlink(missing_ok=True)
        if runner.iter:
            self.saved_iter = runner.iter

    def _save_checkpoint_with_step(self, runner, step, meta):
        meta = dict(meta)
        # With room for one more mmengine removes nothing; the new file lists the one that goes
        # below, so that a run which was killed in between removes it when it is resumed.
        if self.max_keep_ckpts > 0:
            self.max_keep_ckpts += 1
        try:
            super()._save_checkpoint_with_step(runner, step, meta)
        finally:
            if self.max_keep_ckpts > 0:
                self.max_keep_ckpts -= 1
        self.join_hooks(runner)
        self.saved_iter = meta['iter']
        while self.max_keep_ckpts > 0 and len(self.keep_ckpt_ids) > self.max_keep_ckpts:
            self.remove(self.filename_tmpl.format(self.keep_ckpt_ids.popleft()))
        if self.max_keep_ckpts > 0:
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        self.remove(runner.message_hub.runtime_info.pop('interim_ckpt', None))

    def save_here(self, runner, epoch, iteration):
        """Save between two regular checkpoints, unless these weights are saved already.

        epoch, iteration: how many are complete. The next regular checkpoint replaces the file.
        """
        if self.saved_iter == iteration:
            return
        meta = dict(epoch=epoch, iter=iteration)
        if not self.by_epoch:
            return self._save_checkpoint_with_step(runner, iteration, meta)
        name = f'iter_{iteration}.pth'
        before = runner.message_hub.runtime_info.get('interim_ckpt')
        runner.message_hub.update_info('interim_ckpt', name)
        runner.save_checkpoint(self.out_dir, name, save_optimizer=self.save_optimizer,
                               save_param_scheduler=self.save_param_scheduler, meta=meta)
        self.join_hooks(runner)
        self.saved_iter = iteration
        if before != name:
            self.remove(before)

    def join_hooks(self, runner):
        """On the other processes, what `Runner.save_checkpoint` calls on the first alone."""
        if is_main_process():
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        checkpoint = dict(meta={}, state_dict=model.state_dict())
        if self.save_optimizer:
            checkpoint['optimizer'] = {}
        runner.call_hook('before_save_checkpoint', checkpoint=checkpoint)

    def _save_best_checkpoint(self, runner, metrics):
        if not self.save_best:
            return
        before = self.best_of()
        # mmengine removes what it finds here before it writes.
        if len(self.key_indicators) == 1:
            self.best_ckpt_path = None
        else:
            self.best_ckpt_path_dict = dict.fromkeys(self.best_ckpt_path_dict)
        super()._save_best_checkpoint(runner, metrics)
        for key, path in self.best_of().items():
            if path is None and before[key]:  # no better one
                if len(self.key_indicators) == 1:
                    self.best_ckpt_path = before[key]
                else:
                    self.best_ckpt_path_dict[key] = before[key]
            elif path and before[key] not in (None, path):
                self.remove(Path(before[key]).name)

    def best_of(self):
        """{metric: path or None} of the best checkpoints."""
        if len(self.key_indicators) == 1:
            return {'': self.best_ckpt_path}
        return {key: self.best_ckpt_path_dict.get(key) for key in self.key_indicators}

    def remove(self, name):
        if name and is_main_process():
            remove(Path(self.out_dir) / name)
