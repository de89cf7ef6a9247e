"""Checks that each committed result names its commit, or has a note if that commit is unknown.

python benchmarks/provenance.py           prints what is wrong and the command that corrects it
python benchmarks/provenance.py --write   corrects it

A line of benchmarks/results/**/results.jsonl names a clean commit in the history of HEAD. Otherwise
its field ``provenance`` says why not; tables and reports show this note. --write sets or removes
this field and updates the checksum of the line, nothing else.
Exit status: 0; 1 if something is wrong; 2 if the history is not available.
"""
import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from semmae.files import write_atomically
from semmae.reporting.provenance import DIRTY
from semmae.results.results import FILE_NAME, as_line

REPO = Path(__file__).resolve().parents[1]


def git(*command, root=REPO):
    return subprocess.run(['git', *command], cwd=root, text=True, capture_output=True, timeout=60,
                          check=True).stdout.strip()


def history(root=REPO) -> frozenset:
    """All ancestors of HEAD. Raises FileNotFoundError if some are not in this clone."""
    try:
        top, shallow = git('rev-parse', '--show-toplevel', '--is-shallow-repository',
                           root=root).splitlines()
        if Path(top).resolve() == Path(root).resolve() and shallow == 'false':
            return frozenset(git('rev-list', 'HEAD', root=root).split())
        why = 'the clone is shallow' if shallow == 'true' else f'{root} is not a git root'
    except (OSError, subprocess.SubprocessError) as error:
        why = f'{root} is not a git checkout, or git does not run ({type(error).__name__})'
    raise FileNotFoundError(f'no history of commits: {why}. Clone the whole repository')


def result_files(root=REPO) -> list:
    """The results files that are committed, or would be by `git add`."""
    listed = git('ls-files', '--cached', '--others', '--exclude-standard', 'benchmarks/results',
                 root=root).splitlines()
    return [Path(root) / name for name in sorted(listed) if Path(name).name == FILE_NAME]


def sentence(commit, commits) -> str:
    """'' for a clean commit of ``commits``, else the note that its results need."""
    if not isinstance(commit, str) or not commit:
        return 'measured at a commit that was not recorded'
    base = commit.removesuffix(DIRTY)
    outside = '' if base in commits else ', not in this history'
    if base != commit:
        return f'measured with uncommitted changes on {base[:7]}{outside}'
    return f'measured at {base[:7]}{outside}' if outside else ''


def complaint(record, commits) -> str:
    """'' or what is wrong with the provenance of a record."""
    wanted, found = sentence(record.get('git_commit'), commits), record.get('provenance')
    if (found or '') == wanted and (wanted or 'provenance' not in record):
        return ''
    return (f'provenance is {found!r}, expected {wanted!r}' if wanted else
            f'provenance is {found!r}, but its commit is clean and in this history')


def corrected(line, commits) -> bytes:
    """A line of results.jsonl with the provenance that it needs; itself if it has that."""
    record = json.loads(line)
    if not complaint(record, commits):
        return line
    record.pop('provenance', None)
    record.pop('crc', None)
    said = sentence(record.get('git_commit'), commits)
    return as_line({**record, 'provenance': said} if said else record)


def complaints(file, commits) -> list:
    """A text for each wrong line of a results file."""
    found = [(number, complaint(json.loads(line), commits))
             for number, line in enumerate(file.read_bytes().splitlines(), 1)]
    return [f'{os.path.relpath(file)}: line {number}: {text}' for number, text in found if text]


def write(file, commits) -> int:
    """Correct a results file; returns how many lines changed."""
    before = file.read_bytes().splitlines(keepends=True)
    after = [corrected(line, commits) for line in before]
    if after != before:
        write_atomically(file, lambda f: f.write(b''.join(after)))
    return sum(a != b for a, b in zip(after, before))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('--write', action='store_true', help='correct the lines')
    args = parser.parse_args(argv)
    try:
        commits = history()
    except FileNotFoundError as error:
        print(f'provenance.py: error: {error}', file=sys.stderr)
        return 2
    if args.write:
        for file in result_files():
            print(f'{write(file, commits)} lines corrected: {file.relative_to(REPO)}')
        return 0
    wrong = [text for file in result_files() for text in complaints(file, commits)]
    if wrong:
        print(*wrong[:10], f'{len(wrong)} lines are wrong. Run: python benchmarks/provenance.py '
              '--write', sep='\n')
    return int(bool(wrong))


if __name__ == '__main__':
    sys.exit(main())
