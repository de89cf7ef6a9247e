"""Decoded images of a folder, short side resized and centre cropped, in one file.

python tools/pack_images.py data/imagenet/train --out data/packed/imagenet_train_224 --size 224

A run that was stopped or killed continues when it is started again. --verify writes nothing and
checks a finished cache against its hashes and the images.
"""

from ..shipped import CommandParser


def main(argv=None, prog='pack_images.py'):
    parser = CommandParser(prog=prog, description=__doc__.split('\n', 1)[0])
    parser.add_argument('images', help='folder of images, at any depth')
    parser.add_argument('--out', required=True, help='folder of the cache')
    parser.add_argument('--size', type=int, default=224, help='pixels a side')
    parser.add_argument('--verify', action='store_true', help='check hashes and list of images')
    args = parser.parse_args(argv)
    from ..training.errors import fail_clearly
    with fail_clearly():
        from ..files import require_folder, writable_folder
        require_folder(args.images)
        from ..datasets.image_cache import LoadPacked, pack_images
        if args.verify:
            cache = LoadPacked(args.out, args.images, args.size).cache
            cache.verify()
        else:
            cache = pack_images(args.images, writable_folder(args.out, '--out'), args.size)
        print(f'{len(cache)} images of {cache.size}x{cache.size} pixels'
              f'{", as they were written" if args.verify else ""} -> {cache.root}')
