"""What a running suite shows: messages of its rows, how far they are, and how long it takes."""
import hashlib
import re
import time

from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from .rows import Train
from .schedule import Run
from .start import REPORT_EVERY, Step, in_words, last_step

STYLES = {'start': 'bold', 'done': 'green', 'failed': 'red', 'stopped': 'yellow', 'wait': 'yellow',
          'progress': 'dim'}
REDRAW_EVERY = 1.  # seconds


class Display:
    """Prints messages of rows. In a terminal, running rows are below them, redrawn each second.

    Elsewhere each row reports by messages, and a line on the whole suite follows every
    `REPORT_EVERY` seconds. runs: of the suite, at most ``jobs`` at a time. live: rich's `Live`, to
    be entered; None if ``console`` is no terminal.
    """

    def __init__(self, runs, jobs, console):
        self.runs: dict[str, Run] = {name_of(run): run for run in runs}
        self.jobs, self.console = jobs, console
        self.begin = self.drawn = time.time()
        self.begun: dict[str, float] = {}  # when a row that still runs was started
        self.took: dict[str, float] = {}   # seconds of a finished row
        self.live = Live(console=console, transient=True, auto_refresh=False) if (
            console.is_terminal) else None

    def remember(self, message):
        """Keep the seconds of a row that ended in an earlier workflow."""
        if message['what'] == 'done' and 'name' in message:
            self.took[message['name']] = float(re.findall(r'in (\d+) s', message['text'])[0])

    def show(self, message):
        """Print a message, and keep what it says of its row."""
        what, name, text = message['what'], message['name'], escape(message['text'])
        self.remember(message)
        if what == 'start':
            self.begun[name] = time.time()
        elif what in ('done', 'failed', 'stopped'):
            self.begun.pop(name, None)
        if what == 'progress' and self.live:
            return
        style = STYLES[what]
        self.console.print(f'[{style}]{what if what != "progress" else " "}[/] {message["row"]} '
                           f'[{style if what == "failed" else "dim"}]{text}[/]')

    def refresh(self):
        """Redraw the running rows, or print a line on the suite, if it is time to."""
        if time.time() - self.drawn < (REDRAW_EVERY if self.live else REPORT_EVERY):
            return
        self.drawn = time.time()
        steps = {name: last_step(self.runs[name].log, self.runs[name].length)
                 for name in self.begun if name in self.runs and self.runs[name].log.exists()}
        if self.live:
            self.live.update(self.table(steps), refresh=True)
        else:
            self.console.print(f'[dim]{self.summary(steps)}[/]')

    def table(self, steps: dict[str, Step]) -> Table:
        """A line for each running row and one for the suite."""
        table = Table.grid(padding=(0, 2))
        for name, step in steps.items():
            spent, left = self.drawn - self.begun[name], self.left(name, steps)
            table.add_row(self.runs[name].id, bar(spent, left), in_words(step.text, spent, left))
        done = self.done()
        table.add_row('all rows', bar(done, len(self.runs) - done), self.summary(steps))
        return table

    def summary(self, steps: dict[str, Step]) -> str:
        """'4 of 14 rows done, 1:20 elapsed, about 2:40 left'."""
        return in_words(f'{self.done()} of {len(self.runs)} rows done',
                        time.time() - self.begin, self.seconds_left(steps))

    def done(self) -> int:
        """Number of rows whose product exists."""
        return sum(run.is_done for run in self.runs.values())

    # -------------------------------------------------------------- estimates
    def left(self, name, steps) -> float | None:
        """Estimated seconds that a row still takes; None if no row is known.

        By its training; else by the mean of rows with the same config, or of all rows.
        """
        now = time.time()
        spent = {other: now - self.begun[other] for other in steps}
        known = self.took | {other: spent[other] + step.left for other, step in steps.items()
                             if step.left is not None}
        alike = [seconds for other, seconds in known.items()
                 if kind_of(self.runs.get(other)) == kind_of(self.runs[name])]
        if name in steps and steps[name].left is not None:
            return steps[name].left
        seen = alike or list(known.values())
        return max(0., sum(seen) / len(seen) - spent.get(name, 0.)) if seen else None

    def seconds_left(self, steps) -> float | None:
        """Estimated seconds until the suite ends; None if no row is known."""
        left = [self.left(name, steps) for name, run in self.runs.items() if not run.is_done]
        known = [seconds for seconds in left if seconds is not None]
        return max(sum(known) / self.jobs, *known, 0.) if known else None


def bar(done, left) -> ProgressBar:
    """A bar of ``done`` of ``done + left``; without ``left`` one that moves."""
    return ProgressBar(total=(done + left) if left is not None else None, completed=done, width=20,
                       pulse=left is None)


def kind_of(run):
    """What rows have in common that take about the same time."""
    return run and (run.row.config if isinstance(run.row, Train) else run.id)


def name_of(run: Run) -> str:
    """The name of a run's rule: its folder, and a hash of its product, so that no two are equal."""
    digest = hashlib.sha256(str(run.product.resolve()).encode()).hexdigest()
    return re.sub(r'\W', '_', '_'.join([*run.work_dir.parts[-3:], digest[:8]]))
