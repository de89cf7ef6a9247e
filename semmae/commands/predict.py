"""Classes of the images of a folder, from a trained classifier or segmenter.

The images go through the pipeline of the config's test. --out is a CSV file with name, class and
score for a classification, and a folder of label maps (PNG, at the size of each photo) for a
segmentation. Every tensor of the checkpoint must fit the config.
"""
import csv
from pathlib import Path

from ..shipped import CommandParser


def parse(argv=None, prog='semmae predict'):
    from ..config.options import Options
    parser = CommandParser(prog=prog, description=__doc__)
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('--images', required=True, help='folder of images, at any depth')
    parser.add_argument('--out', required=True, type=Path)
    parser.add_argument('--cfg-options', nargs='+', action=Options, default={},
                        metavar='KEY=VALUE', help='change existing keys of the config')
    return parser.parse_args(argv)


def main(argv=None, prog='semmae predict'):
    args = parse(argv, prog)
    from ..training.errors import fail_clearly
    with fail_clearly():
        from ..config.paths import require_inputs
        require_inputs(args.config, args.checkpoint, args.images)
        from ..files import writable_file, writable_folder
        from ..training.predict import is_segmentation, predict
        has_maps = is_segmentation(args.config, args.cfg_options)
        out = writable_folder(args.out, '--out') if has_maps else writable_file(args.out, ('.csv',))
        found = predict(args.config, args.checkpoint, args.images, args.cfg_options)
        count = (write_maps if has_maps else write_classes)(out, found)
        print(f'{count} images -> {args.out}')


def write_classes(path, found):
    """Write a CSV file; returns the number of images."""
    rows = [(name, shown, f'{score:.6f}') for name, shown, score, _ in found]
    with path.open('w', newline='') as f:
        csv.writer(f, lineterminator='\n').writerows([('name', 'class', 'score'), *rows])
    return len(rows)


def write_maps(root, found):
    """Write a label map for each image; returns their number."""
    import numpy as np
    from PIL import Image
    count = 0
    for name, _, _, label_map in found:
        path = (root / name).with_suffix('.png')
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = np.uint8 if label_map.max() < 256 else np.uint16
        Image.fromarray(label_map.astype(kind)).save(path)
        count += 1
    return count
