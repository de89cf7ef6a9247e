"""Evaluate a trained model.

Appends a line to results.jsonl in the work directory. Each tensor of the checkpoint must fit the
config. ``mim test semmae CONFIG --checkpoint CHECKPOINT`` calls this file.
"""
import argparse


def parse(argv=None, prog='tools/test.py'):
    from ..config.options import Options
    from ..training.errors import Parser
    parser = Parser(prog=prog, description=__doc__.split('\n', 1)[0])
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('--work-dir', help='default: work_dirs/<name of the config>')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm'], default='none')
    parser.add_argument('--cfg-options', nargs='+', action=Options, default={},
                        metavar='KEY=VALUE', help='change existing keys of the config')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def check(args, processes, nodes=1):
    """ValueError for a mistake in command or config, before ``processes`` are started."""
    from ..config.options import read_config
    read_config(args.config, args.cfg_options)


def main(argv=None, prog='tools/test.py'):
    from ..training.errors import fail_clearly
    with fail_clearly(is_quiet=True):
        args = parse(argv, prog)
        from ..config.paths import require_inputs, require_paths
        require_inputs(args.config, args.checkpoint)
        require_paths(args.config, args.cfg_options, ('test_dataloader',))
        from ..training.run import test
        test(args.config, args.checkpoint, work_dir=args.work_dir, launcher=args.launcher,
             options=args.cfg_options)
