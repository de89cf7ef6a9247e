"""Curves from log files: losses, validations, alpha. Seeds of one recipe are a line and a band."""
import math
import warnings
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..results.mmengine_logs import SCALARS, scalar_lines
from ..results.results import finite
from .figures import save

LINES = ('#008DF9', '#A40122', '#009F81', '#8400CD', '#FF6E3A', '#333333')  # dark enough for a line
GRID = '#e4e4e4'
STYLES = len(LINES) * 3  # lines of one picture that look different


def loss_curves(series, path, xlabel='iteration', ylabel='loss'):
    """Curves {title: [(step, loss)]}, one line each; NaN and infinity leave a gap."""
    return band_curves({title: [points] for title, points in series.items()}, path, xlabel, ylabel)


def band_curves(series, path, xlabel='iteration', ylabel='loss', size=(6.4, 4)):
    """Curves {title: [[(step, value)] of each seed]}: the mean, and a band from lowest to highest.

    Steps that not all seeds have are left out. A title says of how many seeds it is the mean.
    size: (width, height) in inches.
    """
    if not any(points for seeds in series.values() for points in seeds):
        raise ValueError(f'nothing to draw: the series {list(series)} hold no point')
    figure, axes = canvas(xlabel, ylabel, size)
    for k, (title, seeds) in enumerate(series.items()):
        frame = pd.concat([pd.Series({float(step): value for step, value in points}, dtype=float)
                           for points in seeds], axis=1,
                          join='inner').sort_index().replace([np.inf, -np.inf], np.nan)
        style = dict(color=LINES[k % len(LINES)], clip_on=False)
        if len(seeds) > 1:
            title += f' (mean of {len(seeds)} seeds)'
            axes.fill_between(frame.index, frame.min(axis=1), frame.max(axis=1), alpha=.2,
                              linewidth=0, **style)
        axes.plot(frame.index, frame.mean(axis=1, skipna=False), label=title, linewidth=1.8,
                  linestyle=('-', '--', ':')[k // len(LINES) % 3],
                  marker='.' if len(frame) < 3 else None, **style)
    figure.set_figheight(figure.get_figheight() + .17 * max(0, len(series) - 3))
    legend = figure.legend(loc='outside lower left', frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)  # show a dollar in a title literally
    return save(figure, path)


def training_curves(work_dirs, path, key='loss'):
    """Curves of one logged scalar, one line for each work directory, named by its folder.

    Directories of the same name are named by their whole paths.
    """
    work_dirs = [Path(work_dir) for work_dir in work_dirs]
    names = Counter(work_dir.resolve().name for work_dir in work_dirs)
    series = {}
    for work_dir in work_dirs:
        scalars, name = read_scalars(work_dir), work_dir.resolve().name
        if key not in scalars:
            raise ValueError(f'{work_dir} logs no {key}; expected one of '
                             f"{', '.join(sorted(scalars)) or 'nothing'}")
        series[name if names[name] == 1 else str(work_dir)] = scalars[key]
    steps = 'iteration' if key == 'loss' else 'step (iteration or epoch)'  # see read_scalars
    return loss_curves(series, path, steps, key)


def alpha_curves(path, gammas=(1 / 3, 1 / 2, 1, 2, 3)):
    """alpha = progress ** gamma over the pre-training (Fig. 3; Algorithm 1, line 7)."""
    figure, axes = canvas('share of the pre-training', 'α')
    progress = np.linspace(0, 1, 201)
    for k, gamma in enumerate(gammas):
        name = Fraction(gamma).limit_denominator(100)
        axes.plot(progress, progress ** gamma, color=LINES[k % len(LINES)], linewidth=1.8,
                  linestyle=('-', '--', ':')[k // len(LINES) % 3], label=f'γ = {name}')
    axes.set(xlim=(0, 1), ylim=(0, 1.01), title='α = 0: patches of every part;  α = 1: whole parts')
    axes.legend(frameon=False, loc='upper left')
    return save(figure, path)


def canvas(xlabel, ylabel, size=(6.4, 4)):
    """(figure, axes) in the common style of curves. Without pyplot: no global state, no display."""
    figure = Figure(figsize=size, dpi=150, layout='constrained')
    axes = figure.add_subplot(xlabel=xlabel, ylabel=ylabel)
    axes.title.set_fontsize(10)
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(color=GRID, linewidth=.7)
    return figure, axes


def read_scalars(work_dir) -> dict:
    """{key: [(step, value)]} of all runs in a work directory, sorted by step, as mmengine logs it.

    Every start has its own folder, named by its time. All starts are joined, and the last value of
    a step counts. Steps are iterations for training and, in epoch-based runs, epochs for
    validation. The times of validations are left out, since training has the same keys. Damaged
    lines are skipped with a warning that counts them.
    """
    training, validation = logged(work_dir)
    return {key: sorted({**dict(training.get(key, ())), **dict(validation.get(key, ()))}.items())
            for key in {**training, **validation}}


def logged(work_dir) -> tuple[dict, dict]:
    """`read_scalars` as two: of training, and of validations."""
    files = sorted(Path(work_dir).glob(f'*/{SCALARS}'))
    if not files:
        raise FileNotFoundError(f'no */{SCALARS} below {work_dir}; expected the work '
                                'directory of a training (tools/train.py --work-dir)')
    found: tuple[dict, dict] = {}, {}
    problems: list[str] = []
    for file in files:
        for scalars in scalar_lines(file, problems):
            is_training = 'iter' in scalars
            left_out = ('step',) if is_training else ('step', 'time', 'data_time')
            for key, value in scalars.items():
                if key not in left_out and isinstance(value, (int, float)):
                    number = finite(value)  # NaN leaves a gap in the curve
                    found[not is_training].setdefault(key, {})[scalars['step']] = (
                        math.nan if number is None else number)
    for problem in problems:
        warnings.warn(problem, stacklevel=3)
    training, validation = ({key: sorted(points.items()) for key, points in kind.items()}
                            for kind in found)
    return training, validation
