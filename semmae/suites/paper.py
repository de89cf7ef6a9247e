"""The suites of the paper's sizes, and of the dense benchmark."""
import csv
from pathlib import Path

from .builders import (
    MAPS,
    PROBE_P8,
    RANKINGS,
    STORE,
    evaluations,
    extraction,
    quality,
    with_val_store,
)
from .rows import INIT, Suite, Train

# ------------------------------------------------------------------ the paper's sizes
_ab = 'mm_configs/ablations'
_parts = 'mm_configs/semmae_parts.py'
_variants = {f'parts_{name}': f'{_ab}/parts_vit-small_{name}.py' for name in (
    '7parts', '12parts', 'positions', 'noblur', 'nodiversity', 'sum_colours', 'painted')}
_train, _val = 'data/imagenet/train', 'data/imagenet/val'
_p8 = {f'semmae_p8_{name}': f'{_ab}/semmae_vit-base-p8_{name}.py' for name in (
    'alpha0', 'alpha1', '1to0_gamma1', 'gamma1_3', 'gamma1_2', 'gamma1', 'gamma3')}
_p8 |= {'semmae_p8': 'mm_configs/semmae_pretrain.py',
        'mae_p8_fg': f'{_ab}/mae_vit-base-p8_foreground.py'}
_paper_tasks = {
    'linprobe': {8: PROBE_P8, 16: f'{_ab}/linprobe_vit-base-p16.py'},
    'finetune': {8: 'mm_configs/semmae_finetune.py', 16: f'{_ab}/finetune_vit-base-p16.py'},
    **{task: {8: f'mm_configs/semmae_{task}.py', 16: f'{_ab}/{task}_vit-base-p16.py'}
       for task in ('inat19', 'cub', 'cars')},
    'ade20k': {16: 'mm_configs/semmae_upernet_ade20k.py'},
    'upernet_plain': {16: f'{_ab}/upernet_vit-base-p16_plain.py'},
    'segmenter': {16: 'mm_configs/semmae_segmenter_ade20k.py'},
    'linseg': {16: 'mm_configs/semmae_linseg_ade20k.py'},
    'knn': {8: 'mm_configs/semmae_knn.py', 16: f'{_ab}/knn_vit-base-p16.py'}}
_at = {p: {t: c[p] for t, c in _paper_tasks.items() if p in c} for p in (8, 16)}
_last = 'epoch_800.pth'
_simmim = {  # recipe: (patch size of the ViT, of the mask)
    'simmim_p32': (16, 32), 'simmim_p16': (16, 16), 'simmim_p8': (8, 8), 'simmim_p4': (4, 4)}

with (Path(__file__).parents[1] / 'reporting/paper_numbers.csv').open(newline='') as _file:
    _unavailable = {cell['row']: cell['recipe'] for cell in csv.DictReader(_file) if cell['recipe']}

PAPER = Suite(
    images=_train, tasks=_paper_tasks,
    foreign=('beit', 'dino', 'ibot', 'attmask', 'mocov3', 'mae_1600e', 'simmim', 'supervised_p16'),
    unavailable=_unavailable, complete=with_val_store,
    rows=(
        Train('parts', 'epoch_2.pth', _parts),
        *(Train(learner, 'epoch_2.pth', config) for learner, config in _variants.items()),
        *(quality(learner, config, ('--cub', 'data/CUB_200_2011'),
                  RANKINGS if learner != 'parts' else ())
          for learner, config in {'parts': _parts, **_variants}.items()),
        extraction(_parts, 'parts', 'store_28', 28),
        extraction(_parts, 'parts', 'store_28_val', 28, images=_val),
        extraction(_parts, 'parts', 'store_28_maps', 28, ranking='parts'),
        extraction(_parts, 'parts', 'store_28_maps_val', 28, images=_val, ranking='parts'),
        extraction(_parts, 'parts', 'store_14', 14),
        extraction(_parts, 'parts', 'store_14_heads', 14, source='heads'),
        Train('mae_p16', _last, f'{_ab}/mae_vit-base-p16.py'),
        Train('mae_p8', _last, f'{_ab}/mae_vit-base-p8.py'),
        Train('semmae_p16', _last, f'{_ab}/semmae_vit-base-p16.py', {STORE: '{store_14}'},
              needs=('store_14',)),
        Train('semmae_p16_ibot_parts', _last, f'{_ab}/semmae_vit-base-p16_ibot-parts.py',
              {STORE: '{store_14_heads}'}, needs=('store_14_heads',)),
        *(Train(recipe, _last, config, {STORE: '{store_28}'}, needs=('store_28',))
          for recipe, config in _p8.items()),
        Train(MAPS, _last, f'{_ab}/semmae_vit-base-p8_maps-foreground.py',
              {STORE: '{store_28_maps}'}, needs=('store_28_maps',)),
        *(Train(recipe, _last, f'{_ab}/simmim_vit-base-p{patch}_mask{masked}.py')
          for recipe, (patch, masked) in _simmim.items()),
        *(Train(f'finetune/{recipe}', 'results.jsonl', _paper_tasks['finetune'][max(patch, 8)],
                {INIT: f'{{{recipe}}}', 'model.backbone.patch_size': patch}, needs=(recipe,))
          for recipe, (patch, _) in _simmim.items()),
        *evaluations(_at[16], ('mae_p16', 'semmae_p16', 'semmae_p16_ibot_parts')),
        *map(with_val_store, evaluations(_at[8], (*_p8, MAPS, 'mae_p8'))),
        Train('finetune/vit', 'results.jsonl', f'{_ab}/scratch_vit-base-p16.py')))

# ------------------------------------------------------------------ any backbone, dense table
_dense = ('cub', 'cub25', 'imagenet', 'tiny_imagenet', 'ade20k', 'voc2012', 'pascal_context',
          'cityscapes', 'coco_stuff', 'camvid', 'nyu', 'upernet_ade20k', 'upernet_camvid')
DENSE = Suite(rows=(), images='data', is_dense=True, optional=('cub25', 'tiny_imagenet'), tasks={
    name: {0: f'mm_configs/dense/dense_{name}.py'} for name in _dense})
