"""Unpack a downloaded data set.

Takes .tar (.gz, .bz2, .xz) and .zip. Writes only new files, only into the folder --out (here
data/CUB_200_2011), and nothing if the archive is damaged, has another hash than --sha256, or holds
links, devices or more than any data set.
"""
import sys

from ..shipped import CommandParser


def main(argv=None, prog='unpack.py'):
    parser = CommandParser(prog=prog, description=__doc__.split('\n', 1)[0])
    parser.add_argument('archive')
    parser.add_argument('--out', required=True, help='the folder, new or not')
    parser.add_argument('--sha256', help='hex digest that the archive must have')
    args = parser.parse_args(argv)
    from ..files import unpack
    try:
        print(f'{unpack(args.archive, args.out, args.sha256)} files -> {args.out}')
    except (ValueError, FileNotFoundError) as error:
        print(f'{type(error).__name__}: {error}', file=sys.stderr)
        sys.exit(2)
