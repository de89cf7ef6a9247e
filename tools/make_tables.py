"""python tools/make_tables.py benchmarks --format markdown

Prints the paper's Tables 1-7 with our results beside the printed numbers, and with --parts the
tables of part quality instead (tools/part_quality.py).
PATH: work dirs (searched for results.jsonl) or result files. Imports neither torch nor mm*.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from semmae.evaluation.results import read_results
from semmae.reporting.part_tables import part_tables, render_parts
from semmae.reporting.tables import FORMATS, TITLES, build_tables, measured, print_tables, render


def parse_args(argv):
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n', 1)[1])
    parser.add_argument('paths', nargs='+', metavar='PATH')
    parser.add_argument('--table', type=int, action='append', choices=TITLES, metavar='1..7',
                        help='only these tables; several values or several times (default: all)')
    parser.add_argument('--measured', action='store_true',
                        help='only lines that hold a result of ours')
    parser.add_argument('--parts', action='store_true', help='the tables of part quality')
    parser.add_argument('--format', choices=FORMATS, default='markdown')
    parser.add_argument('--out', type=Path, metavar='F', help='write to this file')
    args = parser.parse_intermixed_args(one_value_each(argv))
    if args.parts and (args.table or args.measured):
        parser.error('--parts prints tables of its own; leave --table and --measured out')
    if args.out and (args.out.is_dir() or not args.out.parent.is_dir()
                     or not os.access(args.out.parent, os.W_OK)):
        parser.error(f'--out {args.out}: expected a file in an existing, writable folder')
    return args


def one_value_each(argv):
    """``--table 1 2 DIR`` as ``--table=1 --table=2 DIR``, which argparse alone cannot read."""
    words = []
    for word in argv:
        if word.isdigit() and words and words[-1].startswith('--table'):
            if words[-1] == '--table':
                words.pop()
            word = f'--table={word}'
        words.append(word)
    return words


def main(argv=None):
    args = parse_args(sys.argv[1:] if argv is None else argv)
    try:
        records, problems = read_results(args.paths)
        if args.parts:
            frames, text = (f := part_tables(records)), render_parts(f, args.format)
        else:
            frames = build_tables(records, tables=args.table or tuple(TITLES))
            frames = measured(frames) if args.measured else frames
            text = render(frames, args.format)
    except FileNotFoundError as error:
        print(f'make_tables.py: error: {error}', file=sys.stderr)
        return 2
    for problem in problems:
        print(f'warning: {problem}', file=sys.stderr)
    if not records:
        print('no result found: every cell of ours is empty', file=sys.stderr)
    if args.out:
        args.out.write_text(text, encoding='utf-8')
        print(f'{len(frames)} tables from {len(records)} results: {args.out}')
    elif args.format == 'markdown' and sys.stdout.isatty() and not args.parts:
        print_tables(frames)
    else:
        print(text, end='')
    return 0


if __name__ == '__main__':
    sys.exit(main())
