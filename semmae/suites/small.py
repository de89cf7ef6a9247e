"""Suites for two CPU cores: toy data, Table 3 on it, and small sets of photographs."""
from dataclasses import replace

from .builders import (
    MAPS,
    RANKINGS,
    ROOT,
    STORE,
    evaluations,
    extraction,
    probed_parts,
    quality,
)
from .rows import INIT, Command, Extract, Suite, ToyData, Train

# ------------------------------------------------------------------ two CPU cores, minutes
TOY_MASKS = ('--masks', 'data/toy/imagenet/val', 'data/toy/imagenet/part_labels/val',
             '--name', 'toy')
_mini = 'mm_configs/mini'
# The longest first, so that two at a time end together.
_mini_tasks = {'ade20k': f'{_mini}/semmae_upernet_ade20k_mini.py',
               'cub': f'{_mini}/semmae_cub_mini.py',
               'linprobe': f'{_mini}/linprobe_p16_mini.py'}
MINI = Suite(
    images='data/toy/imagenet/train', max_images=3000, is_mini=True,
    tasks={task: {8: config} for task, config in _mini_tasks.items()},
    rows=(
        ToyData('data', 'data/toy/toy.json', 'data/toy', is_shared=True),
        Train('mae_p16', 'epoch_16.pth', f'{_mini}/mae_p16_mini.py', {ROOT: '{images}'},
              needs=('data',), is_alone=True),
        Train('parts', 'epoch_3.pth', f'{_mini}/semmae_parts_mini.py',
              {ROOT: '{images}', 'model.encoder.checkpoint': '{mae_p16}'}, needs=('mae_p16',)),
        quality('parts', f'{_mini}/semmae_parts_mini.py', TOY_MASKS,
                ('learned', 'tokens-border', 'heads', 'kmeans', 'colour', 'voronoi')),
        extraction(f'{_mini}/semmae_parts_mini.py', 'parts', 'store_8', 8),
        Train('semmae_p16', 'epoch_16.pth', f'{_mini}/semmae_p16_mini.py',
              {ROOT: '{images}', STORE: '{store_8}'}, needs=('store_8',)),
        *evaluations(_mini_tasks, ('mae_p16', 'semmae_p16')),
        Train('linprobe/scratch', 'results.jsonl', _mini_tasks['linprobe'],
              {'model.backbone.init_cfg': None}, needs=('data',)),
        Command('report', 'report.html', words=(
            'tools/make_report.py', '{seed_dir}', '--images', '{images}',
            '--out', '{work_dir}/report.html'),
            needs=(*(f'{task}/{recipe}' for task in _mini_tasks
                     for recipe in ('mae_p16', 'semmae_p16')), 'linprobe/scratch',
                   'quality/parts'))))

# ------------------------------------------------------------------ the same, shorter: quick start
_lengths = {  # config: train_cfg; schedules follow
    f'{_mini}/mae_p16_mini.py': dict(max_epochs=5),
    f'{_mini}/semmae_parts_mini.py': dict(max_epochs=2),
    f'{_mini}/semmae_p16_mini.py': dict(max_epochs=5),
    _mini_tasks['ade20k']: dict(max_iters=80, val_interval=80),
    _mini_tasks['cub']: dict(max_epochs=4, val_interval=4),
    _mini_tasks['linprobe']: dict(max_epochs=2, val_interval=2)}


def shorter(row):
    """A row of the mini suite with the length of `_lengths`, on its share of the cores.

    Part quality has three sources of parts.
    """
    if row.id == 'quality/parts':
        return quality('parts', f'{_mini}/semmae_parts_mini.py', TOY_MASKS,
                       ('learned', 'kmeans', 'voronoi'))
    if not isinstance(row, Train):
        return row
    length = _lengths[row.config]
    product = row.product
    if product.startswith('epoch_'):
        product = f'epoch_{length["max_epochs"]}.pth'
    return replace(row, product=product, is_alone=False, options=row.options | {
        f'train_cfg.{key}': value for key, value in length.items()})


QUICK = replace(MINI, rows=tuple(map(shorter, MINI.rows)))

# ------------------------------------------------------------------ mini, for the tables
_heads = 'semmae_p16_heads'  # as Table 4's iBOT parts, of another encoder: mini MAE
_probe = _mini_tasks['linprobe']
MINI_TABLES = replace(MINI, rows=(
    *MINI.rows[:-1],
    extraction(f'{_mini}/semmae_parts_mini.py', 'parts', 'store_8_heads', 8, source='heads'),
    Train(_heads, 'epoch_16.pth', f'{_mini}/semmae_p16_mini.py',
          {ROOT: '{images}', STORE: '{store_8_heads}', 'recipe.id': _heads,
           'model.masking.num_parts': 3, 'train_dataloader.dataset.dataset.num_parts': 3},
          needs=('store_8_heads',)),
    *evaluations({'linprobe': _probe}, (_heads,))))

# ------------------------------------------------------------------ part quality, two CPU cores
_learners = {'parts': f'{_mini}/semmae_parts_mini.py',
             'parts_painted': f'{_mini}/parts_painted_mini.py'}


def part_rows(truth, needs=()):
    """Encoder, both part learners, and their quality against ``truth`` {name: arguments}."""
    return (
        Train('mae_p16', 'epoch_16.pth', f'{_mini}/mae_p16_mini.py', {ROOT: '{images}'},
              needs=needs),
        *(Train(learner, 'epoch_3.pth', config,
                {ROOT: '{images}', 'model.encoder.checkpoint': '{mae_p16}'}, needs=('mae_p16',))
          for learner, config in _learners.items()),
        *(quality(learner, config, arguments, RANKINGS if learner != 'parts' else (),
                  f'{name}/{learner}')
          for name, arguments in truth.items() for learner, config in _learners.items()))


PARTS = Suite(
    images='data/toy/imagenet/train', tasks={}, is_mini=True,
    rows=(MINI.rows[0], *part_rows(
        {'masks': TOY_MASKS,
         'landmarks': ('--cub', 'data/toy/CUB_200_2011', '--name', 'toy CUB')}, ('data',))))
PARTS_CUB = Suite(
    images='data/CUB_200_2011/images', tasks={}, is_mini=True,
    rows=part_rows({'landmarks': ('--cub', 'data/CUB_200_2011')}))

# ------------------------------------------------------------------ Table 3, two CPU cores, hours
ALPHA = {  # recipe: (start, end, gamma); the rows of Table 3 but for the first
    'semmae_p8_alpha0': (0., 0., 1.), 'semmae_p8_alpha1': (1., 1., 1.),
    'semmae_p8_1to0_gamma1': (1., 0., 1.), 'semmae_p8_gamma1_3': (0., 1., 1 / 3),
    'semmae_p8_gamma1_2': (0., 1., 1 / 2), 'semmae_p8_gamma1': (0., 1., 1.),
    'semmae_p8': (0., 1., 2.), 'semmae_p8_gamma3': (0., 1., 3.)}
TOY3 = 'data/toy_table3'


def table3(stores, epochs=12, more=()):
    """Table 3 at mini size, on parts of ``stores``, the rows that make store and store_val.

    more: (recipe, config, store, store of val, ranking) of further rows.
    """
    probe = f'{_mini}/linprobe_p8_mini.py'
    own = 'store', 'store_val', None
    cosine = 'param_scheduler.CosineAnnealingLR'
    length = {'train_cfg.max_epochs': epochs, f'{cosine}.T_max': epochs - 1,
              f'{cosine}.end': epochs}

    def masked(recipe, config, stores=own, **options):
        store, val, ranking = stores
        options = {ROOT: '{images}', STORE: f'{{{store}}}', **length, **options}
        return (Train(recipe, f'epoch_{epochs}.pth', config, options, needs=(store,)),
                Train(f'linprobe/{recipe}', 'results.jsonl', probe,
                      {INIT: f'{{{recipe}}}', **probed_parts(store, val, ranking)},
                      needs=(recipe, val)))

    return Suite(
        images=f'{TOY3}/imagenet/train', tasks={}, is_mini=True,
        rows=(
            ToyData('data', f'{TOY3}/toy.json', TOY3, is_shared=True, counts=dict(
                num_imagenet=(8000, 5000), num_cub=(16, 16), num_ade=(1, 1))),
            *stores,
            *masked('mae_p8_fg', f'{_mini}/table3_random_mini.py'),
            *(row for recipe, (start, end, gamma) in ALPHA.items()
              for row in masked(recipe, f'{_mini}/table3_mini.py', **{
                  'model.masking.alpha_start': start, 'model.masking.alpha_end': end,
                  'model.masking.gamma': gamma, 'recipe.id': recipe,
                  'recipe.method': f'SemMAE:alpha{start:g}-{end:g}:gamma{gamma:.2g}'})),
            *(row for recipe, config, *stores in more for row in masked(recipe, config, stores)),
            Train('linprobe/scratch', 'results.jsonl', probe,
                  {'model.backbone.init_cfg': None, **probed_parts(*own)},
                  needs=('store', 'store_val'))))


TABLE3_TRUE = table3([
    Extract(store, f'{TOY3}/parts/{split}/manifest.json', f'{_mini}/semmae_parts_mini.py',
            f'{TOY3}/imagenet/{split}', 8, labels=f'{TOY3}/imagenet/part_labels/{split}',
            out=f'{TOY3}/parts/{split}', needs=('data',), is_shared=True)
    for store, split in {'store': 'train', 'store_val': 'val'}.items()])
# 7 epochs: with five seeds, 12 epochs would take two hours more on two cores.
TABLE3_LEARNED = table3([
    replace(MINI.rows[1], needs=('data',)), replace(MINI.rows[2]),
    *(extraction(f'{_mini}/semmae_parts_mini.py', 'parts', store + name, 8,
                 images=f'{TOY3}/imagenet/{split}', ranking=ranking)
      for name, ranking in {'': None, '_maps': 'parts'}.items()
      for store, split in {'store': 'train', 'store_val': 'val'}.items())],
    epochs=7, more=[(MAPS, f'{_mini}/table3_maps_mini.py', 'store_maps', 'store_val_maps',
                     'parts')])

# ------------------------------------------------------------------ real images, two CPU cores
# --data: any folder of photographs to pre-train on.
_transfer = {'cub': f'{_mini}/cub25_mini.py', 'camvid': f'{_mini}/upernet_camvid_mini.py'}
TRANSFER = Suite(
    images='data/imagenet/train', tasks={}, is_mini=True,
    rows=(Train('mae_p16', 'epoch_16.pth', f'{_mini}/mae_p16_mini.py', {ROOT: '{images}'}),
          *evaluations(_transfer, ('mae_p16',)),
          *(Train(f'{task}/scratch', 'results.jsonl', config, {'model.backbone.init_cfg': None})
            for task, config in _transfer.items())))

# ------------------------------------------------------------------ photographs, two cores, hours
_tiny = 'mm_configs/tiny_imagenet'
_tiny_tasks = {'probes': ('mm_configs/dense/dense_tiny_imagenet.py', 'probes.json'),
               'finetune': (f'{_tiny}/finetune.py', 'results.jsonl')}
_tiny_recipes = {  # recipe: (config, the part store that it reads)
    'semmae_p16': ('semmae', 'store_8'), 'semmae_p16_alpha1': ('semmae_alpha1', 'store_8'),
    'semmae_p16_heads': ('semmae_heads', 'store_8_heads'),
    'semmae_p16_kmeans': ('semmae_kmeans', 'store_8_kmeans'),
    'semmae_p16_mae_parts': ('semmae_mae_parts', 'store_8_mae')}


def tiny_rows(recipe, config, store):
    """A pre-training on Tiny-ImageNet and its evaluations."""
    reads = {STORE: f'{{{store}}}'} if store else {}
    return (Train(recipe, 'epoch_6.pth', f'{_tiny}/{config}.py', {ROOT: '{images}', **reads},
                  needs=(store,) if store else ()),
            *(Train(f'{task}/{recipe}', product, path, {INIT: f'{{{recipe}}}'}, needs=(recipe,))
              for task, (path, product) in _tiny_tasks.items()))


TINY_IMAGENET = Suite(
    images='data/tiny_imagenet/train', tasks={}, is_mini=True,
    optional=('parts_mae', 'store_8_mae', 'store_8_kmeans', *(
        f'{task}{recipe}' for task in ('', *(f'{task}/' for task in _tiny_tasks))
        for recipe in ('semmae_p16_kmeans', 'semmae_p16_mae_parts'))),
    rows=(*tiny_rows('mae_p16', 'mae', ''),
          Train('parts', 'epoch_1.pth', f'{_tiny}/parts.py', {ROOT: '{images}'}),
          Train('parts_mae', 'epoch_1.pth', f'{_tiny}/parts_mae.py',
                {ROOT: '{images}', 'model.encoder.checkpoint': '{mae_p16}'}, needs=('mae_p16',)),
          *(extraction(f'{_tiny}/parts.py', 'parts', f'store_8{name}', 8, **how)
            for name, how in {'': {}, '_heads': dict(source='heads'),
                              '_kmeans': dict(source='kmeans')}.items()),
          extraction(f'{_tiny}/parts_mae.py', 'parts_mae', 'store_8_mae', 8),
          *(row for recipe, how in _tiny_recipes.items() for row in tiny_rows(recipe, *how))))
