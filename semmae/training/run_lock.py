"""One training per work directory."""
import contextlib
import os
import socket
from pathlib import Path

from filelock import FileLock, Timeout

from ..checkpoints.folder import is_first_process
from ..files import writable_folder

PATIENCE = 3  # seconds in which a run that is ending may release its folder


@contextlib.contextmanager
def only_run(work_dir, launcher='none'):
    """Lock a work directory; ValueError that names the holder if another process has it.

    The first process of a launch holds the lock. The system releases it when the process ends, also
    after SIGKILL.
    """
    if not is_first_process(launcher):
        yield
        return
    folder = writable_folder(work_dir)
    lock = FileLock(folder / '.lock')
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        raise ValueError(f'{folder} is in use by {holder_of(folder)}. Wait for it, stop it, or '
                         'give another --work-dir') from None
    try:
        (folder / '.lock.holder').write_text(f'process {os.getpid()} on {socket.gethostname()}')
        yield
    finally:
        lock.release()


def trained_by(work_dir):
    """The process that trains in a work directory, in words, or ''."""
    try:
        with FileLock(Path(work_dir) / '.lock', timeout=0):
            return ''
    except Timeout:
        return holder_of(Path(work_dir))


def holder_of(folder):
    """The process that holds the lock of a folder, in words."""
    holder = folder / '.lock.holder'
    return holder.read_text() if holder.is_file() else 'another process'
