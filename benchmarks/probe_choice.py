"""Does the held-out split choose a good setting? Every setting of a probe on the test images.

python benchmarks/probe_choice.py CONFIG --train STORE --test STORE --out FILE [--seeds 0 1 2]

CONFIG: of mm_configs/dense, whose classification probes are tried. The stores are those that a run
of it left in work_dirs/features. An analysis of the rule of choice, no result: it looks at the test
images with every setting, which results never do. FILE gets a line of JSON for each probe and seed:
the chosen setting, the best on the test and a fixed one (`FIXED`), their accuracies, and the mean
and 95 % interval of chosen minus best (`chosen_minus_best`).
"""
import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from semmae.config.options import read_config
from semmae.probes.features import Task
from semmae.probes.probe import available, choose
from semmae.probes.store import FeatureStore
from semmae.registry import MODELS

# The recipe without a grid: class token of the last layer, the middle of the learning rates.
FIXED = {'knn': dict(k=20), 'linear': dict(tokens='class', lr=4e-3), 'logistic': dict(C=1.),
         'attentive': dict(lr=1e-3, weight_decay=0.01)}
RESAMPLES = 1000


def accuracies(probe, fitted, settings, test, task):
    """(S, N) whether setting s is right on test image i."""
    index = np.arange(len(test))
    found = [torch.stack(list(probe.predict(fitted, s, test, index, task))).argmax(1).numpy()
             for s in range(len(settings))]
    return np.stack(found) == np.asarray(test.labels)


def chosen_minus_best(right, chosen, seed=0):
    """(mean, low, high) of the accuracy of ``chosen`` minus that of the best setting, in percent.

    right: (S, N) bool. The best of many settings on the images that judge it is too good by chance.
    So each resample of the images (out-of-bag bootstrap, Efron 1983) names the best setting, and
    the images that it left out judge both. low, high: the 95 % interval over the resamples.
    """
    random, images = np.random.default_rng(seed), right.shape[1]
    found = []
    for _ in range(RESAMPLES):
        drawn = random.integers(0, images, images)
        left_out = np.setdiff1d(np.arange(images), drawn)
        best = right[:, drawn].mean(1).argmax()
        found.append(100 * (right[chosen, left_out].mean() - right[best, left_out].mean()))
    values = np.mean(found), *np.percentile(found, (2.5, 97.5))
    return [round(float(value), 2) for value in values]


def fixed_setting(name, settings):
    """The number of the setting that `FIXED` names, on the last layer."""
    last = max(setting['layer'] for setting in settings)
    wanted = dict(FIXED[name], layer=last)
    return next(i for i, setting in enumerate(settings) if all(
        np.isclose(setting[k], v) if isinstance(v, float) else setting[k] == v
        for k, v in wanted.items()))


def analyse(name, probe, train, test, task, seed):
    """What a probe chose with a seed, beside the best on the test and the fixed setting."""
    settings = available(probe.settings(train.layers), train)
    chosen, _ = choose(probe, train, task, seed)
    fitted = probe.fit(train, np.arange(len(train)), settings, task, seed)
    right = accuracies(probe, fitted, settings, test, task)
    mean = 100 * right.mean(1)
    number, best, fixed = settings.index(chosen), int(mean.argmax()), fixed_setting(name, settings)
    return dict(
        probe=name, seed=seed, settings=len(settings), chosen=chosen, best=settings[best],
        fixed=settings[fixed], accuracy_chosen=round(mean[number], 2),
        accuracy_best=round(mean[best], 2), accuracy_fixed=round(mean[fixed], 2),
        accuracy_median=round(float(np.median(mean)), 2),
        chosen_minus_best=chosen_minus_best(right, number))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('config')
    parser.add_argument('--train', required=True)
    parser.add_argument('--test', required=True)
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument('--probes', nargs='+', default=list(FIXED), choices=list(FIXED))
    parser.add_argument('--seeds', nargs='+', type=int, default=[0])
    args = parser.parse_args()
    cfg = read_config(args.config)
    train, test, task = FeatureStore(args.train), FeatureStore(args.test), Task(**cfg.model.task)
    for name in args.probes:
        probe = MODELS.build({k: v for k, v in cfg.model.probes[name].items() if k != 'fraction'})
        for seed in args.seeds if name in ('linear', 'attentive') else args.seeds[:1]:
            line = json.dumps(dict(config=args.config, **analyse(
                name, probe, train, test, task, seed)))
            print(line, flush=True)
            with args.out.open('a') as file:
                file.write(line + '\n')


if __name__ == '__main__':
    main()
