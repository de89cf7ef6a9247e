"""How good parts are: every source of parts against ground truth, by the same metrics."""
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from mmengine.dataset import default_collate
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook

from ..checkpoints.read import read_checkpoint
from ..models.layers import unwrapped
from ..registry import HOOKS
from ..training.run import evaluate, prepare
from .extract import without_random_steps

# What stands in a row of the tables: where the parts come from, and its name there. Learned parts
# have the name of their learner, to which a ranking of the foreground by its maps adds its own.
ROWS = {
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
    'voronoi': (dict(type='semmae.VoronoiParts'), 'Voronoi cells'),
    'voronoi-fixed': (dict(type='semmae.VoronoiParts', is_fixed=True),
                      'Voronoi cells, the same in all images')}
# These are rankings of the foreground only.
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
    """Before a test, k-means with one set of centres for all images finds these centres.

    num_images: evenly spaced ones; training images, where the data set says which they are. The
        first process fits, the others take its centres.
    """

    def __init__(self, num_images=256):
        self.num_images = num_images

    @torch.no_grad()
    def before_test(self, runner):
        learner, data = unwrapped(runner.model), runner.test_loop.dataloader.dataset
        if not getattr(learner.parts, 'is_pooled', False):
            return
        if is_main_process():
            usable = [i for i in range(len(data)) if data.get_data_info(i).get('is_train', True)]
            at = np.linspace(0, len(usable) - 1, min(self.num_images, len(usable))).round()
            batches = np.array_split([usable[int(i)] for i in at], -(-len(at) // 32))
            learner.parts.fit(learner, (self.images(learner, data, ids) for ids in batches))
        centres = [learner.parts.centres]
        broadcast_object_list(centres)
        learner.parts.centres = centres[0]

    @staticmethod
    def images(learner, data, ids):
        batch = default_collate([data[int(i)] for i in ids])
        return learner.data_preprocessor(dict(inputs=batch['inputs']))['inputs']


def part_quality(config, checkpoint, work_dir, masks=None, cub=None, rows=tuple(ROWS), name='CUB',
                 background=0, grid=None, launcher='none', options=None, batch_size=50,
                 num_workers=0):
    """Measure ``rows`` of a part learner and append a line for each number to results.jsonl.

    masks: (folder of images, folder of label masks: .png of the same relative paths), or None; the
        label ``background`` is no part of an object. cub: folder of CUB-200-2011, or None.
    name: of the data set in the tables. grid: patches a side; None: the config's.
    Returns {row: {metric: value}}. The view is that of the config's training, without flips; all
    is computed in float32. The seed is that of the learner's training.
    """
    unknown = [row for row in rows if row not in ROWS]
    if unknown or (masks is None) == (cub is None):
        raise ValueError(f'unknown rows {unknown}, expected some of {", ".join(ROWS)}' if unknown
                         else 'expected masks=(images, labels) or cub=FOLDER, one of them')
    meta = read_checkpoint(checkpoint).get('meta') or {}
    seed = (meta.get('semmae') or {}).get('seed') or 0
    found = {}
    for row in rows:
        cfg = prepare(config, work_dir, launcher, options)
        if cfg.model.type != 'semmae.PartLearner':
            raise ValueError(f'{config} trains a {cfg.model.type}, expected a part learner, for '
                             'example mm_configs/semmae_parts.py')
        cfg.randomness = dict(cfg.get('randomness', {}), seed=seed)
        cfg.model.encoder.grid = grid or cfg.model.encoder.grid
        source, method = ROWS[row]
        is_random = row.startswith(('kmeans', 'colour', 'voronoi'))
        cfg.model.parts = dict(source, seed=seed) if is_random else dict(source)
        against(cfg, masks, cub, background)
        cfg.test_dataloader.update(batch_size=batch_size, num_workers=num_workers)
        cfg.result.dataset = name
        if row in (*RANKINGS, 'learned'):  # whose foreground is that of the tokens
            cfg.result.metric = [m for m in cfg.result.metric
                                 if (row in RANKINGS) == m.startswith('foreground/')]
        if row.startswith('learned-'):
            cfg.result.variant = dict(id=row.removeprefix('learned'), method=method)
        elif method:
            cfg.result.stands_for = dict(id=row, method=method)
        found[row] = evaluate(cfg, checkpoint)
    return found


def against(cfg, masks, cub, background):
    """Replace the config's training by a test against label masks or CUB's landmarks."""
    *view, pack = without_random_steps(cfg)
    pipeline = deepcopy([*view, dict(type='semmae.LoadPartTruth'), pack])
    if masks is not None:
        images, labels = map(str, masks)
        data = dict(type='semmae.PartDataset', data_root=images, label_root=labels)
        metrics = [dict(type='semmae.PartSegmentation', background=background),
                   dict(type='semmae.ForegroundQuality', background=background)]
        result = dict(split=Path(images).name, metric=[*SEGMENTATION, *FOREGROUND],
                      background=background)
    else:
        data = dict(type='semmae.CUBParts', data_root=str(cub), split='all')
        metrics = [dict(type='semmae.LandmarkQuality'), dict(type='semmae.ForegroundQuality')]
        result = dict(split='test', metric=[*LANDMARKS, *FOREGROUND])
    for key in ('train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler', 'recipe'):
        cfg.pop(key, None)
    cfg.update(
        custom_hooks=[h for h in cfg.custom_hooks if h.type == 'semmae.ResultRecorder']
        + [dict(type='semmae.FitPartsHook')],
        test_cfg=dict(type='TestLoop'), test_evaluator=metrics,
        test_dataloader=dict(
            collate_fn=dict(type='default_collate'), dataset=dict(data, pipeline=pipeline),
            sampler=dict(type='DefaultSampler', shuffle=False)),
        result=dict(result, task='parts', dataset=''))
