"""Progress of long work on stderr: a bar on a terminal, elsewhere a line now and then.

Only the first process of a launch prints. Nothing goes to stdout, which other programs may read.
"""
import contextlib
import datetime
import os
import sys
import time

AFTER = 1.  # seconds after which a bar appears on a terminal
LINE_AFTER, LINE_EVERY = 5., 30.  # seconds between two lines: at least; at most


def is_first() -> bool:
    """Whether this is the first process of its launch (torchrun, Slurm), or the only one."""
    return not int(os.environ.get('RANK') or os.environ.get('SLURM_PROCID') or 0)


@contextlib.contextmanager
def shown_at_once():
    """Inside, the output of the first process is shown also where a command holds it back.

    For libraries with a bar of their own, such as a download. `training.errors.HeldStream` has the
    stream in ``behind``.
    """
    streams = sys.stdout, sys.stderr
    if is_first():
        sys.stdout, sys.stderr = (getattr(stream, 'behind', stream) for stream in streams)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams


class Bar:
    """``with Bar('encoding', 1000) as bar: bar.add(64)`` shows count, rate and time left.

    total: 0 if it is not known. unit: what is counted; bytes are shown in MB. done: the count at
    the start, which the rate leaves out. Short work shows nothing. Of nested bars a terminal shows
    the one that appeared first.
    """

    is_live = False  # whether a bar is on the terminal

    def __init__(self, what, total=0, unit='images', done=0):
        self.what, self.total, self.unit = what, total, unit
        self.scale: float = 1e6 if unit == 'bytes' else 1
        self.name = 'MB' if unit == 'bytes' else unit
        self.first = self.done = done
        self.live = None

    def __enter__(self):
        self.started = self.said = time.monotonic()
        self.is_shown, self.stream = is_first(), getattr(sys.stderr, 'behind', sys.stderr)
        self.has_bar = self.stream.isatty() and os.environ.get('TERM') != 'dumb'
        return self

    def __exit__(self, *error):
        if self.live:
            self.live.stop()
            self.live, Bar.is_live = None, False

    def add(self, count=1):
        """Count more."""
        self.to(self.done + count)

    def to(self, done):
        """Set the count."""
        tenth, self.done = self.tenth(), done
        now = time.monotonic()
        if not self.is_shown:
            return
        if self.live:
            self.live.update(0, completed=done, text=self.text(now))
        elif self.has_bar:
            if now - self.started > AFTER and not Bar.is_live:
                self.show(now)
        elif now - self.said > (LINE_AFTER if self.tenth() > tenth else LINE_EVERY):
            self.said = now
            print(f'{self.what}: {self.text(now)}', file=self.stream, flush=True)

    def tenth(self):
        """How many tenths of the work are done."""
        return 10 * self.done // self.total if self.total else 0

    def show(self, now):
        """Start the bar on a terminal."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        words = (TextColumn(f'{{task.{field}}}', markup=False)
                 for field in ('description', 'fields[text]'))
        self.live = Progress(next(words), BarColumn(20), next(words),
                             console=Console(file=self.stream),
                             redirect_stdout=sys.stdout.isatty())  # else it would go to stderr
        self.live.add_task(self.what, total=self.total or None, completed=self.done,
                           text=self.text(now))
        self.live.start()
        Bar.is_live = True

    def text(self, now):
        """'640 of 6400 images (10 %), 12.3 images/s, 0:07:48 left'."""
        shown = '{:.1f}' if self.unit == 'bytes' else '{:.0f}'
        rate = (self.done - self.first) / max(now - self.started, 1e-9)
        parts = [f'{shown.format(self.done / self.scale)} {self.name}',
                 f'{rate / self.scale:.3g} {self.name}/s']
        if self.total:
            parts[0] = (f'{shown.format(self.done / self.scale)} of '
                        f'{shown.format(self.total / self.scale)} {self.name} '
                        f'({self.done / self.total:.0%})')
            if rate > 0:
                left = round(max(self.total - self.done, 0) / rate)
                parts.append(f'{datetime.timedelta(seconds=left)} left')
        return ', '.join(parts)


def track(items, what, total=None, unit='images', size=None):
    """The items, with a `Bar`. total: default ``len(items)``. size: the count of an item, or 1."""
    with Bar(what, len(items) if total is None else total, unit) as bar:
        for item in items:
            yield item
            bar.add(size(item) if size else 1)
