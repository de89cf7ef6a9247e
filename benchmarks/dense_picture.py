"""Draws the segmentations of several backbones on real street scenes, for docs/dense.md.

python benchmarks/dense_picture.py --out docs/camvid.png "TITLE=WORK_DIR" ...

Each WORK_DIR is one of a segmentation in the dense suite, with its stored label maps, for example
work_dirs/dense/seed0/camvid/NAME. Needs data/CamVid, for the photos.
"""
import argparse
import sys
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from semmae.visualization.pictures import draw_segmentations

COLOURS, WIDTH = 64, 1400  # of the palette; pixels


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('runs', nargs='+', metavar='TITLE=WORK_DIR')
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument('--images', type=int, default=3)
    args = parser.parse_args()
    folders = dict(run.split('=', 1) for run in args.runs)
    print(draw_segmentations(folders, args.out, args.images))
    image = Image.open(args.out).convert('RGB')
    image.thumbnail((WIDTH, WIDTH))
    image.quantize(COLOURS).save(args.out, optimize=True)


if __name__ == '__main__':
    main()
