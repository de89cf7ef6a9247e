"""Run the rows behind the tables.

Suites are data: semmae/suites/catalogue.py. Finished rows are skipped, stopped ones resume. With
--checkpoint FILE the suite's tasks run on that file: a table from a checkpoint alone.
The dense suite takes any backbone: run_suite.py dense --timm vit_small_patch14_dinov2.lvd142m
Under Slurm: PARTITION=NAME GPUS=16 python tools/run_suite.py paper --launcher slurm --jobs 4, with
GPUS_PER_NODE and CPUS_PER_TASK as for tools/slurm_train.sh. Snakemake runs the rows and gets the
arguments after --, as in run_suite.py mini -- --profile FOLDER.
"""
import argparse
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from ..shipped import CommandParser, as_typed_here


def parse(suites, argv=None, prog='run_suite.py'):
    """The arguments; ``snakemake`` has those after ``--``. suites: their names."""
    parser = CommandParser(prog=prog, description=__doc__.split('\n', 1)[0])
    parser.add_argument('suite', choices=sorted(suites))
    parser.add_argument('--checkpoint', help='evaluate this file instead of own pre-trainings')
    parser.add_argument('--only', nargs='+', metavar='ROW', help='these rows and what they need; '
                        'of the dense suite data sets, or DATASET/PROBE')
    parser.add_argument('--timm', metavar='NAME', help='dense suite: a model of timm, with its '
                        'weights (downloaded) or those of --checkpoint FILE')
    parser.add_argument('--untrained', action='store_true',
                        help='dense suite: the --timm model with random weights')
    parser.add_argument('--interpolate-offset', type=float, metavar='N', help='with --checkpoint: '
                        'how its code resizes positions; 0.1 for DINO, iBOT and AttMask, else 0')
    parser.add_argument('--dry-run', action='store_true',
                        help='print the plan, what it costs and its commands; run nothing')
    parser.add_argument('--tflops', type=float, metavar='N', help='for the times of --dry-run: '
                        'the rate of one device, in TFLOP/s')
    parser.add_argument('--bandwidth', type=float, metavar='N', help="with --tflops: its memory's, "
                        'in GB/s; a time is then the longer of computing and moving')
    parser.add_argument('--probe', action='store_true',
                        help='measure both on this machine, in a few seconds')
    parser.add_argument('--measured', nargs='+', default=[], metavar='DIR', help='for the times '
                        'of --dry-run: work directories of earlier runs, besides --work-dir')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0])
    parser.add_argument('--data', help='image folder for the self-supervised stages')
    parser.add_argument('--work-dir', help='default: work_dirs/<suite>')
    parser.add_argument('--jobs', type=int, default=1, help='runs at a time')
    parser.add_argument('--launcher', choices=['pytorch', 'slurm'], help='start trainings with '
                        'tools/dist_train.sh, or each row as a job of Slurm; default: the former '
                        "on this machine's GPUs if there are several, else neither")
    parser.add_argument('--gpus', type=int, help='at most this many for a training (mini suites: '
                        'one process); without a GPU, processes. Default: those of this machine; '
                        'under Slurm $GPUS, or 8')
    parser.add_argument('--amp', action='store_true', help='mixed precision also without a GPU: '
                        'bfloat16 on CPUs that have it, in trainings whose config has it')
    parser.add_argument('--compile', action='store_true',
                        help='torch.compile in every training')
    parser.add_argument('--keep-going', action='store_true',
                        help='after a failure still run what does not need the failed row')
    words = sys.argv[1:] if argv is None else list(argv)
    end = words.index('--') if '--' in words else len(words)
    args = parser.parse_args(words[:end], argparse.Namespace(snakemake=words[end + 1:]))
    if args.interpolate_offset is not None and not args.checkpoint:
        parser.error('--interpolate-offset goes with --checkpoint FILE')
    if args.bandwidth and not args.tflops or args.probe and args.tflops:
        parser.error('--bandwidth goes with --tflops, and --probe with neither: got '
                     f'--tflops {args.tflops}, --bandwidth {args.bandwidth}')
    return args


def main(argv=None, prog='run_suite.py'):
    try:
        run(argv, prog)
    except KeyboardInterrupt:  # the running rows have ended with a checkpoint
        print('Stopped. The same command continues.', file=sys.stderr)
        sys.exit(130)


def run(argv, prog):
    """Run the suite that the command line names; SystemExit for mistakes and failures."""
    from ..suites.catalogue import SUITES
    args = parse(SUITES, argv, prog)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the running rows too

    from rich.console import Console

    console = Console(soft_wrap=True)  # nothing is folded, also in a pipe
    try:
        require_inputs(args)
        from ..datasets.part_store import list_images, sample_images
        from ..suites.engine import SLURM, execute
        from ..suites.rows import Train
        from ..suites.schedule import plan
        suite, work_dir = SUITES[args.suite], args.work_dir or f'work_dirs/{args.suite}'
        images, known = args.data or suite.images, {}
        if args.data and suite.max_images:
            links = Path(work_dir) / 'images'
            known = {str(links): min(len(list_images(images)), suite.max_images)}
            images = links if args.dry_run else sample_images(images, links, suite.max_images)
        suite = replace(suite, images=str(images), amp=args.amp,
                        compile=args.compile)
        gpus = args.gpus or (int(os.environ.get('GPUS', 8)) if args.launcher == 'slurm'
                             else count_gpus())
        suite, only, checkpoint = of_backbone(suite, args)
        runs = plan(suite, work_dir, only, checkpoint, args.seeds, gpus, args.launcher,
                    args.interpolate_offset)
        if args.dry_run:
            from ..suites.costs import costs, show
            with console.status('counting what each row costs'):
                device = device_of(args)
                found = costs(runs, device, [work_dir, *args.measured], known)
            return show(runs, found, console, device)
        execute(runs, work_dir, args.jobs, console, args.keep_going,
                [*(SLURM if args.launcher == 'slurm' else []), *args.snakemake])
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        print(as_typed_here(str(error)), file=sys.stderr)
        sys.exit(2 if not isinstance(error, RuntimeError) else 1)
    print(as_typed_here(f'Tables: python tools/make_tables.py {work_dir}') + (
        '' if any('/' in row.id and isinstance(row, Train) for row in suite.rows) else ' --parts'))


def require_inputs(args):
    """Raises FileNotFoundError for a missing file or folder, before torch is loaded."""
    from ..files import require_checkpoint, require_folder
    if not args.untrained:
        require_checkpoint(args.checkpoint)
    if args.data:
        require_folder(args.data)


def of_backbone(suite, args):
    """(suite, rows or None for all, checkpoint or None); the dense suite gets the rows to run."""
    if suite.is_dense:
        from ..suites.dense import dense_rows
        rows = dense_rows(suite, args.timm, args.checkpoint, args.only or (),
                          args.interpolate_offset, args.untrained)
        return replace(suite, rows=tuple(rows)), None, None
    if args.timm or args.untrained:
        raise ValueError('--timm and --untrained go with the dense suite: python '
                         'tools/run_suite.py dense --timm NAME')
    return suite, args.only, args.checkpoint


def device_of(args):
    """The `Device` of the flags, or None."""
    from ..suites.roofline import Device, probe
    if args.probe:
        return probe(*(('cuda', 'bfloat16') if count_gpus() else ('cpu', 'float32')))
    return Device(args.tflops * 1e12, (args.bandwidth or float('inf')) * 1e9) if (
        args.tflops) else None


def count_gpus():
    """GPUs of this machine, without importing torch where nvidia's driver is absent."""
    if not Path('/proc/driver/nvidia').exists():
        return 0
    import torch
    return torch.cuda.device_count()
