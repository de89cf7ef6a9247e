"""First pictures of a few images: parts, masks at alpha 0, 0.5 and 1, and reconstructions.

Parts are clusters of the patch tokens of --encoder FILE, a DINOv2 ViT-S/14 with timm's or DINOv2's
names; without it, clusters of colours. The masks follow them. The reconstructions are those of a
small MAE that is trained on these images alone. Nothing is downloaded.
"""
import sys

from ..shipped import CommandParser


def parse(argv=None, prog='semmae demo'):
    parser = CommandParser(prog=prog, description=__doc__)
    parser.add_argument('--images', metavar='DIR', help='folder of images, at any depth; default: '
                        'photographs that come with scikit-learn and matplotlib')
    parser.add_argument('--encoder', metavar='FILE', help='weights of a DINOv2 ViT-S/14')
    parser.add_argument('--out', default='work_dirs/demo', metavar='DIR',
                        help='folder of the pictures, default: work_dirs/demo')
    return parser.parse_args(argv)


def main(argv=None, prog='semmae demo'):
    try:
        run(parse(argv, prog))
    except KeyboardInterrupt:
        print('Stopped. The same command continues.', file=sys.stderr)
        sys.exit(130)


def run(args):
    """Draw the pictures and print the path of each when it is there."""
    from ..training.errors import fail_clearly
    with fail_clearly():
        from ..files import require_checkpoint, require_folder, writable_folder
        if args.images:
            require_folder(args.images)
        require_checkpoint(args.encoder)
        writable_folder(args.out, '--out')
        from ..visualization.demo import draw_demo
        for what, path in draw_demo(args.out, args.images, args.encoder):
            print(f'{what} -> {path}', flush=True)
