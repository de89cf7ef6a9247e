"""How long a suite takes on clusters of several sizes: a discrete simulation, nothing is run.

python benchmarks/makespan.py paper --tflops 400 --bandwidth 3350 --gpus 8 64 512 \\
    --out benchmarks/results/makespan_paper.md

The length of a row is the roofline lower bound of the cost model (`semmae.suites.costs`), so real
runs are longer. A training gets the most GPUs that divide its recipe's batch, at most
--gpus-of-a-run. Rows start as soon as what they need is done and enough GPUs are free, those with
the longest chain of rows after them first. Rows of unknown cost (part quality) take no time.
"""
import argparse
import heapq
import itertools
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pandas as pd

from semmae.files import write_atomically
from semmae.suites.catalogue import SUITES
from semmae.suites.costs import costs
from semmae.suites.roofline import Device
from semmae.suites.schedule import plan


def lengths(runs, device):
    """{product: seconds} of the rows of a plan."""
    return {run.product: cost.seconds or 0. for run, cost in zip(runs, costs(runs, device))}


def chains(runs, seconds):
    """{product: (seconds, ids) of the longest chain of rows that starts with it}."""
    found = {}
    for run in reversed(runs):  # a plan has each row after those that it needs
        after = [found[r.product] for r in runs if run.product in r.needs]
        longest, ids = max(after, default=(0., ()))
        found[run.product] = (longest + seconds[run.product], (run.id, *ids))
    return found


def simulate(runs, seconds, gpus):
    """(seconds until the last row ends, GPU seconds in use) on ``gpus``."""
    chain, order = chains(runs, seconds), itertools.count()
    waiting = sorted(runs, key=lambda run: -chain[run.product][0])
    now, free, used, done, running = 0., gpus, 0., set(), []
    planned = {run.product for run in runs}
    while waiting or running:
        for run in list(waiting):
            if free >= run.processes and done >= planned & set(run.needs):
                waiting.remove(run)
                free -= run.processes
                used += seconds[run.product] * run.processes
                heapq.heappush(running, (now + seconds[run.product], next(order), run))
        now, _, run = heapq.heappop(running)
        free += run.processes
        done.add(run.product)
    return now, used


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('suite', choices=sorted(SUITES))
    parser.add_argument('--tflops', type=float, required=True)
    parser.add_argument('--bandwidth', type=float, required=True, help='GB/s')
    parser.add_argument('--gpus', type=int, nargs='+', default=[8, 64, 512])
    parser.add_argument('--gpus-of-a-run', type=int, default=16)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    parser.add_argument('--out', type=Path)
    args = parser.parse_args(arguments)
    device = Device(args.tflops * 1e12, args.bandwidth * 1e9)
    rows, known = [], {}
    for gpus in args.gpus:
        runs = plan(SUITES[args.suite], 'work_dirs/none', seeds=args.seeds,
                    gpus=min(gpus, args.gpus_of_a_run))
        most = max(run.processes for run in runs)
        if most not in known:
            known[most] = lengths(runs, device)
        seconds = known[most]
        length, used = simulate(runs, seconds, gpus)
        chain = max(chains(runs, seconds).values())
        rows.append({'GPUs': gpus, 'hours': length / 3600,
                     'idle share': 1 - used / (length * gpus),
                     'longest chain, hours': chain[0] / 3600, 'its rows': ' > '.join(chain[1]),
                     'GPU hours': used / 3600, 'rows': len(runs)})
    words = sys.argv[1:] if arguments is None else arguments
    text = pd.DataFrame(rows).to_markdown(index=False, floatfmt='.3g') + (
        f'\n\nLower bounds at {device}, at most {args.gpus_of_a_run} GPUs for a training. Simulated'
        f' by: python benchmarks/makespan.py {shlex.join(words)}\n')
    if args.out:
        write_atomically(args.out, lambda f: f.write(text.encode()))
    print(text)


if __name__ == '__main__':
    main()
