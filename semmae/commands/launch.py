"""Start a training or a test in several processes of this machine.

    semmae launch train PROCESSES CONFIG ...
    semmae launch test PROCESSES CONFIG CHECKPOINT ...

tools/dist_train.sh and tools/dist_test.sh call it. Several machines: the environment has NNODES,
NODE_RANK, MASTER_ADDR and PORT, as tools/dist_train.sh describes them.
"""
import argparse

from ..shipped import CommandParser


def main(argv=None, prog='launch.py'):
    parser = CommandParser(prog=prog, description=__doc__,
                           formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('command', choices=['train', 'test'])
    parser.add_argument('processes', metavar='PROCESSES')
    parser.add_argument('arguments', nargs=argparse.REMAINDER, help='of the command')
    args = parser.parse_args(argv)
    from ..training.errors import fail_clearly
    with fail_clearly():
        from ..training.processes import launch
        from . import test, train
        return launch(dict(train=train, test=test)[args.command], args.processes, args.arguments)
