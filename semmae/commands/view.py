"""Pictures of parts, masks and models.

  python tools/visualize.py parts mm_configs/mini/semmae_parts_mini.py \
      work_dirs/semmae_parts_mini/epoch_3.pth --images data/toy/imagenet/train --out parts.png

parts           CONFIG CHECKPOINT    of a part learner: encoder heads, parts, foreground (Fig. 4)
masks           CONFIG [CHECKPOINT]  of a pre-training, parts from --store; or of a part learner
strategies      CONFIG CHECKPOINT    of a part learner: every masking strategy (Fig. 1)
reconstruction  CONFIG CHECKPOINT    of a pre-training
attention       CONFIG CHECKPOINT    of a pre-training or a part learner: last layer, each head
alpha                                the curves of alpha and gamma (Fig. 3); needs no model
curves          DIR...               training curves of work directories, by default of the loss
"""
import argparse

from ..shipped import CommandParser


def parse(argv=None, prog='visualize.py'):
    parser = CommandParser(prog=prog, description=__doc__.split('\n\n')[-1],
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='what', required=True)
    for what in ('parts', 'masks', 'strategies', 'reconstruction', 'attention', 'alpha',
                 'curves'):
        command = commands.add_parser(what)
        command.add_argument('--out', required=True, help='the .png, .pdf or .svg to write')
        if what == 'alpha':
            continue
        if what == 'curves':
            command.add_argument('work_dirs', nargs='+', metavar='DIR', help='work directory')
            command.add_argument('--key', default='loss', help='the logged scalar, default: loss')
            continue
        command.add_argument('config')
        command.add_argument('checkpoint', nargs='?' if what == 'masks' else None)
        command.add_argument('--images', required=True, help='folder of images, at any depth')
        command.add_argument('--num', type=int, default=dict(parts=6, strategies=1).get(what, 4),
                             help='how many images, evenly spaced over the sorted folder')
        if what in ('parts', 'masks', 'strategies'):
            command.add_argument('--grid', type=int, help="patches a side; default: the config's")
        if what == 'masks':
            command.add_argument('--alphas', type=float, nargs='+', default=[0., .5, 1.])
        if what in ('masks', 'reconstruction'):
            command.add_argument('--store', dest='part_store',
                                 help="part store of these images; default: the config's")
        if what in ('masks', 'strategies', 'reconstruction'):
            command.add_argument('--seed', type=int, default=0, help='of the masks')
    return parser.parse_args(argv)


def main(argv=None, prog='visualize.py'):
    args = vars(parse(argv, prog))
    what = args.pop('what')
    from ..training.errors import fail_clearly
    with fail_clearly():
        from ..files import require_folder, writable_file
        writable_file(args['out'], ('.png', '.pdf', '.svg'))
        for folder in args.get('work_dirs', ()):
            require_folder(folder, 'work directory')
        (draw_curves if what in ('alpha', 'curves') else draw_images)(what, args)
        print(f'{what} -> {args["out"]}')


def draw_curves(what, args):
    """Draw the curves of alpha and gamma, or of trainings; needs no model."""
    from ..reporting.curves import alpha_curves, training_curves
    if what == 'alpha':
        alpha_curves(args['out'])
    else:
        training_curves(args['work_dirs'], args['out'], args['key'])


def draw_images(what, args):
    """Draw images with what a model makes of them."""
    from ..config.paths import require_inputs
    require_inputs(args['config'], args['checkpoint'], args['images'])
    from ..mmengine_patches import install
    from ..parts.learner import LearnerSource
    from ..visualization import pictures
    install()
    if what in ('parts', 'strategies'):
        args['learner'] = LearnerSource(*(args.pop(key) for key in (
            'config', 'checkpoint', 'grid')))
    if what == 'masks':
        args['source'] = pictures.MaskSource(*(args.pop(key) for key in (
            'config', 'checkpoint', 'part_store', 'grid')))
    dict(parts=pictures.draw_parts, masks=pictures.draw_masks, strategies=pictures.draw_strategies,
         attention=pictures.draw_attention,
         reconstruction=pictures.draw_reconstructions)[what](**args)
