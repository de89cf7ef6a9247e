"""The HTML report of a folder of runs.

One file with tables, the protocol of each number, loss curves, and pictures of parts, masks,
reconstructions and segmentations. DIR is the work directory of a suite (tools/run_suite.py mini:
seed0, seed1, ...), of one of its seeds, or a folder with results only, such as
benchmarks/results/transfer. A note lists what is missing. A folder with nothing to
show is an error.
"""
from pathlib import Path

from ..shipped import CommandParser


def main(argv=None, prog='make_report.py'):
    parser = CommandParser(prog=prog, description=__doc__.split('\n', 1)[0])
    parser.add_argument('dir', type=Path)
    parser.add_argument('--images', default='data/toy/imagenet/train',
                        help='images for the pictures, from which the parts were extracted')
    parser.add_argument('--out', type=Path, help='default: DIR/report/report.html')
    args = parser.parse_args(argv)
    from ..training.errors import fail_clearly
    with fail_clearly():
        from ..files import require_folder
        from ..results.results import HOW_TO_MAKE_RUNS
        if not args.dir.exists():
            require_folder(args.dir, 'folder', HOW_TO_MAKE_RUNS)
        from ..mmengine_patches import install
        from ..visualization.folder_report import write_folder_report
        install()
        out = args.out or args.dir / 'report/report.html'
        print(f'Report: {write_folder_report(args.dir, args.images, out)}')
