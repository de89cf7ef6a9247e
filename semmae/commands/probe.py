"""k-NN and linear probing of a frozen backbone on a labelled folder of your own, and their table.

DIR has the images in folders of their class: DIR/train/CLASS/*.jpg and DIR/val/CLASS/*.jpg. The
backbone is a ViT of timm (--timm NAME, with timm's weights, those of --checkpoint FILE, or random
ones with --untrained) or a checkpoint of MAE's architecture (--checkpoint FILE). Settings are
chosen on 10 % of the training images. The table has all backbones that were tried on this folder.
"""
import shutil
from pathlib import Path

from ..shipped import CommandParser


def parse(argv=None, prog='semmae probe'):
    from ..config.options import Options
    parser = CommandParser(prog=prog, description=__doc__)
    parser.add_argument('dir', type=Path, help='folder with train/CLASS and val/CLASS')
    parser.add_argument('--timm', metavar='NAME')
    parser.add_argument('--checkpoint', metavar='FILE')
    parser.add_argument('--untrained', action='store_true', help='random weights, as a baseline')
    parser.add_argument('--interpolate-offset', type=float, metavar='N', help='how the code of '
                        '--checkpoint resizes positions; 0.1 for DINO and iBOT, else 0')
    parser.add_argument('--name', help='of the data set in the table; default: name of the folder')
    parser.add_argument('--val', default='val', metavar='FOLDER', help='in DIR; default: val')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--work-dir', type=Path, help='default: work_dirs/probe/NAME')
    parser.add_argument('--cfg-options', nargs='+', action=Options, default={},
                        metavar='KEY=VALUE', help='change existing keys of the config')
    args = parser.parse_args(argv)
    if not (args.timm or args.checkpoint):
        parser.error('expected a backbone: --timm NAME, --checkpoint FILE, or both')
    if args.seed < 0:
        parser.error(f'--seed {args.seed}: expected 0 or more')
    return args


def main(argv=None, prog='semmae probe'):
    args = parse(argv, prog)
    from ..training.errors import fail_clearly
    with fail_clearly(is_quiet=True):
        from ..files import require_checkpoint, require_folder, writable_folder
        for split in ('train', args.val):
            require_folder(args.dir / split, 'folder', f'; expected {args.dir}/{split}/CLASS/*.jpg')
        require_checkpoint(args.checkpoint)
        from ..probes.own_folder import folder_options, require_same_folder
        name = args.name or args.dir.resolve().name
        options = folder_options(args.dir, args.val, name)
        from ..suites.dense import as_name
        work_dir = writable_folder(args.work_dir or Path('work_dirs/probe', as_name(name)))
        from ..suites.catalogue import DENSE
        from ..suites.dense import dense_rows
        row, = dense_rows(DENSE, args.timm, args.checkpoint, ['imagenet'],
                          args.interpolate_offset, args.untrained)
        require_same_folder(work_dir, args.dir)
        run = work_dir / f'{Path(row.home).name}-seed{args.seed}'
        from ..training.run import train
        try:
            train(row.config, work_dir=str(run), options=row.options | options | args.cfg_options,
                  seed=args.seed)
        finally:
            if not (run / 'results.jsonl').is_file():
                shutil.rmtree(run, ignore_errors=True)  # else the table has it as unfinished
    from .tables import main as print_tables
    return print_tables([str(work_dir), '--table', 'dense', '--measured'], prog='semmae tables')
