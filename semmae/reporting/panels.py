"""The curves of a folder of runs: for each stage the training loss, and validations beside it."""
import re
import warnings
from collections import defaultdict

from .curves import STYLES, band_curves, logged

# {type of the model: (heading, caption)} of stages that have a meaning of their own.
STAGES = {
    'SemMAE': ('Pre-training', 'Mean squared error on masked patches. SemMAE rises with alpha, '
               'because its masks become harder; curves of different masks are not a comparison.'),
    'PartLearner': ('Part learning', 'Reconstruction (Eq. 5) plus 0.03 times diversity (Eq. 6).')}
# Metrics that are drawn, the first that a stage logs; then any other.
METRICS = ('accuracy/top1', 'mIoU')
SIZE = 4.6, 3  # inches; its letters can be read on a phone
TRAINING = 'The mean over seeds is a line; the band goes from the lowest to the highest seed.'


def curve_figures(dirs, where) -> list[tuple]:
    """Draw the curves of `runs.work_dirs` below ``where``, as figures of `report.write_report`.

    A figure is of one folder of recipes (``cub/mae_p16`` and ``cub/semmae_p16``), with a line for
    each recipe and a band over its seeds.
    """
    stages: dict = defaultdict(lambda: defaultdict(list))
    for work in dirs:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')  # damaged lines are named by the tables
                found = logged(work.path)
        except FileNotFoundError:
            continue
        parent, _, name = work.recipe.rpartition('/')
        stages[parent, work.kind if work.kind in STAGES else ''][name].append(found)
    figures: list[tuple] = []
    for (parent, kind), recipes in sorted(stages.items()):
        names = sorted(recipes)
        for k in range(0, len(names), STYLES):
            part = {name: recipes[name] for name in names[k:k + STYLES]}
            figures += figure_of(parent, kind, part, where, len(figures))
    return figures


def figure_of(parent, kind, recipes, where, number):
    """[(heading, caption, paths, alternative text)] of one stage; [] if it logs no loss."""
    stage, caption = STAGES.get(kind, (parent or 'Training', ''))
    losses = {name: [training['loss'] for training, _ in seeds if 'loss' in training]
              for name, seeds in recipes.items()}
    losses = {name: seeds for name, seeds in losses.items() if seeds}
    keys = {key for seeds in recipes.values() for _, validation in seeds for key in validation}
    metric = next((key for key in METRICS if key in keys), min(keys, default=''))
    scores = {name: [validation[metric] for _, validation in seeds if metric in validation]
              for name, seeds in recipes.items()}
    if max((len(points) for seeds in scores.values() for points in seeds), default=0) < 2:
        scores = {}  # one validation is a number of the tables and no curve
    scores = {name: seeds for name, seeds in scores.items() if seeds}
    file = re.sub('[^A-Za-z0-9]+', '_', f'{number}_{stage}').strip('_').lower()
    paths = [band_curves(series, where / f'{what}_{file}.svg', steps, label, SIZE)
             for what, series, steps, label in (
                 ('loss', losses, 'iteration', 'training loss'),
                 ('validation', scores, 'epoch or iteration', metric)) if series]
    seen = ' and '.join(['training loss'] * bool(losses) + [f'validation {metric}'] * bool(scores))
    return [(f'{stage}: {seen}', f'{caption} {TRAINING}'.strip(), paths,
             f'{stage}: {seen}, one curve each: {", ".join({**losses, **scores})}')] * bool(paths)
