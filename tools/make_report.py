"""The HTML report of a mini suite.   python tools/make_report.py work_dirs/quickstart/seed0

Tables of its results, loss curves, and pictures of parts, masks and reconstructions, in one file.
DIR is the folder of one seed, as tools/run_suite.py mini leaves it.
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
    from semmae.engine.launch import fail_clearly
    with fail_clearly():
        from semmae.engine.mini_report import mini_report
        out = args.out or args.dir / 'report/report.html'
        print(f'Report: {mini_report(args.dir, args.images, out)}')


if __name__ == '__main__':
    main()
