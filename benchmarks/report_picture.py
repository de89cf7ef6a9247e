"""Makes docs/report.png: a screenshot of the top of the mini suite's report.

python benchmarks/report_picture.py

Takes a screenshot of benchmarks/results/mini/report.html with a headless Chromium (package
`chromium` of Debian and Ubuntu; SEMMAE_CHROMIUM is the path of another) and records its source
files in docs/pictures.json. Refuses a report that was made of other results than the results.jsonl
beside it.
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from semmae.files import sha256, write_atomically
from semmae.reporting.report import shows
from semmae.results.results import read_results

REPO = Path(__file__).resolve().parents[1]
MINI = REPO / 'benchmarks' / 'results' / 'mini'
SIZE = 1000, 1600  # CSS pixels
COLOURS = 64  # enough for a page; a third of the size of the browser's file


def chromium():
    """The path of a Chromium. Raises FileNotFoundError if there is none."""
    named = os.environ.get('SEMMAE_CHROMIUM')
    found = next(filter(None, map(shutil.which, [named] if named else [
        'chromium', 'chromium-browser', 'google-chrome', 'chrome'])), None)
    if not found:
        raise FileNotFoundError(f'no Chromium {f"at {named}" if named else "found"}. Run: apt-get '
                                'install chromium, or set SEMMAE_CHROMIUM to one')
    return found


def require_current(report):
    """Raises ValueError for a report of other results than those beside it."""
    records, _ = read_results([report.parent])
    if not shows(report, records):
        raise ValueError(f'{report} was made of other results than those beside it. Run: python '
                         'tools/make_report.py work_dirs/mini_tables --out '
                         'benchmarks/results/mini/report.html')


def screenshot(page, out, size=SIZE):
    """Write what a browser window of ``size`` shows of the file ``page`` to ``out``, a PNG."""
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / 'picture.png'
        done = subprocess.run(
            [chromium(), '--headless=new', '--no-sandbox', '--disable-gpu', '--no-first-run',
             '--disable-background-networking', '--disable-component-update', '--disable-sync',
             '--disable-dev-shm-usage', '--hide-scrollbars', f'--user-data-dir={folder}/profile',
             f'--window-size={size[0]},{size[1]}', f'--screenshot={picture}',
             Path(page).resolve().as_uri()], capture_output=True, text=True, timeout=120)
        if not picture.is_file():
            raise RuntimeError(f'Chromium made no picture, status {done.returncode}: '
                               f'{done.stderr.strip()[-300:]}')
        with Image.open(picture) as shot:
            small = shot.convert('RGB').quantize(COLOURS)
    write_atomically(out, lambda f: small.save(f, 'png', optimize=True))


def note(index, picture, sources, command):
    """Record the hash of each source file of ``picture`` in ``index``."""
    entries = json.loads(index.read_text(encoding='utf-8'))
    entries[picture.name] = dict(
        command=command, sha256=sha256(picture),
        sources={os.path.relpath(source, index.parents[1]): sha256(source) for source in sources})
    text = json.dumps(dict(sorted(entries.items())), indent=2) + '\n'
    write_atomically(index, lambda f: f.write(text.encode()))


def outdated(index) -> list:
    """A text for each picture beside ``index`` whose source files changed or are unknown."""
    entries, texts = json.loads(index.read_text(encoding='utf-8')), []
    found = {path.name for path in index.parent.glob('*.png')}
    texts += [f'{name} is not in {index.name}' for name in sorted(found - entries.keys())]
    texts += [f'{name} is in {index.name} and not beside it'
              for name in sorted(entries.keys() - found)]
    for name in sorted(entries.keys() & found):
        entry = entries[name]
        files = {index.parent / name: entry.get('sha256')} | {
            index.parents[1] / source: wanted for source, wanted in entry['sources'].items()}
        changed = [path.name for path, wanted in files.items()
                   if not path.is_file() or sha256(path) != wanted]
        if changed:
            texts.append(f'{name}: {", ".join(changed)} changed since it was made. '
                         f'Run: {entry["command"]}')
    return texts


def main():
    report, picture = MINI / 'report.html', REPO / 'docs' / 'report.png'
    try:
        require_current(report)
        screenshot(report, picture)
    except (ValueError, FileNotFoundError) as error:
        print(f'report_picture.py: error: {error}', file=sys.stderr)
        return 2
    note(REPO / 'docs' / 'pictures.json', picture, [MINI / 'results.jsonl', report],
         'python benchmarks/report_picture.py')
    print(os.path.relpath(picture))
    return 0


if __name__ == '__main__':
    sys.exit(main())
