"""The mini Table 3: differences to random masks, and the smallest difference it could detect.

python benchmarks/table3.py --true work_dirs/table3_true --learned work_dirs/table3_learned \
    --out benchmarks/results/table3

Reads the runs of the suites table3_true and table3_learned (one may be left out), copies their
result lines and writes a tables.md for each: mean and sample standard deviation over seeds, the
difference to random masks with its 95 % interval, and the smallest difference that this number of
seeds detects with probability 0.8. Differences are paired: a seed has the same initial weights,
order of images and noise in every row. Then statistics of the masks: how many parts stay visible,
and how well learned parts agree with true parts.
"""
import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from sklearn.metrics import adjusted_rand_score
from torch.nn.functional import one_hot

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from semmae.datasets.part_store import PartStore
from semmae.files import write_atomically
from semmae.functional.masking import part_guided_mask
from semmae.functional.parts import foreground_ids
from semmae.functional.patches import gather_positions
from semmae.reporting.tables import load_numbers
from semmae.results.results import read_results
from semmae.suites.builders import MAPS
from semmae.suites.small import ALPHA

RANDOM, UNTRAINED = 'mae_p8_fg', 'scratch'
PAPER = {cell.row.removeprefix('linprobe/'): float(cell.value)
         for cell in load_numbers().query('table == 3').itertuples()}
NAMES = {RANDOM: 'random', UNTRAINED: 'untrained'} | {
    recipe: (f'α = {start:g}' if start == end else f'α {start:g} to {end:g}, γ = {gamma:.2g}')
    for recipe, (start, end, gamma) in ALPHA.items()} | {
    MAPS: 'α 0 to 1, γ = 2, foreground by the part maps'}
CANDIDATES = 32


def accuracies(records):
    """{recipe: {seed: top-1}} of the linear probes.

    Raises ValueError if they have several protocols; `MAPS` may differ, it keeps other patches.
    """
    ways = {json.dumps(r['protocol'], sort_keys=True) for r in records
            if r['recipe'] not in (UNTRAINED, MAPS)}
    if len(ways) > 1 or any(r['status'] != 'ok' for r in records):
        raise ValueError(f'got {len(ways)} protocols, expected one, and results without NaN. '
                         'Remove runs of other code or length from the work directory')
    found = {}
    for record in records:
        recipe = record['row'].split('/')[1]
        found.setdefault(recipe, {})[record['seed']] = record['value']
    return {recipe: found[recipe] for recipe in NAMES if recipe in found}


def difference(a, b):
    """(mean, half width of the 95 % interval, standard deviation, n) of a - b over common seeds."""
    seeds = sorted(a.keys() & b.keys())
    ours, others = (np.array([side[seed] for seed in seeds]) for side in (a, b))
    low, high = stats.ttest_rel(ours, others).confidence_interval(.95)
    return (ours - others).mean(), (high - low) / 2, (ours - others).std(ddof=1), len(seeds)


def resolvable(sds, n, power=.8):
    """The difference that a paired t-test at 5 % finds with ``power``, for the pooled spread."""
    pooled = np.mean(np.square(sds)) ** .5
    return (stats.t.ppf(.975, n - 1) + stats.t.ppf(power, n - 1)) * pooled / n ** .5


def table(name, found):
    lines = [f'### Masks made of {name} parts', '',
             '| masks | linear probing, top-1 | n | difference to random | paper | difference |',
             '|---|---|---|---|---|---|']
    sds, n = [], np.inf
    for recipe, values in found.items():
        all_of = np.array(list(values.values()))
        text = f'{all_of.mean():.1f} ± {all_of.std(ddof=1):.1f}'
        to_random, paper = '', ''
        if recipe != RANDOM:
            mean, half, sd, num = difference(values, found[RANDOM])
            n = min(n, num)
            to_random = f'{mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f})'
            if recipe != UNTRAINED:
                sds.append(sd)
        if recipe in PAPER:
            paper = f'{PAPER[recipe] - PAPER[RANDOM]:+.1f}'
        lines.append(f'| {NAMES[recipe]} | {text} | {len(all_of)} | {to_random} | '
                     f'{PAPER.get(recipe, "")} | {paper} |')
    spread = difference(found['semmae_p8'], found[RANDOM])[2]
    wanted = PAPER['semmae_p8'] - PAPER[RANDOM]
    enough = next((k for k in range(2, 1000) if resolvable([spread], k) < wanted), '1,000 or more')
    return '\n'.join([*lines, '', (
        f'Smallest difference to random masks that {n} seeds find with probability 0.8: '
        f'{resolvable(sds, n):.1f} points (spread pooled over the rows); for γ = 2 alone '
        f'{resolvable([spread], n):.1f}. To find the {wanted:.1f} of the paper there, {enough} '
        'seeds would be needed.')])


def visible_parts(ids, truth, num_parts, alpha):
    """(parts with a visible patch, the same of the true parts), means over images.

    ids, truth: (N, K) parts and true parts of the candidates; masks are made of ``ids``.
    """
    mask = part_guided_mask(ids, num_parts, .75, alpha, generator=torch.Generator().manual_seed(0))
    return [((one_hot(x) * ~mask[..., None]).sum(1) > 0).sum(1).float().mean().item()
            for x in (ids, truth)]


def about_masks(stores, true):
    """Markdown on what the masks of each store were like."""
    lines = ['| parts | ARI with true parts | parts among the candidates | visible, α = 0 | '
             'visible, α = 1 | true parts visible, α = 0 | true parts visible, α = 1 |',
             '|---|---|---|---|---|---|---|']
    truth_of_all = torch.from_numpy(true.arrays()[0].copy()).long()
    for name, store in stores.items():
        all_ids, foreground = (torch.from_numpy(a.copy()).long() for a in store.arrays())
        keep = foreground_ids(foreground, CANDIDATES)
        ids, truth = (gather_positions(x, keep) for x in (all_ids, truth_of_all))
        there = (one_hot(ids).sum(1) > 0).sum(1).float().mean().item()
        seen = [visible_parts(ids, truth, store.num_parts, alpha) for alpha in (0., 1.)]
        ari = np.mean([adjusted_rand_score(a, b) for a, b in zip(
            truth[:1000].numpy(), ids[:1000].numpy())])
        lines.append(f'| {name} | {100 * ari:.0f} | {there:.1f} | {seen[0][0]:.1f} | '
                     f'{seen[1][0]:.1f} | {seen[0][1]:.1f} | {seen[1][1]:.1f} |')
    return '\n'.join(lines)


def report(name, runs, out):
    """Write results.jsonl and tables.md of the runs of a suite to ``out``; returns the Markdown."""
    records, problems = read_results(sorted(runs.glob('seed*/linprobe/*/results.jsonl')))
    if problems or not records:
        raise ValueError('; '.join(problems) or f'{runs} holds no results of linear probes')
    made = next(r for r in records if r['recipe'] == RANDOM)
    epochs = made['protocol']['pretraining']['epochs']
    commits = ', '.join(sorted({r['git_commit'][:7] for r in records}))
    true = PartStore('data/toy_table3/parts/train')
    stores = {'true': true} if name == 'true' else {
        f'learned, {path.parent.name}': PartStore(path)
        for path in sorted(runs.glob('seed*/store'))}
    text = '\n\n'.join([
        table(name, accuracies(records)), '### What the masks were like', about_masks(stores, true),
        f'{epochs} epochs, {len(true)} training images, masks at ratio 0.75 of {CANDIDATES} '
        f'candidates; ARI in percent, 1,000 images. Code of {commits}.', ''])
    out.mkdir(parents=True, exist_ok=True)
    for file, content in (('tables.md', text), ('results.jsonl', ''.join(
            json.dumps(record) + '\n' for record in records))):
        write_atomically(out / file, lambda f, content=content: f.write(content.encode()))
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    for name in ('true', 'learned'):
        parser.add_argument(f'--{name}', type=Path, help=f'work directory of table3_{name}')
    parser.add_argument('--out', type=Path, required=True)
    args = parser.parse_args()
    for name in ('true', 'learned'):
        if getattr(args, name):
            print(report(name, getattr(args, name), args.out / name))


if __name__ == '__main__':
    main()
