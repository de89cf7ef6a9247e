"""How good learned parts are, beside head attention, k-means and random cells.

python tools/part_quality.py mm_configs/semmae_parts.py work_dirs/semmae_parts/epoch_2.pth \
    --cub data/CUB_200_2011
python tools/part_quality.py CONFIG CHECKPOINT --masks IMAGES LABELS     (label masks: PartImageNet)

Appends to WORK_DIR/results.jsonl and prints the tables of that folder.
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    truth = parser.add_mutually_exclusive_group(required=True)
    truth.add_argument('--masks', nargs=2, metavar=('IMAGES', 'LABELS'),
                       help='folders; LABELS has the same relative paths, ending in .png')
    truth.add_argument('--cub', metavar='DIR', help='CUB-200-2011 as it is published')
    parser.add_argument('--rows', nargs='+', metavar='ROW', help='default: all')
    parser.add_argument('--name', help='of the data set in the tables')
    parser.add_argument('--work-dir', default='work_dirs/part_quality')
    parser.add_argument('--seed', type=int, default=0, help='of the learner; for the tables')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm'], default='none')
    args = parser.parse_args()
    from semmae.engine.launch import fail_clearly
    with fail_clearly():
        from mmengine.dist import is_main_process

        from semmae.engine.part_quality import ROWS, part_quality
        from semmae.evaluation.results import read_results
        from semmae.reporting.part_tables import part_tables, render_parts
        part_quality(args.config, args.checkpoint, args.work_dir, args.masks, args.cub,
                     args.rows or tuple(ROWS), args.name, args.launcher, args.seed)
        if is_main_process():
            print(render_parts(part_tables(read_results([args.work_dir])[0])))


if __name__ == '__main__':
    main()
