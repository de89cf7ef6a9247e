"""How good learned parts are, beside head attention, k-means and random cells.

python tools/part_quality.py mm_configs/semmae_parts.py work_dirs/semmae_parts/epoch_2.pth \
    --cub data/CUB_200_2011

With part annotations as they are published (SPLIT: train, val, test; of Pascal-Part train, val,
trainval):

python tools/part_quality.py CONFIG CHECKPOINT --part-image-net data/PartImageNet test
python tools/part_quality.py CONFIG CHECKPOINT --pascal-part data/VOCdevkit/VOC2010 val

With label masks, .png files of one 8-bit channel in the same folders as the images (those of
PartImageNet_Seg have label 40 as background):

python tools/part_quality.py CONFIG CHECKPOINT --masks IMAGES LABELS --name NAME --background 40

Appends to WORK_DIR/results.jsonl, prints the tables of that folder and writes them to
WORK_DIR/tables.md.
"""
from pathlib import Path

from ..shipped import CommandParser


def parse(argv=None, prog='part_quality.py'):
    from ..config.options import Options
    parser = CommandParser(prog=prog, description=__doc__.split('\n', 1)[0])
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    truth = parser.add_mutually_exclusive_group(required=True)
    truth.add_argument('--masks', nargs=2, metavar=('IMAGES', 'LABELS'),
                       help='folders; LABELS has the same relative paths, ending in .png')
    truth.add_argument('--cub', metavar='DIR', help='CUB-200-2011 as it is published')
    for name in ('--part-image-net', '--pascal-part'):
        truth.add_argument(name, nargs=2, metavar=('ROOT', 'SPLIT'))
    parser.add_argument('--name', help='of the data set in the tables; needed with --masks')
    parser.add_argument('--background', type=int, default=0,
                        help='the label of --masks that is no part of an object (default: 0)')
    parser.add_argument('--rows', nargs='+', metavar='ROW', help='default: all')
    parser.add_argument('--grid', type=int, help="patches a side; default: the config's")
    parser.add_argument('--batch-size', type=int, default=50)
    parser.add_argument('--num-workers', type=int, default=0, help='processes that decode')
    parser.add_argument('--work-dir', default='work_dirs/part_quality')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm'], default='none')
    parser.add_argument('--cfg-options', nargs='+', action=Options, metavar='K=V',
                        help='the overrides that the learner was trained with')
    args = parser.parse_args(argv)
    if args.masks and not args.name:
        parser.error('--masks needs --name, which the data set has in the tables')
    if args.background and (args.part_image_net or args.pascal_part):
        parser.error('--background is for --masks; part annotations have the background 0')
    return args


def main(argv=None, prog='part_quality.py'):
    args = parse(argv, prog)
    from ..training.errors import fail_clearly
    with fail_clearly():
        from ..config.paths import require_inputs
        from ..files import require_folder
        require_inputs(args.config, args.checkpoint)
        for folder, check in ((args.cub, 'cub'), *((folder, '') for folder in args.masks or ()),
                              ((args.part_image_net or [''])[0], 'part_image_net'),
                              ((args.pascal_part or [''])[0], 'pascal_part')):
            if folder:
                hint = f'. Run: python tools/check_data.py {check}' if check else ''
                require_folder(folder, 'folder', hint)
        from mmengine.dist import is_main_process

        from ..files import writable_folder, write_atomically
        from ..parts.learner import LearnerSource
        from ..parts.quality import (
            ROWS,
            AnnotatedTruth,
            LandmarkTruth,
            MaskTruth,
            part_quality,
        )
        from ..reporting.part_tables import part_tables, render_parts
        from ..results.results import read_results
        writable_folder(args.work_dir)
        truth: LandmarkTruth | MaskTruth | AnnotatedTruth
        if args.cub:
            truth = LandmarkTruth(args.cub, args.name or 'CUB')
        elif args.masks:
            images, labels = args.masks
            truth = MaskTruth(images, labels, args.name, args.background)
        else:
            kind = 'PartImageNet' if args.part_image_net else 'PascalPart'
            root, split = args.part_image_net or args.pascal_part
            truth = AnnotatedTruth(kind, root, split, args.name or kind)
        learner = LearnerSource(args.config, args.checkpoint, args.grid, options=args.cfg_options)
        part_quality(learner, truth, args.work_dir, args.rows or tuple(ROWS), args.launcher,
                     args.batch_size, args.num_workers)
        if is_main_process():
            text = render_parts(part_tables(read_results([args.work_dir])[0]))
            write_atomically(Path(args.work_dir) / 'tables.md', lambda f: f.write(text.encode()))
            print(text)
