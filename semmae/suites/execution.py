"""Runs a plan: skips finished runs, and resumes stopped runs from their last checkpoint."""
import fcntl
import os
import re
import shlex
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from graphlib import TopologicalSorter

from rich.console import Console
from rich.markup import escape

from .schedule import Run

PROGRESS = re.compile(r'(?:Epoch|Iter)\(train\)\s+\[\s*(\d+)(?:/\d+)?\].*?eta: ([\d:, days]+)\s.*?'
                      r'loss: ([\d.naif]+)')
ENTRY = re.compile(r'^==== \S+ \S+ (\w+)(.*) ====$', re.M)  # written by `write_entry`
# Seconds between checks of the running processes, between reports, and until one is killed.
POLL, REPORT_EVERY, PATIENCE = .2, 20., 60.


@dataclass
class Started:
    """A run with a process. position: where its output begins in the log."""
    run: Run
    process: subprocess.Popen
    time: float
    position: int


def execute(runs, jobs=1, console=None, keep_going=False):
    """Run everything that is not done, at most ``jobs`` at a time. Raises RuntimeError on failure.

    Output goes to ``console.log`` in each work directory. keep_going: after a failure still run
    what does not need the failed run, and raise at the end. No run is tried twice.
    """
    execution = Execution(runs, jobs, console or Console(stderr=True), keep_going)
    try:
        while execution.start_ready():
            execution.finish_ended()
            execution.report()
            time.sleep(POLL)
    finally:
        stop(execution.running)
    execution.require_success()


class Execution:
    """The runs of a plan that wait, that are running, and that failed."""

    def __init__(self, runs, jobs, console, keep_going):
        self.jobs, self.console, self.keep_going = jobs, console, keep_going
        self.waiting = {run.product: run for run in runs if not run.is_done}
        self.order = TopologicalSorter({
            run.product: [path for path in run.needs if path in self.waiting]
            for run in self.waiting.values()})
        self.order.prepare()
        self.ready, self.running, self.failed = set(), [], []
        self.reported = time.time()
        for run in runs:
            if run.is_done:
                console.print(f'[dim]done before: {run.id}[/]')
        show_batches(self.waiting.values(), console)

    def start_ready(self) -> bool:
        """Start what can start now. Returns whether anything is running."""
        self.ready.update(self.order.get_ready())
        ready = [run for product, run in self.waiting.items() if product in self.ready]
        if alone := next((run for run in ready if run.row.is_alone), None):
            ready = [] if self.running else [alone]
        if any(started.run.row.is_alone for started in self.running):
            ready = []
        ready = ready[:self.jobs - len(self.running)]
        cores = len(os.sched_getaffinity(0)) // max(1, len(self.running) + len(ready))
        for run in ready:
            del self.waiting[run.product]
            past = history(run)
            self.running.append(launch(run, cores))
            self.console.print(f'[bold]start[/] {run.id} [dim]({run.log})[/]'
                               + (f' [yellow]again: {past}[/]' if past else ''))
        return bool(self.running)

    def finish_ended(self):
        """Remove the runs whose process ended; RuntimeError for a failed one."""
        for started in [s for s in self.running if s.process.poll() is not None]:
            self.running.remove(started)
            try:
                finish(started, self.console)
                self.order.done(started.run.product)
            except RuntimeError as error:
                if not self.keep_going:
                    raise
                self.failed.append(started.run.id)
                self.console.print(f'[red]{escape(str(error))}[/]')

    def report(self):
        """Print how far the running ones are, every ``REPORT_EVERY`` seconds."""
        if self.running and time.time() - self.reported > REPORT_EVERY:
            self.reported = time.time()
            texts = [f'{started.run.id}: {progress(started)}' for started in self.running]
            self.console.print(f'[dim]{"; ".join(texts)}[/]')

    def require_success(self):
        """Raises RuntimeError if a run failed."""
        if not self.failed:
            return
        left = ', '.join(run.id for run in self.waiting.values())
        raise RuntimeError(f'{len(self.failed)} failed: {", ".join(self.failed)}' + (
            f'; not run, because they need them: {left}' if left else '')
            + '. Read their console.log, then start the same command again')


def show_batches(runs, console):
    """Print the factors of the global batches, once for all runs that share one."""
    sharing: dict[str, dict[str, None]] = defaultdict(dict)  # inner dicts as ordered sets
    for run in runs:
        if run.batch:
            sharing[run.batch][run.id] = None
    for batch, ids in sharing.items():
        console.print(f'[{"yellow" if "recipe" in batch else "dim"}]{", ".join(ids)}: {batch}[/]')


def stop(running):
    """End the processes and wait for them: a work directory allows one run at a time."""
    for started in running:
        started.process.terminate()
    for started in running:
        try:
            started.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            started.process.kill()


def launch(run: Run, cores) -> Started:
    """Start the process of a run on its share of the cores.

    The process holds a lock on its console.log. Raises RuntimeError if another process holds it,
    for example a run of a killed suite.
    """
    run.work_dir.mkdir(parents=True, exist_ok=True)
    env = dict(os.environ, PYTHON=sys.executable, PYTHONUNBUFFERED='1', PYTHONWARNINGS='ignore',
               COLUMNS='100')
    if not run.is_remote:
        threads = str(max(1, cores // run.processes))
        env.update(OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads)
    with run.log.open('ab') as log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(f'{run.id} is running already: another process writes {run.log}. '
                               'Wait for it, or end it, and start again') from None
        write_entry(log, 'started')
        position = log.tell()
        process = subprocess.Popen(run.command, stdout=log, stderr=subprocess.STDOUT, env=env,
                                   stdin=subprocess.DEVNULL)
    return Started(run, process, time.time(), position)


def write_entry(log, what):
    """A line between the outputs of two starts of a run."""
    log.write(f'==== {time.strftime("%Y-%m-%d %H:%M:%S")} {what} ====\n'.encode())
    log.flush()


def history(run: Run) -> str:
    """Text: how the last start of an unfinished run ended and where it resumes, or ''."""
    if not run.log.is_file():
        return ''
    entries = ENTRY.findall(run.log.read_text(errors='replace'))
    if not entries:
        return ''
    word, detail = entries[-1]
    saved = max(run.work_dir.glob('*_[0-9]*.pth'), key=lambda p: p.stat().st_mtime, default=None)
    how = {'failed': f'failed before{detail}', 'started': 'was stopped before'}.get(word, 'ran')
    return f'{how}, {f"goes on from {saved.name}" if saved else "begins again"}'


def progress(started: Started) -> str:
    """The last training line of a run, in a few words."""
    with started.run.log.open('rb') as log:
        log.seek(started.position)
        found = PROGRESS.findall(log.read().decode(errors='replace'))
    if not found:
        return 'starting'
    step, eta, loss = found[-1]
    return f'step {step}, loss {loss}, {eta.strip()} left'


def finish(started: Started, console):
    """Report a run as done. Raises RuntimeError with the end of its log if it failed."""
    run, status = started.run, started.process.returncode
    is_good = status == 0 and run.is_done
    lines = run.log.read_text(errors='replace').splitlines()[-12:]
    with run.log.open('ab') as log:
        write_entry(log, 'done' if is_good else
                    f'failed (exit {status}{"" if run.is_done else f", no {run.product.name}"})')
    if is_good:
        console.print(f'[green]done[/]  {run.id} in {time.time() - started.time:.0f} s')
        return
    raise RuntimeError(
        f'{run.id} failed (exit {status}, {run.product} '
        f'{"exists" if run.is_done else "is missing"}). It ran: {shlex.join(run.command)}\n'
        + '\n'.join(lines))
