"""Parts of an image folder, from a trained part learner, into a part store.

python tools/extract_parts.py mm_configs/semmae_parts.py work_dirs/semmae_parts/epoch_2.pth \
    --images data/imagenet/train --out data/parts/imagenet_train_28 --grid 28

Stopped or killed, it goes on where it was when started again. To use several GPUs or nodes, start
it several times, with the same arguments and the folder of the store on a shared file system:

torchrun --nproc-per-node 8 tools/extract_parts.py ...
srun --ntasks 16 python tools/extract_parts.py ...

With --verify, it writes nothing and checks a finished store against the same arguments.
With --labels DIR and no checkpoint, the parts are those of label maps (true parts).
"""

from ..shipped import CommandParser


def main(argv=None, prog='extract_parts.py'):
    from ..config.options import Options
    parser = CommandParser(prog=prog, description=__doc__.split('\n', 1)[0])
    parser.add_argument('config')
    parser.add_argument('checkpoint', nargs='?', help='of the part learner')
    parser.add_argument('--labels', help='folder of label maps, NAME.png for each NAME.* of the '
                        'images; instead of a checkpoint')
    parser.add_argument('--num-parts', type=int, help="with --labels; default: the config's")
    parser.add_argument('--images', required=True, help='folder of images, at any depth')
    parser.add_argument('--out', required=True, help='folder of the part store')
    parser.add_argument('--grid', type=int, help="patches a side; default: the config's")
    parser.add_argument('--source', default='learned',
                        help='learned (default), heads, kmeans, colour, voronoi or cells')
    parser.add_argument('--batch-size', type=int, default=64)
    parser.add_argument('--num-workers', type=int,
                        help='processes that decode, for each GPU; default: the cores, up to 8')
    parser.add_argument('--amp', action='store_true', help='learned parts in mixed precision also '
                        'without a GPU: bfloat16 on CPUs that have it')
    parser.add_argument('--verify', action='store_true',
                        help='check hashes, the list of images and the parts of 16 images')
    parser.add_argument('--cfg-options', nargs='+', action=Options, metavar='K=V',
                        help='the overrides that the learner was trained with')
    args = parser.parse_args(argv)
    if (args.checkpoint is None) == (args.labels is None):
        parser.error('expected either the checkpoint of a part learner or --labels')
    if args.labels and (args.verify or args.source != 'learned'):
        parser.error('--verify and --source need a part learner, found --labels')
    from ..training.errors import fail_clearly
    with fail_clearly():
        from ..config.paths import require_inputs
        from ..files import require_folder, writable_folder
        require_inputs(args.config, args.checkpoint, args.images)
        if args.labels:
            require_folder(args.labels, 'folder of label maps')
        from ..mmengine_patches import install
        from ..parts.extract import extract_parts, verify_parts
        from ..parts.learner import LearnerSource
        from ..parts.true_parts import LabelSource
        install()
        source: LabelSource | LearnerSource
        if args.labels:
            source = LabelSource(args.config, args.labels, args.grid, args.num_parts,
                                 args.cfg_options)
        else:
            source = LearnerSource(args.config, args.checkpoint, args.grid, args.source,
                                   args.cfg_options, args.amp)
        if args.verify:
            different, compared = verify_parts(source, args.images, args.out)
            print(f'{args.out}: hashes and image list as written; of {compared} patches made '
                  f'again, {different} differ')
        else:
            writable_folder(args.out, '--out')
            store = extract_parts(source, args.images, args.out, args.batch_size,
                                  args.num_workers)
            print(f'{len(store)} images, {store.grid}x{store.grid} patches, {store.num_parts} '
                  f'parts -> {store.root}')
