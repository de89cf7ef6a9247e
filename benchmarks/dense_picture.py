"""Draws the segmentations of several backbones on real street scenes, for docs/dense.md.

python benchmarks/dense_picture.py "TITLE=WORK_DIR" ...

Writes docs/camvid.png and records its source in docs/pictures.json. Each WORK_DIR is one of a
segmentation in the dense suite, with its stored label maps, for example
work_dirs/dense/seed0/camvid/NAME. Its results are those of benchmarks/results/dense. Needs
data/CamVid, for the photos.
"""
import argparse
import sys
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.report_picture import note
from semmae.visualization.pictures import draw_segmentations

REPO = Path(__file__).resolve().parents[1]
OUT = REPO / 'docs/camvid.png'
COLOURS, WIDTH = 64, 1400  # of the palette; pixels


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('runs', nargs='+', metavar='TITLE=WORK_DIR')
    parser.add_argument('--images', type=int, default=3)
    args = parser.parse_args()
    folders = dict(run.split('=', 1) for run in args.runs)
    print(draw_segmentations(folders, OUT, args.images))
    image = Image.open(OUT).convert('RGB')
    image.thumbnail((WIDTH, WIDTH))
    image.quantize(COLOURS).save(OUT, optimize=True)
    note(OUT.parent / 'pictures.json', OUT, [REPO / 'benchmarks/results/dense/results.jsonl'],
         'python benchmarks/dense_picture.py TITLE=WORK_DIR ...')


if __name__ == '__main__':
    main()
