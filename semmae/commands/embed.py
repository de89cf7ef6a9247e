"""Features of a folder of images from a frozen backbone.

The backbone is a ViT of timm (--timm NAME, with timm's weights or those of --checkpoint FILE), a
checkpoint of MAE's architecture (--checkpoint FILE), or that of a config (--config, derived from
mm_configs/dense/). Every tensor of a file must fit. --out FILE.npz has an array for each kind,
float32; FILE.npy has the first kind alone. FILE.csv has the images in the order of the rows, and
FILE.json what made them.
"""
import csv
import io
import json
from pathlib import Path

from ..shipped import CommandParser

KINDS = ('class', 'mean', 'patches')


def parse(argv=None, prog='semmae embed'):
    from ..config.options import Options
    parser = CommandParser(prog=prog, description=__doc__)
    parser.add_argument('images', help='folder of images, at any depth')
    parser.add_argument('--out', required=True, type=Path, help='FILE.npz or FILE.npy')
    parser.add_argument('--timm', metavar='NAME')
    parser.add_argument('--checkpoint', metavar='FILE')
    parser.add_argument('--config', help='with a semmae.FrozenProbe; not with --timm')
    parser.add_argument('--kind', nargs='+', choices=KINDS, default=KINDS[:2], help='of the '
                        'last layer: class token, mean of the patch tokens, patch tokens')
    parser.add_argument('--interpolate-offset', type=float, metavar='N', help='how the code of '
                        '--checkpoint resizes positions; 0.1 for DINO and iBOT, else 0')
    parser.add_argument('--batch-size', type=int, default=64)
    parser.add_argument('--num-workers', type=int, help='processes that decode')
    parser.add_argument('--cfg-options', nargs='+', action=Options, default={},
                        metavar='KEY=VALUE', help='change existing keys of the config')
    args = parser.parse_args(argv)
    if bool(args.config) == bool(args.timm) and not args.checkpoint or args.config and args.timm:
        parser.error('expected one of --timm NAME, --config CONFIG and --checkpoint FILE; the last '
                     'may go with one of the others')
    return args


def main(argv=None, prog='semmae embed'):
    args = parse(argv, prog)
    from ..training.errors import fail_clearly
    with fail_clearly():
        from ..config.reading import require_config
        from ..files import require_checkpoint, require_folder, writable_file, write_atomically
        require_folder(args.images)
        require_checkpoint(args.checkpoint)
        if args.config:
            require_config(args.config)
        writable_file(args.out, ('.npz', '.npy'))
        import numpy as np

        from ..api import embed, load_backbone
        backbone = load_backbone(args.timm, args.checkpoint, args.config, args.interpolate_offset,
                                 args.cfg_options)
        names, arrays, about = embed(backbone, args.images, args.kind, args.batch_size,
                                     args.num_workers)
        first = next(iter(arrays.values()))
        write_atomically(args.out, lambda f: np.save(f, first) if args.out.suffix == '.npy'
                         else np.savez(f, **arrays))
        write_atomically(args.out.with_suffix('.csv'), lambda f: f.write(table(names)))
        about |= dict(config=str(backbone.cfg.filename), images=str(args.images), count=len(names))
        write_atomically(args.out.with_suffix('.json'), lambda f: f.write(
            json.dumps(about, indent=1, default=str).encode()))
        shapes = ', '.join(f'{kind} {array.shape}' for kind, array in arrays.items())
        print(f'{len(names)} images: {shapes} -> {args.out}')


def table(names) -> bytes:
    """A CSV file with the columns index and name."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerows([('index', 'name'), *enumerate(names)])
    return text.getvalue().encode()
