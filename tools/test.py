"""Evaluate a trained model.   python tools/test.py mm_configs/semmae_linprobe.py CHECKPOINT

Appends a line to results.jsonl in the work directory. Each tensor of the checkpoint must fit the
config. ``mim test semmae CONFIG --checkpoint CHECKPOINT`` calls this file.
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def parse(argv=None):
    from semmae.config.options import Options
    from semmae.training.errors import Parser
    parser = Parser(prog='tools/test.py', description=__doc__.split('\n', 1)[0])
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
    from semmae.config.options import read_config
    read_config(args.config, args.cfg_options)


def main():
    from semmae.training.errors import fail_clearly
    with fail_clearly(is_quiet=True):
        args = parse()
        from semmae.training.run import test
        test(args.config, args.checkpoint, work_dir=args.work_dir, launcher=args.launcher,
             options=args.cfg_options)


if __name__ == '__main__':
    main()
