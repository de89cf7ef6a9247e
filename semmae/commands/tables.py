"""Print the tables.

Prints the paper's Tables 1-7 with our results beside the printed numbers, and the dense table of
backbones if there are such results; with --parts the tables of part quality instead
(tools/part_quality.py).
PATH: work directories, searched for results.jsonl and for the logs of mmengine, or result files. A
file without any result is an error, a folder without any is not. Imports neither torch nor mm*, and
executes no config.
Exit status: 0; 2 for a wrong command; 3 if --strict refuses the tables, or if there are results and
none can be read; with --format long or json also if there are none.
"""

import os
import sys
from pathlib import Path

from ..reporting.names import DENSE, FORMATS, LONG, TITLES
from ..results.reading import NoResult, read_records
from ..shipped import CommandParser, as_typed_here


def parse_args(argv, prog='make_tables.py'):
    parser = CommandParser(prog=prog, description=__doc__.split('\n\n', 1)[1])
    parser.add_argument('paths', nargs='+', metavar='PATH')
    parser.add_argument('--table', type=number_or_name, action='append', choices=[*TITLES, DENSE],
                        metavar=f'1..7|{DENSE}', help='only these tables; several values or '
                        'several times (default: all)')
    parser.add_argument('--measured', action='store_true',
                        help='only lines that hold a result of ours')
    parser.add_argument('--strict', action='store_true', help='refuse tables in which results were '
                        'measured differently, naming the fields, instead of marking them')
    parser.add_argument('--parts', action='store_true', help='the tables of part quality')
    parser.add_argument('--format', choices=[*FORMATS, *LONG], default='markdown',
                        help='long: a CSV with a line for each mean of all results, and its std, '
                        'n, interval and protocol; json: the same')
    parser.add_argument('--out', type=Path, metavar='F', help='write to this file')
    args = parser.parse_intermixed_args(one_value_each(argv))
    if args.parts and (args.table or args.measured or args.strict):
        parser.error('--parts prints tables of its own, one for each protocol; leave --table, '
                     '--measured and --strict out')
    if args.format in LONG and (args.table or args.measured or args.strict or args.parts):
        parser.error(f'--format {args.format} holds every result; leave --table, --measured, '
                     '--strict and --parts out')
    if args.out and (args.out.is_dir() or not args.out.parent.is_dir()
                     or not os.access(args.out.parent, os.W_OK)):
        parser.error(f'--out {args.out}: expected a file in an existing, writable folder')
    return args


def number_or_name(text):
    """The value of --table."""
    return int(text) if text.isdigit() else text


def one_value_each(argv):
    """``--table 1 2 DIR`` as ``--table=1 --table=2 DIR``, because argparse would read DIR as 3."""
    words: list[str] = []
    for word in argv:
        if (word.isdigit() or word == DENSE) and words and words[-1].startswith('--table'):
            if words[-1] == '--table':
                words.pop()
            word = f'--table={word}'
        words.append(word)
    return words


def not_shown(records, parts):
    """A text on the results that are not in these tables, in a list; [] if there are none."""
    def has_place(record):
        is_part = record['task'].startswith('parts')
        return record['task'] == 'parts' and record['status'] == 'ok' if parts else not is_part

    left = [record for record in records if not has_place(record)]
    tasks = ', '.join(sorted({record['task'] for record in left}))
    failed = sum(record['status'] != 'ok' for record in left)
    hint = '' if parts else '; --parts shows those of parts'
    return [f'{len(left)} results of {tasks} are not in these tables'
            f'{f" ({failed} of them failed)" if failed else ""}{hint}'] if left else []


def made(args, records):
    """(tables, text) that the command asks for."""
    from ..reporting.frames import frames_of
    from ..reporting.part_tables import render_parts
    from ..reporting.render import render
    frames = frames_of(records, args.table or (), args.measured, args.parts)
    return frames, (render_parts if args.parts else render)(frames, args.format)


def main(argv=None, prog='make_tables.py'):
    args = parse_args(sys.argv[1:] if argv is None else argv, prog)
    if hasattr(sys.stdout, 'reconfigure'):
        sys.stdout.reconfigure(encoding='utf-8')  # the tables hold ± and names of any language
    try:
        records, problems = read_records(args.paths)
    except (FileNotFoundError, NoResult) as error:
        print(f'{prog}: error: {error}', file=sys.stderr)
        return 2
    for problem in problems:
        print(f'warning: {problem}', file=sys.stderr)
    if not records:
        print(as_typed_here(f"no result found below {', '.join(map(str, args.paths))}: every cell "
                            'of ours is empty. Run: python tools/run_suite.py mini'),
              file=sys.stderr)
        if problems or args.format in LONG:
            return 3
    return show_long(args, records) if args.format in LONG else show_tables(args, records)


def show_long(args, records):
    """Print or write every result as data; returns the exit status."""
    from ..reporting.long import long_text
    text = long_text(records, args.format)
    if args.out:
        args.out.write_text(text, encoding='utf-8')
        print(f'{len(records)} results: {args.out}')
    else:
        print(text, end='')
    return 0


def show_tables(args, records):
    """Print or write the tables; returns the exit status."""
    from ..reporting.render import print_tables
    from ..reporting.tables import conflicts
    frames, text = made(args, records)
    unfair = conflicts(frames) if args.strict else []
    if unfair:
        print('refused (--strict):', *unfair, 'Without --strict the lines are marked.', sep='\n  ',
              file=sys.stderr)
        return 3
    for problem in not_shown(records, args.parts):
        print(f'warning: {problem}', file=sys.stderr)
    text = as_typed_here(text)
    if args.out:
        args.out.write_text(text, encoding='utf-8')
        print(f'{len(frames)} tables from {len(records)} results: {args.out}')
    elif args.format == 'markdown' and sys.stdout.isatty() and not args.parts:
        print_tables(frames)
    else:
        print(text, end='')
    return 0
