"""Say what is missing in data/.

Prints one row for each data set: what was found, what was expected, how to fix it. Downloads
nothing. DATASET: imagenet inat19 cub cars ade20k voc2012 pascal_context cityscapes coco_stuff
camvid nyu part_image_net pascal_part toy; without one, all are checked and a missing one is no
fault. --decode also reads every image to the end, and refuses what a training refuses.
Exit code 1 if something is missing or wrong. Imports neither torch nor mm*.
"""
from pathlib import Path

from ..datasets.check import CHECKS, check_all
from ..shipped import CommandParser


def main(argv=None, prog='check_data.py'):
    parser = CommandParser(prog=prog, description=__doc__.split('\n\n', 1)[1])
    parser.add_argument('datasets', nargs='*', metavar='DATASET', help=' '.join(CHECKS))
    parser.add_argument('--root', type=Path, default=Path('data'), metavar='DIR')
    parser.add_argument('--decode', action='store_true', help='read every image to the end')
    args = parser.parse_args(argv)
    unknown = [name for name in args.datasets if name not in CHECKS]
    if unknown:
        parser.error(f"unknown DATASET {', '.join(unknown)}; expected {', '.join(CHECKS)}")
    return check_all(args.datasets, args.root, args.decode)
