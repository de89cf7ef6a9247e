"""Part quality: every source of parts against ground truth, by the same metrics."""
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from mmengine.dataset import default_collate
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook

from ..checkpoints.read import read_checkpoint
from ..models.layers import unwrapped
from ..progress_bar import track
from ..registry import HOOKS
from ..training.run import evaluate, prepare
from .photos import without_random_steps

# A row of the tables: where the parts come from, and its name. Learned parts have the name of their
# learner; a ranking of the foreground by its maps adds a text to this name.
ROWS: dict[str, tuple[dict, str | None]] = {
    'learned': (dict(type='semmae.LearnedParts'), None),
    'learned-parts-border': (dict(type='semmae.LearnedParts', foreground='parts-border'),
                             ': parts unlike those at the border'),
    'learned-maps': (dict(type='semmae.LearnedParts', foreground='parts'), ': highest part map'),
    'tokens-border': (dict(type='semmae.LearnedParts', foreground='border'),
                      'tokens unlike those at the border'),
    'centre': (dict(type='semmae.LearnedParts', foreground='centre'), 'near to the middle'),
    'heads': (dict(type='semmae.HeadParts'), 'head attention'),
    'kmeans': (dict(type='semmae.KMeansParts'), 'k-means on tokens'),
    'kmeans-pooled': (dict(type='semmae.KMeansParts', is_pooled=True),
                      'k-means on tokens, one for all images'),
    'colour': (dict(type='semmae.ColourParts'), 'k-means on colour'),
    'cells': (dict(type='semmae.CellParts'), 'fixed cells'),
    'voronoi': (dict(type='semmae.VoronoiParts'), 'Voronoi cells'),
    'voronoi-fixed': (dict(type='semmae.VoronoiParts', is_fixed=True),
                      'Voronoi cells, the same in all images')}
# Rankings of the foreground only.
RANKINGS = ('learned-parts-border', 'learned-maps', 'tokens-border', 'centre')
SEGMENTATION = ['parts/ARI', 'parts/NMI', 'parts/IoU', 'parts/object_ARI', 'parts/object_NMI',
                'parts/object_IoU', 'parts/pooled_NMI', 'parts/object_pooled_NMI',
                'parts/parts_used']
FOREGROUND = ['foreground/AUC', 'foreground/kept', 'foreground/kept_best',
              'foreground/precision', 'foreground/precision_chance']
LANDMARKS = ['landmarks/NMI', 'landmarks/ARI', 'landmarks/error', 'landmarks/constant_error',
             'landmarks/box_IoU']


@HOOKS.register_module()
class FitPartsHook(Hook):
    """Before a test, finds the centres of k-means with one set of centres for all images.

    Uses evenly spaced images, only training images if the data set marks them. The first process
    fits, and the others take its centres.
    """

    NUM_IMAGES = 256

    @torch.no_grad()
    def before_test(self, runner):
        learner, data = unwrapped(runner.model), runner.test_loop.dataloader.dataset
        if not getattr(learner.parts, 'is_pooled', False):
            return
        if is_main_process():
            usable = [i for i in range(len(data)) if data.get_data_info(i).get('is_train', True)]
            at = np.linspace(0, len(usable) - 1, min(self.NUM_IMAGES, len(usable))).round()
            batches = np.array_split([usable[int(i)] for i in at], -(-len(at) // 32))
            learner.parts.fit(learner, (self.images(learner, data, ids) for ids in batches))
        centres = [learner.parts.centres]
        broadcast_object_list(centres)
        learner.parts.centres = centres[0]

    @staticmethod
    def images(learner, data, ids):
        batch = default_collate([data[int(i)] for i in ids])
        return learner.data_preprocessor(dict(inputs=batch['inputs']))['inputs']


@HOOKS.register_module()
class BarHook(Hook):
    """Shows the progress of a test on stderr. what: its name there."""

    def __init__(self, what):
        self.what, self.steps = what, iter(())

    def before_test_epoch(self, runner):
        self.steps = track(range(len(runner.test_loop.dataloader)), self.what, unit='batches')
        next(self.steps, None)

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        next(self.steps, None)


@dataclass(frozen=True)
class MaskTruth:
    """Label masks as the ground truth: .png files at the same relative paths as the images.

    images, labels: folders. name: of the data set in the tables.
    background: the label outside objects.
    """

    images: str | Path
    labels: str | Path
    name: str
    background: int = 0

    def test(self):
        """(data set, metrics, ``result``) of the config of a test."""
        data = dict(type='semmae.PartDataset', data_root=str(self.images),
                    label_root=str(self.labels))
        return data, *against_labels(Path(self.images).name, self.background)


@dataclass(frozen=True)
class AnnotatedTruth:
    """The part annotations of a published data set as the ground truth.

    type: 'PartImageNet' or 'PascalPart'. root, split: of the data set.
    """

    type: str
    root: str | Path
    split: str
    name: str

    def test(self):
        """(data set, metrics, ``result``) of the config of a test."""
        data = dict(type=f'semmae.{self.type}', data_root=str(self.root), split=self.split)
        return data, *against_labels(self.split)


@dataclass(frozen=True)
class LandmarkTruth:
    """The landmarks of CUB-200-2011 as the ground truth. root: of the data set as published."""

    root: str | Path
    name: str = 'CUB'

    def test(self):
        """(data set, metrics, ``result``) of the config of a test."""
        data = dict(type='semmae.CUBParts', data_root=str(self.root), split='all')
        metrics = [dict(type='semmae.LandmarkQuality'), dict(type='semmae.ForegroundQuality')]
        return data, metrics, dict(split='test', metric=[*LANDMARKS, *FOREGROUND])


def against_labels(split, background=0):
    """Metrics and ``result`` of a test against label maps."""
    metrics = [dict(type=f'semmae.{kind}', background=background)
               for kind in ('PartSegmentation', 'ForegroundQuality')]
    return metrics, dict(split=split, background=background, metric=[*SEGMENTATION, *FOREGROUND])


def part_quality(learner, truth, work_dir, rows=tuple(ROWS), launcher='none', batch_size=50,
                 num_workers=0):
    """Measure ``rows`` of a part learner and append a line for each number to results.jsonl.

    learner: `LearnerSource`; its ``source`` is ignored. truth: `MaskTruth`, `AnnotatedTruth` or
    `LandmarkTruth`.
    Returns {row: {metric: value}}. The view is that of the config's training, without flips; all
    is computed in float32. The seed is that of the learner's training.
    """
    if unknown := [row for row in rows if row not in ROWS]:
        raise ValueError(f'unknown rows {unknown}, expected some of {", ".join(ROWS)}')
    meta = read_checkpoint(learner.checkpoint).get('meta') or {}
    seed = (meta.get('semmae') or {}).get('seed') or 0
    found = {}
    for row in rows:
        cfg = learner.at_grid(prepare(learner.config, work_dir, launcher, learner.options))
        cfg.randomness = dict(cfg.get('randomness', {}), seed=seed)
        is_random = row.startswith(('kmeans', 'colour', 'voronoi'))
        cfg.model.parts = dict(ROWS[row][0], **(dict(seed=seed) if is_random else {}))
        measure(cfg, truth, row)
        cfg.test_dataloader.update(batch_size=batch_size, num_workers=num_workers)
        found[row] = evaluate(cfg, learner.checkpoint)
    return found


def measure(cfg, truth, row):
    """Replace the config's training by a test of a row against a ground truth."""
    *view, pack = without_random_steps(cfg)
    pipeline = deepcopy([*view, dict(type='semmae.LoadPartTruth'), pack])
    data, metrics, result = truth.test()
    if row in (*RANKINGS, 'learned'):  # 'learned' has the foreground of the tokens' ranking
        result['metric'] = [m for m in result['metric']
                            if (row in RANKINGS) == m.startswith('foreground/')]
    if row.startswith('learned-'):
        result['variant'] = dict(id=row.removeprefix('learned'), method=ROWS[row][1])
    elif row != 'learned':
        result['stands_for'] = dict(id=row, method=ROWS[row][1])
    for key in ('train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler', 'recipe'):
        cfg.pop(key, None)
    cfg.update(
        custom_hooks=[h for h in cfg.custom_hooks if h.type == 'semmae.ResultRecorder']
        + [dict(type='semmae.FitPartsHook'), dict(type='semmae.BarHook', what=row)],
        test_cfg=dict(type='TestLoop'), test_evaluator=metrics,
        test_dataloader=dict(
            collate_fn=dict(type='default_collate'), dataset=dict(data, pipeline=pipeline),
            sampler=dict(type='DefaultSampler', shuffle=False)),
        result=dict(result, task='parts', dataset=truth.name))
