"""Run the rows behind the tables.   python tools/run_suite.py mini --only linprobe/semmae_p16

Suites are data: benchmarks/suite.py. What is done is skipped, what was stopped goes on. With
--checkpoint FILE the suite's tasks run on that file: a table from nothing but a checkpoint.
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main():
    from benchmarks.suite import SUITES
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('suite', choices=sorted(SUITES))
    parser.add_argument('--checkpoint', help='evaluate this file instead of own pre-trainings')
    parser.add_argument('--only', nargs='+', default=[], metavar='ROW')
    parser.add_argument('--dry-run', action='store_true', help='print the plan, run nothing')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0])
    parser.add_argument('--data', help='image folder for the self-supervised stages')
    parser.add_argument('--work-dir', help='default: work_dirs/<suite>')
    parser.add_argument('--jobs', type=int, default=1, help='runs at a time on this machine')
    args = parser.parse_args()

    from rich.console import Console

    from semmae.datasets.part_store import sample_images
    from semmae.engine.plan import execute, plan, show
    console = Console()
    try:
        suite, work_dir = SUITES[args.suite], args.work_dir or f'work_dirs/{args.suite}'
        images = args.data
        if images and suite.max_images:
            links = Path(work_dir) / 'images'
            images = links if args.dry_run else sample_images(images, links, suite.max_images)
        runs = plan(suite, work_dir, args.only, args.checkpoint, args.seeds, images,
                    gpus=count_gpus())
        if args.dry_run:
            return show(runs, console)
        execute(runs, jobs=args.jobs, console=console)
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        print(error, file=sys.stderr)
        sys.exit(2 if not isinstance(error, RuntimeError) else 1)
    print(f'Tables: python tools/make_tables.py {work_dir}' + (
        '' if any('/' in row.id and row.config for row in suite.rows) else ' --parts'))


def count_gpus():
    """GPUs of this machine, without importing torch where nvidia's driver is absent."""
    if not Path('/proc/driver/nvidia').exists():
        return 0
    import torch
    return torch.cuda.device_count()


if __name__ == '__main__':
    main()
