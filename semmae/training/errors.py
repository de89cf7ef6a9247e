"""Errors of a command: one message for all of its processes, and the exit status.

Exit status 2 is a mistake of the user (one line), 1 an internal error (traceback). Imports only
the standard library and `semmae.shipped`, so that errors of all other imports are caught as well.
"""
import contextlib
import os
import re
import sys
import time
import traceback
from pathlib import Path

from ..shipped import CommandParser, as_typed_here

# How messages of mmcv and mmpretrain begin where the user made the mistake.
FOREIGN_MISTAKES = ('failed to load image', 'dataset is incorrectly organized',
                    'Found 0 files in subfolders of')
# What torch says when another process of a training has ended.
LOST = ('Connection closed by peer', 'Connection reset by peer', 'Broken pipe',
        'remote process exited', 'failed to recv', 'Failed to recv')
# Environment: a file for all processes of one launch on a node. The first process that fails writes
# its exit status there and prints its message; the others print nothing.
FIRST_FAILURE = 'SEMMAE_FIRST_FAILURE'
PATIENCE = 10  # seconds that a process waits for the message of the one that failed first
HELD = 300  # seconds after which output is no longer held back


# ------------------------------------------------------------------ one message per launch
def is_first_to_fail(note, status):
    """Whether this process creates the file ``note``, which then holds its exit status."""
    try:
        with Path(note).open('x') as f:
            f.write(str(status))
    except FileExistsError:
        return False
    except OSError:  # not writable: each process prints its message
        pass
    return True


def fail(message, status):
    """Print ``message`` to stderr unless another process of this launch did, and end with status.

    Under Slurm, processes of later nodes wait first: srun ends them when the first node has failed.
    A process that is connected to others exits at once, without waiting for them.
    """
    note = os.environ.get(FIRST_FAILURE)
    if note and os.environ.get('SLURM_NODEID', '0') != '0':
        time.sleep(PATIENCE)
    if not note or is_first_to_fail(note, status):
        print(as_typed_here(message), file=sys.stderr, flush=True)
    sys.stdout.flush()
    torch = sys.modules.get('torch')
    if note and torch and torch.distributed.is_available() and torch.distributed.is_initialized():
        os._exit(status)
    sys.exit(status)


class Parser(CommandParser):
    """The parser of a command that runs in several processes; one of them prints a mistake."""

    def error(self, message):
        space = ' ' if self.prog.startswith('semmae ') else '\n'
        fail(f'{self.prog}: {message}{space}(--help lists the arguments)', 2)


@contextlib.contextmanager
def fail_clearly(is_quiet=False):
    """Print one line for a user's mistake (exit status 2), a traceback for an internal error (1).

    is_quiet: hold back what is printed until `show_output`; a user's mistake discards it.
    """
    with held_back() if is_quiet else contextlib.nullcontext():
        try:
            yield
        except Exception as error:
            if is_mistake(error) and not os.environ.get('SEMMAE_TRACEBACK'):
                show_output(False)
                fail(message_of(error) + hint_for(error), 2)
            show_output()
            if not os.environ.get(FIRST_FAILURE):
                raise
            if is_lost_peer(error):  # let the other process print its message first
                time.sleep(PATIENCE)
            fail(traceback.format_exc().rstrip(), 2 if is_mistake(error) else 1)


def hint_for(error):
    """The line after a message; '' where the message is about a missing file, which it names."""
    is_missing = type(error) is FileNotFoundError and error.errno is None
    return '' if is_missing else '\n(SEMMAE_TRACEBACK=1 shows where)'


def is_mistake(error):
    """Whether the user can correct what caused an error."""
    return isinstance(error, (ValueError, FileNotFoundError, FloatingPointError)) or (
        isinstance(error, (RuntimeError, AssertionError)) and is_foreign_mistake(error))


def is_foreign_mistake(error):
    """Whether mmcv or mmpretrain report a mistake of the user."""
    return any(text in str(error) for text in FOREIGN_MISTAKES)


def is_lost_peer(error):
    """Whether an error only says that another process of the training has ended."""
    return isinstance(error, RuntimeError) and (
        type(error).__name__.startswith('Dist') or any(text in str(error) for text in LOST))


def message_of(error):
    """'ValueError: what is wrong', in one line.

    torch puts the traceback of a DataLoader's worker into the text of the error; it is left out.
    """
    name, text = type(error).__name__, str(error)
    if text.startswith(f'Caught {name} in '):
        text = re.split(rf'^(?:\w+\.)*{name}: ', text, flags=re.MULTILINE)[-1].strip()
    first, *more = [line.strip() for line in text.splitlines() if line.strip()] or ['no message']
    return f'{name}: {first}' + ''.join(
        (' ' if before.endswith((':', '.', ';')) else '; ') + line
        for before, line in zip([first, *more], more))


# ------------------------------------------------------------------ output before the first step
class HeldStream:
    """A stream that keeps its text until `release`; afterwards it writes to the stream behind it.

    Loggers that were made in the meantime keep writing to it. A forked child, such as a worker of a
    data loader, writes at once, because nothing releases its copy.
    """

    def __init__(self, stream):
        self.behind, self.since, self.pid = stream, time.monotonic(), os.getpid()
        self.text: list[str] | None = []

    def write(self, text):
        if os.getpid() != self.pid:
            self.text = None  # the parent shows it
        if self.text is not None and time.monotonic() - self.since < HELD:
            self.text.append(text)
            return len(text)
        self.release()
        return self.behind.write(text)

    def flush(self):
        if self.text is None:
            self.behind.flush()

    def release(self, shows=True):
        text, self.text = self.text, None
        if text and shows:
            self.behind.write(''.join(text))
            self.behind.flush()

    def __getattr__(self, name):
        return getattr(self.behind, name)


@contextlib.contextmanager
def held_back():
    """Hold back printed output until `show_output` is called or the block ends."""
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(HeldStream, streams)
    try:
        yield
    finally:
        show_output()
        sys.stdout, sys.stderr = streams


def show_output(shows=True):
    """Print the held-back output (with False: discard it), and stop holding back."""
    for stream in sys.stdout, sys.stderr:
        if isinstance(stream, HeldStream):
            stream.release(shows)


def announce(line):
    """Print a line at once if output is held back; otherwise nothing."""
    if isinstance(sys.stdout, HeldStream):
        print(line, file=sys.stdout.behind, flush=True)
