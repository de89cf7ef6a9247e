"""How good parts are: every source of parts against ground truth, by the same metrics."""
from copy import deepcopy
from pathlib import Path

import torch
from mmengine.dataset import default_collate
from mmengine.hooks import Hook

from ..registry import HOOKS
from .checkpoint import read_checkpoint
from .extract import without_flips
from .hooks import unwrapped
from .launch import evaluate, prepare

# What stands in a row of the tables: where the parts come from, and its name there. Learned parts
# have the name of their learner, to which another ranking of the foreground adds its own.
ROWS = {
    'learned': (dict(type='semmae.LearnedParts'), None),
    'learned-parts-border': (dict(type='semmae.LearnedParts', foreground='parts-border'),
                             ', foreground: parts unlike the border'),
    'learned-maps': (dict(type='semmae.LearnedParts', foreground='parts'),
                     ', foreground: highest map'),
    'learned-attention': (dict(type='semmae.LearnedParts', foreground='attention'),
                          ', foreground: class token'),
    'heads': (dict(type='semmae.HeadParts'), 'head attention'),
    'kmeans': (dict(type='semmae.KMeansParts'), 'k-means on tokens'),
    'kmeans-pooled': (dict(type='semmae.KMeansParts', is_pooled=True),
                      'k-means on tokens, one for all images'),
    'colour': (dict(type='semmae.ColourParts'), 'k-means on colour'),
    'voronoi': (dict(type='semmae.VoronoiParts'), 'Voronoi cells'),
    'voronoi-fixed': (dict(type='semmae.VoronoiParts', is_fixed=True),
                      'Voronoi cells, the same in all images')}
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

    num_images: evenly spaced ones of the test set, the same for every process.
    """

    def __init__(self, num_images=256):
        self.num_images = num_images

    @torch.no_grad()
    def before_test(self, runner):
        learner, data = unwrapped(runner.model), runner.test_loop.dataloader.dataset
        if getattr(learner.parts, 'is_pooled', False):
            step = max(1, len(data) // self.num_images)
            batch = default_collate([data[i] for i in range(0, len(data), step)])
            inputs = learner.data_preprocessor(dict(inputs=batch['inputs']))['inputs']
            learner.parts.fit(learner, inputs)


def part_quality(config, checkpoint, work_dir, masks=None, cub=None, rows=tuple(ROWS), name=None,
                 launcher='none', seed=0, options=None, batch_size=50):
    """Measure ``rows`` of a part learner and append a line for each number to results.jsonl.

    masks: (folder of images, folder of label masks: .png of the same relative paths, 0 is the
        background), or None. cub: folder of CUB-200-2011 with its landmarks, or None.
    name: of the data set in the tables; default 'CUB', or the folder of the images.
    Returns {row: {metric: value}}. The view is that of the config's training, without flips.
    """
    unknown = [row for row in rows if row not in ROWS]
    if unknown or (masks is None) == (cub is None):
        raise ValueError(f'unknown rows {unknown}, expected some of {", ".join(ROWS)}' if unknown
                         else 'expected masks=(images, labels) or cub=FOLDER, one of them')
    read_checkpoint(checkpoint)
    found = {}
    for row in rows:
        cfg = prepare(config, work_dir, launcher, options)
        if cfg.model.type != 'semmae.PartLearner':
            raise ValueError(f'{config} trains a {cfg.model.type}, expected a part learner, for '
                             'example mm_configs/semmae_parts.py')
        cfg.randomness = dict(cfg.get('randomness', {}), seed=seed)
        source, method = ROWS[row]
        cfg.model.parts = dict(source)
        against(cfg, masks, cub, name, batch_size)
        if row.startswith('learned-'):
            cfg.result.update(metric=FOREGROUND, variant=dict(
                id=row.removeprefix('learned'), method=method))
        elif method:
            cfg.result.stands_for = dict(id=row, method=method)
        found[row] = evaluate(cfg, checkpoint)
    return found


def against(cfg, masks, cub, name, batch_size):
    """Replace the config's training by a test against label masks or CUB's landmarks."""
    *view, pack = without_flips(cfg)
    pipeline = deepcopy([*view, dict(type='semmae.LoadPartTruth'), pack])
    if masks is not None:
        images, labels = map(str, masks)
        data = dict(type='semmae.PartDataset', data_root=images, label_root=labels)
        metrics, numbers = ['semmae.PartSegmentation'], SEGMENTATION
        name, split = name or Path(images).resolve().parent.name, Path(images).name
    else:
        data = dict(type='semmae.CUBParts', data_root=str(cub), split='all')
        metrics, numbers, name, split = ['semmae.LandmarkQuality'], LANDMARKS, name or 'CUB', 'test'
    for key in ('train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler', 'recipe'):
        cfg.pop(key, None)
    cfg.update(
        custom_hooks=[h for h in cfg.custom_hooks if h.type == 'semmae.ResultRecorder']
        + [dict(type='semmae.FitPartsHook')],
        test_cfg=dict(type='TestLoop'),
        test_dataloader=dict(
            batch_size=batch_size, num_workers=0, collate_fn=dict(type='default_collate'),
            sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=dict(data, pipeline=pipeline)),
        test_evaluator=[dict(type=m) for m in (*metrics, 'semmae.ForegroundQuality')],
        result=dict(task='parts', dataset=name, split=split, metric=[*numbers, *FOREGROUND]))
