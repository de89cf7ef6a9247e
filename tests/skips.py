"""Says what was skipped and what would run it; fails on a skip that is not allowed.

``SEMMAE_ALLOWED_SKIPS`` holds the names of allowed reasons (``data browser``; an
empty value allows none); if it is not set, a run with skips passes.
"""
import os
import re

# {name: (pattern of the reason of a skip, what would run the tests)}
REASONS = {
    'data': ('real samples', 'the real samples, which are not part of the repository'),
    'browser': ('chromium', 'apt-get install chromium'),
    'latex': ('pdflatex', 'apt-get install texlive-latex-extra poppler-utils'),
    'poppler': ('pdfto', 'apt-get install poppler-utils'),
    'compiler': ('C\\+\\+ compiler', 'apt-get install g++ python3-dev'),
    'wheel': ('wheel cannot be built', 'pip install setuptools>=77 wheel'),
    'trackers': ('(wandb|mlflow) is not installed', 'pip install wandb mlflow'),
    'index': ('no package index', 'SEMMAE_TEST_INDEX=1, and an index that pip reaches'),
    'debian': ('no apt-cache', 'Debian or Ubuntu'),
    'slurm': ('slurm-wlm', 'root, and apt-get install slurm-wlm munge'),
    'checkout': ('not a git root|shallow', 'a full git clone'),
    'cpu': ('a GPU has its own', 'a machine without a GPU')}


def name_of(reason):
    """The name of a reason in `REASONS`, or the reason itself."""
    return next((name for name, (pattern, _) in REASONS.items()
                 if re.search(pattern, reason, re.I)), reason)


class Skips:
    """Counts the skipped tests of a run by the name of their reason."""

    def __init__(self):
        self.counts = {}

    def pytest_runtest_logreport(self, report):
        """Count one test; a report of a worker process comes here too."""
        if report.skipped and isinstance(report.longrepr, tuple):
            name = name_of(report.longrepr[2])
            self.counts[name] = self.counts.get(name, 0) + 1

    def refused(self):
        """Names of reasons that are not allowed."""
        allowed = os.environ.get('SEMMAE_ALLOWED_SKIPS')
        return [] if allowed is None else sorted({*self.counts} - {*allowed.split()})

    def pytest_sessionfinish(self, session):
        """Fail a run that skipped something that it was to run."""
        if self.refused() and session.exitstatus == 0:
            session.exitstatus = 1

    def pytest_terminal_summary(self, terminalreporter):
        """Print one line."""
        if self.counts:
            terminalreporter.write_line('skipped: ' + '; '.join(
                f'{count} ({name}: needs {REASONS[name][1]})' if name in REASONS
                else f'{count} ({name})' for name, count in sorted(self.counts.items())))
        if refused := self.refused():
            terminalreporter.write_line(f'FAILED: skips that are not allowed: {", ".join(refused)}')
