"""Copies the results of a suite into one small folder: lines, predictions and tables.

python benchmarks/collect.py work_dirs/mini_tables --out benchmarks/results/mini

Copies every line that a table counts, without absolute paths, into OUT/results.jsonl and the
predictions beside it (counts and labels, no label maps; git ignores them). Writes OUT/tables.md.
Copies no weights or images.
"""
import argparse
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from semmae.files import write_atomically
from semmae.reporting.part_tables import part_tables, render_parts
from semmae.reporting.render import render
from semmae.reporting.tables import build_tables, measured
from semmae.results.results import as_line, read_results


def collect(folders, out):
    """Write the results below ``folders`` to ``out``; returns how many lines there are."""
    records, problems = read_results(folders)
    if problems or not records:
        raise ValueError('; '.join(problems) or f'no results below {folders}')
    out.mkdir(parents=True, exist_ok=True)
    lines = []
    for record in records:
        source = Path(record.pop('source')).parent
        if record.get('predictions'):
            # Named by their content, so files of several runs have different names.
            copy = out / record['predictions']
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(source / record['predictions'], copy)
        lines.append(as_line(without_folders(record)).decode())
    write_text(out / 'results.jsonl', ''.join(lines))
    write_text(out / 'tables.md', tables_of(out))
    return len(lines)


def without_folders(record):
    """The record with the names of files in place of absolute paths, which say where they were."""
    report = record.get('load_report') or {}
    for holder, key in ((record, 'checkpoint'), (report, 'path')):
        if Path(holder.get(key) or '').is_absolute():
            holder[key] = Path(holder[key]).name
    return record


def tables_of(folder):
    """The tables of the results in ``folder`` as Markdown, those of parts last."""
    records, _ = read_results([folder])
    text = render(measured(build_tables(records)))
    parts = render_parts(part_tables(records))
    return text + (f'\n## How good the parts are\n\n{parts}' if parts else '')


def write_text(path, text):
    write_atomically(path, lambda file: file.write(text.encode()))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('folders', nargs='+', type=Path)
    parser.add_argument('--out', type=Path, required=True)
    args = parser.parse_args()
    try:
        number = collect(args.folders, args.out)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f'collect.py: error: {error}')
    print(f'{number} results -> {args.out}')


if __name__ == '__main__':
    main()
