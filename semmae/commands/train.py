"""Train any stage.

Part learning, pre-training, linear probing, fine-tuning and UPerNet are all configs. --resume
continues from the last checkpoint of the work directory; without it, a directory that has
checkpoints is refused.
Exit status: 0 done; 1 internal error (traceback); 2 a mistake in config or command (one line before
the first step), a NaN loss, a full disk or unreadable data; 129, 130, 143, 143 stopped by SIGHUP,
SIGINT, SIGTERM, SIGUSR1, with a checkpoint saved. A signal more than 5 seconds after the first ends
the run at once with the same status and without a new checkpoint. Signals are handled from the
beginning of the training; a signal during start-up ends the process as usual.
"""
import argparse


def parse(argv=None, prog='tools/train.py'):
    from ..config.options import Options
    from ..training.errors import Parser
    parser = Parser(prog=prog, description=__doc__.split('\n', 1)[0])
    parser.add_argument('config')
    parser.add_argument('--work-dir', help='default: work_dirs/<name of the config>')
    parser.add_argument('--resume', action='store_true', help='continue from the last checkpoint')
    parser.add_argument('--amp', action='store_true', help='mixed precision also if the '
                        'config has none; without a GPU bfloat16, if the CPU has it')
    parser.add_argument('--keep-batch', action='store_true',
                        help="accumulate gradients to the recipe's global batch")
    parser.add_argument('--accept-batch', action='store_true', help='pre-train at a global batch '
                        "that is not the recipe's; the results are marked")
    parser.add_argument('--allow-elastic', action='store_true',
                        help='resume on another number of processes, at the same global batch')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm'], default='none')
    parser.add_argument('--cfg-options', nargs='+', action=Options, default={},
                        metavar='KEY=VALUE', help='change existing keys of the config')
    parser.add_argument('--seed', type=int)
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def check(args, processes, nodes=1):
    """ValueError for a mistake in command or config, before ``processes`` are started."""
    from ..config.options import read_config
    from ..config.preflight import require_numbers
    from ..training.global_batch import require_batch
    cfg = read_config(args.config, args.cfg_options)
    require_numbers(cfg)
    require_batch(cfg, processes, args.config, args.keep_batch, args.accept_batch, nodes)


def main(argv=None, prog='tools/train.py'):
    from ..training.errors import fail_clearly
    with fail_clearly(is_quiet=True):
        args = parse(argv, prog)
        from ..config.paths import require_paths
        require_paths(args.config, args.cfg_options)
        from ..training.run import train
        train(args.config, work_dir=args.work_dir, resume=args.resume, amp=args.amp,
              launcher=args.launcher, options=args.cfg_options, seed=args.seed,
              keep_batch=args.keep_batch, accept_batch=args.accept_batch,
              allow_elastic=args.allow_elastic)
