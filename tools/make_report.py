"""The HTML report of a folder of runs.   python tools/make_report.py work_dirs/quickstart

Tables of its results and how each was measured, loss curves, and pictures of parts, masks,
reconstructions and segmentations, in one file that loads nothing. DIR is the folder of a suite, as
tools/run_suite.py mini leaves it (seed0, seed1, ...), that of one of its seeds, or one that holds
results only, as benchmarks/results/transfer. Title and notes say what the results say. What is
missing is left out and named; a folder with nothing to show is a mistake.
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('dir', type=Path)
    parser.add_argument('--images', default='data/toy/imagenet/train',
                        help='images of the pictures; those that the parts were extracted from')
    parser.add_argument('--out', type=Path, help='default: DIR/report/report.html')
    args = parser.parse_args()
    from semmae.training.errors import fail_clearly
    with fail_clearly():
        from semmae.mmengine_patches import install
        from semmae.visualization.folder_report import mini_report
        install()
        out = args.out or args.dir / 'report/report.html'
        print(f'Report: {mini_report(args.dir, args.images, out)}')


if __name__ == '__main__':
    main()
