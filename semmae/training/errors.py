"""How a command ends that fails: one message, whatever the number of processes, and its status.

Exit status 2 is a mistake of the user, told in a line; 1 is our own, told by a traceback. Imports
nothing that takes time: the import of everything else may fail as well.
"""
import argparse
import contextlib
import os
import re
import sys
import time
import traceback

# How mmcv and mmpretrain begin what is a user's mistake and not theirs.
FOREIGN_MISTAKES = ('failed to load image', 'dataset is incorrectly organized',
                    'Found 0 files in subfolders of')
# How torch says that another process of a training is gone.
LOST = ('Connection closed by peer', 'Connection reset by peer', 'Broken pipe',
        'remote process exited', 'failed to recv', 'Failed to recv')
# Environment: a file for all processes that were started together on a node. The first one that
# fails leaves its exit status there and tells why; the others end without a word.
FIRST_FAILURE = 'SEMMAE_FIRST_FAILURE'
PATIENCE = 10  # seconds for which a process waits for the message of another that failed before
HELD = 300  # seconds after which output is held back no longer


# ------------------------------------------------------------------ one of many processes speaks
def is_first_to_fail(status, environ=os.environ):
    """Whether this process is the one of its node that tells why all of them end."""
    path = environ.get(FIRST_FAILURE)
    if not path:
        return True
    try:
        with open(path, 'x') as f:
            f.write(str(status))
    except FileExistsError:
        return False
    except OSError:  # then rather twice than never
        return True
    return True


def fail(message, status):
    """Print ``message`` to stderr unless another process of this launch did, and end with status.

    Under Slurm processes of other nodes than the first wait: srun ends them when the first node
    has failed. A process that shares its work with others leaves at once, without waiting for them.
    """
    if os.environ.get(FIRST_FAILURE) and os.environ.get('SLURM_NODEID', '0') != '0':
        time.sleep(PATIENCE)
    if is_first_to_fail(status):
        print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    if os.environ.get(FIRST_FAILURE) and is_connected():
        os._exit(status)
    sys.exit(status)


def is_connected():
    torch = sys.modules.get('torch')
    return bool(torch and torch.distributed.is_available() and torch.distributed.is_initialized())


class Parser(argparse.ArgumentParser):
    """argparse's, whose mistakes are told in two lines, once for all processes."""

    def error(self, message):
        fail(f'{self.prog}: {message}\n(--help lists the arguments)', 2)


# ------------------------------------------------------------------ errors
@contextlib.contextmanager
def fail_clearly(is_quiet=False):
    """A user's mistake ends in one line on stderr and exit status 2; our own in a traceback.

    is_quiet: what is printed before `speak` is called is shown only if no such mistake ends it.
    """
    with held_back() if is_quiet else contextlib.nullcontext():
        try:
            yield
        except Exception as error:
            if is_mistake(error) and not os.environ.get('SEMMAE_TRACEBACK'):
                drop()
                fail(f'{message_of(error)}\n(SEMMAE_TRACEBACK=1 shows where)', 2)
            speak()
            if not os.environ.get(FIRST_FAILURE):
                raise
            if is_lost_peer(error):  # time for that process, and for the end that it brings
                time.sleep(PATIENCE)
            fail(traceback.format_exc().rstrip(), 2 if is_mistake(error) else 1)


def is_mistake(error):
    """Whether an error is the user's, who can do something about it."""
    if isinstance(error, (ValueError, FileNotFoundError, FloatingPointError)):
        return True
    return isinstance(error, (RuntimeError, AssertionError)) and is_foreign_mistake(error)


def is_foreign_mistake(error):
    return any(text in str(error) for text in FOREIGN_MISTAKES)


def is_lost_peer(error):
    """Whether an error only says that another process of the training is gone."""
    return isinstance(error, RuntimeError) and (
        type(error).__name__.startswith('Dist') or any(text in str(error) for text in LOST))


def message_of(error):
    """'ValueError: what is wrong', in one line; of what a DataLoader's worker met, without its
    traceback.

    torch makes that traceback the text of an error of the same type.
    """
    name, text = type(error).__name__, str(error)
    if text.startswith(f'Caught {name} in '):
        text = re.split(rf'^(?:\w+\.)*{name}: ', text, flags=re.MULTILINE)[-1].strip()
    first, *more = [line.strip() for line in text.splitlines() if line.strip()] or ['no message']
    return f'{name}: {first}' + ''.join(
        (' ' if before.endswith((':', '.', ';')) else '; ') + line
        for before, line in zip([first, *more], more))


# ------------------------------------------------------------------ output before the first step
class Held:
    """A stream whose text is kept until `speak`; afterwards, and for all else, the one behind it.

    Loggers that were made in the meantime keep writing to it. Children, as the workers of a data
    loader, cannot be told when to speak: what they print is shown at once.
    """

    def __init__(self, stream):
        self.stream, self.text, self.since = stream, [], time.monotonic()
        self.pid = os.getpid()

    def write(self, text):
        if os.getpid() != self.pid:
            self.text = None  # a copy of what its parent will show
        if self.text is not None and time.monotonic() - self.since < HELD:
            self.text.append(text)
            return len(text)
        self.speak()
        return self.stream.write(text)

    def flush(self):
        if self.text is None:
            self.stream.flush()

    def speak(self):
        if self.text is not None:
            text, self.text = ''.join(self.text), None
            self.stream.write(text)
            self.stream.flush()

    def __getattr__(self, name):
        return getattr(self.stream, name)


@contextlib.contextmanager
def held_back():
    """Keep what is printed inside until `speak` is called, or to the end."""
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(Held, streams)
    try:
        yield
    finally:
        speak()
        sys.stdout, sys.stderr = streams


def held_streams():
    return [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, Held)]


def speak():
    """Show what was held back, and hold back nothing more."""
    for stream in held_streams():
        stream.speak()


def drop():
    """Forget what was held back, and hold back nothing more."""
    for stream in held_streams():
        stream.text = None


def announce(line):
    """Print a line at once where output is held back, so that a start is seen; else nothing."""
    if isinstance(sys.stdout, Held):
        print(line, file=sys.stdout.stream, flush=True)
