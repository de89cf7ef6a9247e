"""The smallest difference that an experiment can find, from the spread of a pilot.

python benchmarks/detectable.py PATH... --row mae_p16 --runs 3

PATH: results.jsonl, or folders that hold some. Prints a line for each task and metric of the row:
the number of runs in the pilot, their mean and standard deviation, and the difference that ``runs``
runs on each side find in 80 % of such experiments (`semmae.results.statistics`). The deviation of
three runs is itself uncertain: its 95 % interval reaches from 0.52 to 6.3 times its value.
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pandas as pd

from semmae.results.protocol import is_percent
from semmae.results.results import read_results
from semmae.results.statistics import detectable_difference


def table(records, recipe, runs, power=.8):
    """A row for each task, data set and metric of ``recipe`` with at least two runs.

    recipe: the last word of the results' row, for example mae_p16. Values are in percent.
    """
    rows = pd.DataFrame([r for r in records if r['row'].split('/')[-1] == recipe and is_percent(r)])
    if rows.empty:
        raise ValueError(f'no results of {recipe}, expected at least two runs of it')
    found = rows.groupby(['task', 'dataset', 'metric']).value.agg(['count', 'mean', 'std'])
    found = found[found['count'] > 1]
    if found.empty:
        raise ValueError(f'got one run of {recipe}, expected at least two: train with another seed')
    found[f'detectable with {runs} runs'] = [
        detectable_difference(spread, runs, power) for spread in found['std']]
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('paths', nargs='+')
    parser.add_argument('--row', required=True, help='recipe of the pilot, for example mae_p16')
    parser.add_argument('--runs', type=int, default=3, help='runs on each side')
    args = parser.parse_args()
    records, problems = read_results(args.paths)
    try:
        print(table(records, args.row, args.runs).round(2).to_markdown())
    except ValueError as error:
        problems.append(str(error))
        parser.exit(2, '\n'.join(problems) + '\n')
    for problem in problems:
        print(problem, file=sys.stderr)


if __name__ == '__main__':
    main()
