"""Rows that several suites share: probes, extractions, part quality."""
from dataclasses import replace

from .rows import INIT, Command, Extract, Train

ROOT = 'train_dataloader.dataset.dataset.data_root'
STORE = 'train_dataloader.dataset.dataset.part_store'
# What differs between two learners on one encoder.
RANKINGS = ('learned', 'learned-parts-border', 'learned-maps')
PROBE_P8 = 'mm_configs/semmae_linprobe.py'
PROBE_P8_MAPS = 'mm_configs/ablations/linprobe_vit-base-p8_maps-foreground.py'
MAPS = 'semmae_p8_maps'  # its foreground is ranked by the part maps (Sec. 4.2)


def probed_parts(store, val, ranking=None):
    """Options of an 8x8 probe, which reads parts of both splits. ranking: of their foreground."""
    steps = {'train_dataloader.dataset.dataset': store, 'val_dataloader.dataset': val,
             'test_dataloader.dataset': val}
    options = {f'{data}.pipeline.LoadParts.store': f'{{{name}}}' for data, name in steps.items()}
    return options | ({f'{data}.pipeline.LoadParts.foreground': ranking for data in steps}
                      if ranking else {})


def with_val_store(row):
    """An 8x8 probe with its part stores; they rank the foreground as those of its pre-training."""
    if row.config != PROBE_P8:
        return row
    is_maps = row.id.split('/')[-1] == MAPS
    stores = ('store_28_maps', 'store_28_maps_val') if is_maps else ('store_28', 'store_28_val')
    return replace(row, config=PROBE_P8_MAPS if is_maps else row.config,
                   options={**row.options, **probed_parts(*stores)}, needs=(*row.needs, *stores))


def evaluations(tasks, recipes):
    """A row for each task (of ``tasks``: {task: config}) on each recipe."""
    return tuple(Train(f'{task}/{recipe}', 'results.jsonl', config, {INIT: f'{{{recipe}}}'},
                       needs=(recipe,))
                 for task, config in tasks.items() for recipe in recipes)


def extraction(config, learner, store, grid, images='{images}', ranking=None, **how):
    """Row ``store``: the parts of a folder of images. ranking: of the foreground, if not its own.
    """
    options = {'model.parts.foreground': ranking} if ranking else {}
    return Extract(store, 'manifest.json', config, images, grid, checkpoint=f'{{{learner}}}',
                   options=options, needs=(learner,), **how)


def quality(learner, config, against, rows=(), name=''):
    """Row ``quality/...``: learned parts and their baselines, compared with the truth."""
    return Command(f'quality/{name or learner}', 'tables.md', needs=(learner,), words=(
        'tools/part_quality.py', config, f'{{{learner}}}', *against,
        '--work-dir', '{work_dir}', *(('--rows', *rows) if rows else ())))
