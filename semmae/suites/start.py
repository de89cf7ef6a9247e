"""Runs one row of a workflow: its log, its progress, its end. Called by the rules of the Snakefile.

python start.py WORKFLOW NAME

WORKFLOW: a folder with plan.json (`suites.engine.write_plan`). Only the standard library is
imported, so that a row starts quickly. What a user should see is appended to WORKFLOW/said.jsonl.
Exit status: 0 if the product exists, 1 if the row failed, 143 if it was stopped.
"""
import ctypes
import fcntl
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

PROGRESS = re.compile(r'(Epoch|Iter)\(train\)\s+\[\s*(\d+)(?:/\d+)?\](?:\[\s*(\d+/\d+)\])?.*?'
                      r'eta: (?:(\d+) days?, )?(\d+):(\d+):(\d+)\s.*?loss: ([\d.naif]+)')
TAIL = 1 << 16  # bytes of a log in which its last training line is looked for
ENTRY = re.compile(r'^==== \S+ \S+ (\w+)(.*) ====$', re.M)  # written by `write_entry`
STOPPED = (143, 130, 129, -signal.SIGTERM, -signal.SIGINT, -signal.SIGKILL)  # by a signal
# Seconds between checks of the process, between reports, and until a process is killed.
POLL, REPORT_EVERY, PATIENCE = .2, 20., 60.
PR_SET_PDEATHSIG = 1


def main():
    """Run the row that the command line names."""
    folder, name = Path(sys.argv[1]), sys.argv[2]
    plan = json.loads((folder / 'plan.json').read_text())
    os.chdir(plan['directory'])
    row = next(row for row in plan['rows'] if row['name'] == name)
    sys.exit(run(row, plan, folder / 'failed' / name,
                 lambda what, text: say(folder, what, row, text)))


def say(folder, what, row, text=''):
    """Append a message for the user. what: start, done, failed, stopped, wait or progress."""
    with (folder / 'said.jsonl').open('a') as said:
        said.write(json.dumps(dict(what=what, row=row['id'], name=row['name'], text=text)) + '\n')


def run(row, plan, failed, tell) -> int:
    """Run a row unless its product exists; its exit status (see the module).

    failed: a file that is made if the row fails; with it, it is not tried again in this workflow.
    """
    work_dir, product = Path(row['work_dir']), Path(row['product'])
    work_dir.mkdir(parents=True, exist_ok=True)
    with (work_dir / 'console.log').open('ab') as log:
        lock(log, tell)
        if product.exists():
            return 0
        if failed.exists():
            return 1
        past = history(log.name, work_dir)
        tell('start', f'({log.name})' + (f' again: {past}' if past else ''))
        write_entry(log, 'started')
        begin = time.time()
        status = follow(row, plan, log, tell)
        is_good = status == 0 and product.exists()
        missing = '' if product.exists() else f', no {product.name}'
        how = 'done' if is_good else 'stopped' if status in STOPPED else 'failed'
        write_entry(log, 'done' if is_good else f'{how} (exit {status}{missing})')
    if is_good:
        tell('done', f'in {time.time() - begin:.0f} s')
        return 0
    end = Path(log.name).read_text(errors='replace').splitlines()[-13:-1]
    tell(how, f'(exit {status}, {product} {"is missing" if missing else "exists"}). It ran: '
         f'{shlex.join(row["command"])}\n' + '\n'.join(end))
    if how == 'stopped':
        return 143
    failed.parent.mkdir(exist_ok=True)
    failed.touch()
    return 1


def lock(log, tell):
    """Wait until no other process writes this log: one run at a time in a work directory."""
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        tell('wait', f'another process runs it: {log.name}')
        while not is_orphan():
            try:
                return fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(POLL)
        sys.exit(143)


def follow(row, plan, log, tell) -> int:
    """Start the command of a row and wait for it; its exit status.

    It is terminated if this process is, or if the workflow has ended. If this process is killed,
    the kernel terminates the command (Linux).
    """
    env = dict(os.environ, PYTHON=plan['python'], PYTHONUNBUFFERED='1', PYTHONWARNINGS='ignore',
               COLUMNS='100')
    threads = threads_of(row, plan)
    env.update(OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads)
    process = subprocess.Popen(row['command'], stdout=log, stderr=subprocess.STDOUT, env=env,
                               stdin=subprocess.DEVNULL, preexec_fn=end_with_parent)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, lambda *_: process.terminate())
    begin = reported = time.time()
    deadline = None
    while process.poll() is None:
        time.sleep(POLL)
        if deadline is None and is_orphan():
            process.terminate()
            deadline = time.time() + PATIENCE
        if deadline and time.time() > deadline:
            process.kill()
        if time.time() - reported > REPORT_EVERY:
            reported = time.time()
            step = last_step(log.name, row['length'])
            tell('progress', in_words(step.text, reported - begin, step.left))
    return process.returncode


def threads_of(row, plan) -> str:
    """Threads of each process of a row: its share of the machine's cores, or Slurm's."""
    if given := os.environ.get('SLURM_CPUS_PER_TASK'):
        return given
    jobs = 1 if row['is_alone'] else plan['jobs']
    return str(max(1, len(os.sched_getaffinity(0)) // jobs // row['processes']))


def end_with_parent():
    """In a new process: the kernel sends it SIGTERM when its parent ends, also after kill -9."""
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def is_orphan() -> bool:
    """Whether the process that runs the workflow has ended."""
    if not (engine := os.environ.get('SEMMAE_WORKFLOW_PID')):
        return False
    try:
        return Path('/proc', engine, 'stat').read_text().rpartition(')')[2].split()[0] == 'Z'
    except FileNotFoundError:
        return True


def write_entry(log, what):
    """A line between the outputs of two starts of a run."""
    log.write(f'==== {time.strftime("%Y-%m-%d %H:%M:%S")} {what} ====\n'.encode())
    log.flush()


def history(log, work_dir) -> str:
    """Text: how the last start of an unfinished run ended and where it resumes, or ''."""
    path = Path(log)
    entries = ENTRY.findall(path.read_text(errors='replace')) if path.is_file() else []
    if not entries:
        return ''
    word, detail = entries[-1]
    saved = max(Path(work_dir).glob('*_[0-9]*.pth'), key=lambda p: p.stat().st_mtime, default=None)
    how = {'failed': f'failed before{detail}', 'started': 'was stopped before',
           'stopped': f'was stopped before{detail}'}.get(word, 'ran')
    return f'{how}, {f"goes on from {saved.name}" if saved else "begins again"}'


class Step(NamedTuple):
    """How far a row is. text: in words. left: seconds, or None where they are not known."""
    text: str
    left: float | None = None


def last_step(log, length=0) -> Step:
    """The last training line since the last start in a log. length: of the training, 0: unknown."""
    with Path(log).open('rb') as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
        text = file.read().decode(errors='replace')
    found = PROGRESS.findall(text.rpartition(' started ====\n')[2])
    if not found:
        return Step('running')
    kind, number, inner, days, hours, minutes, seconds, loss = found[-1]
    left = ((int(days or 0) * 24 + int(hours)) * 60 + int(minutes)) * 60 + int(seconds)
    words = [f'{"epoch" if kind == "Epoch" else "step"} {number}'
             + (f' of {length}' if length else ''), *([f'step {inner}'] if inner else [])]
    return Step(', '.join([*words, f'loss {loss}']), left)


def in_words(what, spent, left) -> str:
    """``what``, the seconds elapsed, and those left where they are known."""
    rest = '' if left is None else f', about {clock(left)} left'
    return f'{what}, {clock(spent)} elapsed{rest}'


def clock(seconds) -> str:
    """Minutes and seconds, with hours where there are some."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02}:{seconds:02}' if hours else f'{minutes}:{seconds:02}'


if __name__ == '__main__':
    main()
