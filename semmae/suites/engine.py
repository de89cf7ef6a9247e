"""Runs a plan as a Snakemake workflow and shows what its rows say.

Snakemake decides what runs when and where: on this machine, under Slurm, or elsewhere by a profile.
"""
import contextlib
import ctypes
import hashlib
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

from rich.console import Console

from ..files import write_atomically
from .display import Display, name_of
from .schedule import Run
from .start import PR_SET_PDEATHSIG, lock

SNAKEFILE = Path(__file__).with_name('Snakefile')
# Options for --launcher slurm; a later --profile takes its place.
SLURM = ['--profile', str(SNAKEFILE.with_name('profiles') / 'slurm')]
POLL = .1  # seconds between looks at the messages of the rows
# An existing output is done. An output of a killed workflow is whole, too.
DONE_IF_EXISTS = ['--rerun-triggers', 'mtime', '--ignore-incomplete', '--keep-incomplete',
                  '--nolock']


def execute(runs, work_dir, jobs=1, console=None, keep_going=False, more=()):
    """Run everything that is not done, at most ``jobs`` at a time. Raises RuntimeError on failure.

    work_dir: Snakemake's directory; ``work_dir``/workflow/HASH has plan, messages and log of these
    rows, so that suites with other rows can run in it at the same time. Output of a row goes to
    ``console.log`` in its work directory. keep_going: after a failure still run what does not need
    the failed run. No run that failed is tried twice. more: arguments for Snakemake.
    """
    console = console or Console(stderr=True)
    for run in runs:
        if run.is_done:
            console.print(f'[dim]done before: {run.id}[/]')
    left = [run for run in runs if not run.is_done]
    if not left:
        return
    show_batches(left, console)
    root = Path(work_dir).resolve()
    folder = root / 'workflow' / hashed(name_of(run) for run in runs)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / 'failed', ignore_errors=True)  # of an earlier workflow
    write_plan(left, folder, jobs)
    command = [sys.executable, '-m', 'snakemake', '--snakefile', str(SNAKEFILE), '--directory',
               str(root), '--config', f'workflow={folder}', '--cores', str(jobs), *DONE_IF_EXISTS,
               *(['--jobs', str(jobs)] if any(run.is_remote for run in left) else []),
               *(['--keep-going'] if keep_going else []), *more]
    with (folder / 'snakemake.log').open('a') as log, (folder / 'said.jsonl').open('a+') as said:
        display = Display(runs, jobs, console)
        said.seek(0)
        with contextlib.suppress(ValueError):  # a damaged line: the estimates know less
            for message in messages(said):  # of earlier workflows
                display.remember(message)
        said.seek(0, 2)
        failed = watch(command, log, said, display, left)
    require_success(left, failed, folder)


def hashed(names) -> str:
    """A short hash of some names, in any order."""
    return hashlib.sha256(' '.join(sorted(names)).encode()).hexdigest()[:8]


def write_plan(runs, folder, jobs):
    """Write ``folder``/plan.json for the Snakefile and for `suites.start`."""
    rows = [dict(
        name=(name := name_of(run)), id=run.id, command=run.command, work_dir=str(run.work_dir),
        product=str(run.product.resolve()), processes=run.processes, is_alone=run.row.is_alone,
        length=run.length, needs=[str(path.resolve()) for path in run.needs],
        threads=jobs if run.row.is_alone else 1, resources=run.resources,
        start=shlex.join([sys.executable, str(Path(__file__).with_name('start.py')), str(folder),
                          name]))
        for run in runs]
    plan = dict(rows=rows, jobs=jobs, python=sys.executable, directory=str(Path.cwd()))
    write_atomically(folder / 'plan.json', lambda f: f.write(json.dumps(plan, indent=1).encode()))


def watch(command, log, said, display, runs) -> list[str]:
    """Run Snakemake and show what the rows say; the ids of the rows that failed.

    If this process is stopped, the rows end with a checkpoint, and then it ends.
    """
    failed = []
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT,
                               stdin=subprocess.DEVNULL, preexec_fn=die_with_parent)
    try:
        with display.live or contextlib.nullcontext():
            while True:
                is_last = process.poll() is not None
                for message in messages(said):
                    failed += [message['row']] if message['what'] == 'failed' else []
                    display.show(message)
                if is_last:
                    return failed
                display.refresh()
                time.sleep(POLL)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
            wait_for_rows(runs)


def messages(said):
    """The messages that were added to a file; one that is half written is read the next time."""
    while True:
        begin, line = said.tell(), said.readline()
        if not line.endswith('\n'):
            said.seek(begin)
            return
        yield json.loads(line)


def die_with_parent():
    """In a new process: the kernel kills it when its parent ends (Linux)."""
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def wait_for_rows(runs):
    """Wait until no process writes to the work directories of ``runs``."""
    for run in runs:
        if run.log.exists() and not run.is_remote:
            with run.log.open('ab') as log:
                lock(log, lambda *_: None)


def require_success(runs, failed, folder):
    """Raises RuntimeError if a product is missing: what failed, and what to read."""
    missing = [run.id for run in runs if not run.is_done]
    if not missing:
        return
    if not failed:
        text = (folder / 'snakemake.log').read_text(errors='replace').rpartition('SNAKEMAKE\n')[2]
        lines = re.findall(r'(?im)^.*(?:error|exception|message:).*$\n?.*', text)
        lines = lines or text.splitlines()[-6:]
        raise RuntimeError(f'not run: {", ".join(missing)}. Snakemake said '
                           f'({folder / "snakemake.log"}):\n' + '\n'.join(lines[:6]))
    left = ', '.join(name for name in missing if name not in failed)
    raise RuntimeError(f'{len(failed)} failed: {", ".join(failed)}' + (
        f'; not run: {left}' if left else '')
        + '. Read their console.log, then start the same command again')


def show_batches(runs: list[Run], console):
    """Print the factors of the global batches, once for all runs that share one."""
    sharing: dict[str, dict[str, None]] = defaultdict(dict)  # inner dicts as ordered sets
    for run in runs:
        if run.batch:
            sharing[run.batch][run.id] = None
    for batch, ids in sharing.items():
        console.print(f'[{"yellow" if "recipe" in batch else "dim"}]{", ".join(ids)}: {batch}[/]')
