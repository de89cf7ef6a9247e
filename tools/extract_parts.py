"""Parts of an image folder, from a trained part learner, into a part store.

python tools/extract_parts.py mm_configs/semmae_parts.py work_dirs/semmae_parts/epoch_2.pth \
    --images data/imagenet/train --out data/parts/imagenet_train_28 --grid 28

Stopped and started again, it goes on with the next shard.
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('--images', required=True, help='folder of images, at any depth')
    parser.add_argument('--out', required=True, help='folder of the new part store')
    parser.add_argument('--grid', type=int, help="patches a side; default: the config's")
    parser.add_argument('--source', choices=['learned', 'heads'], default='learned')
    args = parser.parse_args()
    from semmae.engine.launch import fail_clearly
    with fail_clearly():
        from semmae.engine.extract import extract_parts
        store = extract_parts(args.config, args.checkpoint, args.images, args.out, grid=args.grid,
                              source=args.source)
        print(f'{len(store)} images, {store.grid}x{store.grid} patches, {store.num_parts} parts '
              f'-> {store.root}')


if __name__ == '__main__':
    main()
