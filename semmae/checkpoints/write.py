"""Writes complete checkpoints, each with a digest file.

``epoch_3.pth`` has ``epoch_3.pth.sha256``; ``sha256sum -c *.sha256`` checks it by hand.
"""
import errno
import hashlib
import os
import shutil
from pathlib import Path

import torch
from mmengine.runner.checkpoint import save_checkpoint as save_with_mmengine

from ..files import digest_file, write_atomically


class Digesting:
    """A file that hashes what is written. Keeps the OSError, which torch replaces by its own."""

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
    """Write ``checkpoint`` and its digest, each completely or not at all.

    At any time ``filename`` is the old or the new file, with its own digest or none. mmengine
    writes to other backends. ValueError if the file cannot be written; the old file stays.
    """
    if file_client_args or backend_args or '://' in str(filename):
        return save_with_mmengine(checkpoint, filename, file_client_args, backend_args)
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
        digest_file(path).unlink(missing_ok=True)  # of the old file, replaced next
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, write)
        write_atomically(digest_file(path), lambda f: f.write(f'{digest}  {path.name}\n'.encode()))
    except OSError as error:
        raise ValueError(cannot_save(path, checkpoint, error)) from error


def cannot_save(path, checkpoint, error):
    """The message for a checkpoint that could not be written: needed and free space, the fix."""
    needed = sum(t.numel() * t.element_size() for t in tensors(checkpoint))
    folder = next(p for p in path.absolute().parents if p.is_dir())
    cure = {errno.EFBIG: 'Raise the limit of file sizes (ulimit -f)',
            errno.EACCES: 'Make the folder writable'}.get(error.errno, 'Free space')
    return (f'{path} could not be saved: {error.strerror or error}. It needs about {needed} bytes; '
            f'{shutil.disk_usage(folder).free} are free in {folder}. Earlier checkpoints are '
            f'complete. {cure}, or move the work directory (--work-dir), and start again '
            'with --resume')


def tensors(value):
    """All tensors in nested dicts, lists and tuples."""
    if torch.is_tensor(value):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from tensors(inner)


def remove(path):
    """Remove a checkpoint and its digest; either may be missing."""
    Path(path).unlink(missing_ok=True)
    digest_file(path).unlink(missing_ok=True)
