"""A mutation audit: every key of a config that can change a weight or a metric separates results.

Every leaf of resolved configs is changed, one at a time, and the two results are compared as a
table compares them. Exceptions are in `LET_THROUGH`, each with its reason.
"""
import contextlib
import copy
import re
from types import SimpleNamespace

import pytest
from mmengine.config import ConfigDict
from torch import nn

from semmae.config import recipes
from semmae.config.identity import identity_of, reason_to_let_through, training_fields
from semmae.config.options import config_of
from semmae.config.protocol import protocol_of, protocol_of_test
from semmae.config.resume import config_changes
from semmae.config.size import run_size, why_enlarged
from semmae.reporting.comparison import protocol_marks, training_marks
from semmae.results.protocol import fingerprint, may_be_averaged

from ..tiny import REPO

PRETRAINING = ['mini/semmae_p16_mini.py', 'mini/mae_p16_mini.py', 'mini/semmae_pretrain_mini.py',
               'mini/semmae_parts_mini.py', 'semmae_pretrain.py']
DOWNSTREAM = ['mini/linprobe_p16_mini.py', 'mini/linprobe_p8_mini.py', 'mini/semmae_cub_mini.py',
              'mini/semmae_finetune_mini.py', 'mini/semmae_upernet_ade20k_mini.py',
              'mini/semmae_linseg_ade20k_mini.py', 'mini/knn_p16_mini.py',
              'mini/upernet_camvid_mini.py', 'semmae_segmenter_ade20k.py']

# {pattern of keys: why a change of them can change neither a weight nor a metric}.
LET_THROUGH = {
    r'(train|val|test)_dataloader\..*\b(data_root|part_store|store|root)':
        'a place; images and parts are compared by content',
    r'model\..*\b(init_cfg\.)?checkpoint$': 'a place; starting weights are compared by content',
    r'(train|val|test)_dataloader\.(num_workers|persistent_workers|pin_memory)':
        'how samples are read: their random numbers depend on seed, epoch and index',
    r'(val|test)_dataloader\.batch_size': 'in evaluation every sample is computed by itself',
    r'test_(dataloader|evaluator|cfg)(\.|$)': 'of a test; a training is validated by val_*',
    r'(train|val)_cfg\.val_interval': 'when a training is validated; the last validation counts',
    r'val_cfg(\.type)?': 'the loop has another name in a test',
    r'default_hooks\.(timer|logger|checkpoint)\.(?!type)': 'they measure time, print and save',
    r'custom_hooks\.\d+\.(interval|num)': 'how often pictures are drawn',
    r'(visualizer|log_level|log_processor)(\.|$)': 'what is shown and logged',
    r'env_cfg\.(mp_cfg|dist_cfg)\.': 'how processes are started and connected',
    r'(train|val)_dataloader\..*\bpalette\.': 'colours of pictures',
    r'load_from|resume': 'starting weights are compared by content; a run resumes to the same bits',
    r'randomness\.seed': 'seeds are averaged',
    r'recipe\.|result\.': 'names and the size in the paper; they mark results and train nothing',
    r'model_wrapper_cfg\.': 'how gradients travel between processes',
    r'(_\w+|img_size|patch_size|grid|num_parts|crop|classes|num_classes|void|palette)(\.|$)':
        'a variable of the config file; nothing reads it once the config is resolved'}
# Keys whose change is named by a fact that they make.
NAMED_BY = {'train_dataloader.batch_size': 'batch_size', 'optim_wrapper.type': 'precision',
            'optim_wrapper.dtype': 'precision'}
# Nothing is trained: only images, network and evaluation count.
KNN_ONLY = re.compile(r'(optim_wrapper|default_hooks|custom_hooks|env_cfg)\.|'
                      r'train_dataloader\.(drop_last|sampler|batch_size)')


def all_leaves(node, prefix=()):
    if isinstance(node, dict):
        for key, value in node.items():
            yield from all_leaves(value, (*prefix, key))
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from all_leaves(value, (*prefix, index))
    else:
        yield prefix, node


def other(value):
    """Another value of the same type, as far as there is one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value * 1.5 + (value == 0)
    return f'{value}x' if isinstance(value, str) else 1


def load(name):
    """A shipped config, read once; tests restore what they change."""
    return config_of(REPO / 'mm_configs' / name)


@contextlib.contextmanager
def changed(cfg, path, value):
    """The config with another value inside of the context."""
    node = cfg._cfg_dict
    for key in path[:-1]:
        if isinstance(node[key], tuple):
            node[key] = list(node[key])
        node = node[key]
    before, node[path[-1]] = node[path[-1]], value
    try:
        yield
    finally:
        node[path[-1]] = before


def a_runner(cfg):
    return SimpleNamespace(cfg=cfg, model=nn.Linear(1, 1))


def record_of(cfg, is_pretraining):
    """What a line of results.jsonl says of a run of this config, as far as its config decides."""
    runner = a_runner(cfg)
    size = run_size(runner)
    if is_pretraining:
        protocol, fields = {'epochs': 90}, identity_of(runner, size)
    else:
        protocol, fields = protocol_of(runner, {}, size), {'weights': 'abc'}
    return dict(
        row='linprobe/mae_p16', task='linprobe', dataset='toy', split='val', metric='top1',
        unit='%', reduced=False, reduced_why='', status='ok', protocol=protocol, versions={},
        fingerprint=fingerprint(protocol), pretraining=dict(identity=fields), value=1.)


def marks_between(one, two):
    """The text that tells two results apart, or '' if they would be averaged."""
    if may_be_averaged(one) == may_be_averaged(two):
        return ''
    lines = [dict(records=[record], failed=[]) for record in (one, two)]
    return ' '.join(protocol_marks(lines)[1] + training_marks(lines)[1])


def is_let_through(key):
    return any(re.match(pattern, key) for pattern in LET_THROUGH)


AUDITED = [(name, name in PRETRAINING) for name in PRETRAINING + DOWNSTREAM]


@pytest.mark.slow
@pytest.mark.parametrize('name, is_pretraining', AUDITED)
def test_every_leaf_that_can_change_a_number_keeps_results_apart_and_is_named(
        name, is_pretraining):
    cfg = load(name)
    before = record_of(cfg, is_pretraining)
    missed, unnamed, counted = [], [], 0
    for path, value in list(all_leaves(cfg._cfg_dict)):
        key = '.'.join(map(str, path))
        with changed(cfg, path, other(value)):
            text = marks_between(before, record_of(cfg, is_pretraining))
        is_expected = not is_let_through(key) and not (
            'knn' in name and KNN_ONLY.match(key)) and not (
            is_pretraining and key.startswith(('val_', 'test_')))
        counted += is_expected
        if is_expected and not text:
            missed.append(key)
        names = {key, re.sub(r'\.\d+$', '', key), NAMED_BY.get(key, key)}  # a list is one field
        if path[0] == 'custom_hooks':  # they are called by their type
            kind = cfg.custom_hooks[path[1]].type.rsplit('.', 1)[-1]
            names = {f'custom_hooks.{name}.{path[2]}' for name in (kind, other(kind))}
        if is_expected and text and not any(
                re.search(rf'(?<![\w.]){re.escape(name)}(?![\w.])', text) for name in names):
            unnamed.append((key, text))
        if not is_expected and text and not key.startswith(('recipe.', 'result.')):
            unnamed.append((key, f'let through, but told apart: {text[:200]}'))
    assert not missed and not unnamed, (missed, unnamed)
    assert counted >= (40 if 'knn' in name else 50), counted


def test_the_audit_changes_many_keys_and_needs_every_reason_to_let_one_through():
    keys = {'.'.join(map(str, path)) for name, _ in AUDITED
            for path, _ in all_leaves(load(name)._cfg_dict)}
    assert len([key for key in keys if not is_let_through(key)]) > 150
    assert not [p for p in LET_THROUGH if not any(re.match(p, key) for key in keys)]


@pytest.mark.parametrize('key', [
    'model.masking.gamma', 'model.backbone.drop_path_rate', 'train_cfg.max_epochs',
    'optim_wrapper.optimizer.lr', 'val_dataloader.dataset.pipeline.1.scale', 'model.root_scale'])
def test_nothing_that_counts_matches_a_reason_by_accident(key):
    assert not reason_to_let_through(key)


def test_a_checkpoint_whose_config_has_a_key_that_no_longer_counts_can_be_resumed():
    before = {'precision': 'float32', 'train_dataloader.dataset.dataset.pipeline.1.num_noise': 70}
    assert config_changes(before, {'precision': 'float32'}) == []
    assert config_changes({**before, 'model.gamma': 2}, {'precision': 'float32'})


def test_an_option_that_no_config_has_yet_keeps_results_apart():
    cfg = load('mini/mae_p16_mini.py')
    for key, value in {'model.masking.new': 1, 'model.backbone.frozen_stages': 2,
                       'optim_wrapper.clip_grad.max_norm': 1., 'compile': True,
                       'auto_scale_lr.base_batch_size': 64}.items():
        changed_cfg = copy.deepcopy(cfg)
        changed_cfg.merge_from_dict({key: value})
        assert key in marks_between(record_of(cfg, True), record_of(changed_cfg, True))
    with_hook = copy.deepcopy(cfg)
    with_hook.custom_hooks.append(dict(type='EMAHook', momentum=1e-4))
    assert 'EMAHook' in marks_between(record_of(cfg, True), record_of(with_hook, True))
    with_hook.custom_hooks[-1] = dict(type='semmae.MaskMonitorHook')
    assert not marks_between(record_of(cfg, True), record_of(with_hook, True))


UPERNET = 'mini/semmae_upernet_ade20k_mini.py'


def test_accumulated_steps_and_processes_are_the_same_training():
    whole, cfg = load(UPERNET), copy.deepcopy(load(UPERNET))
    cfg.train_dataloader.batch_size = 4
    cfg.optim_wrapper.accumulative_counts = 4
    cfg.train_cfg.max_iters *= 4
    for schedule in cfg.param_scheduler:
        schedule.begin, schedule.end = 4 * schedule.begin, 4 * schedule.end
    assert training_fields(cfg) == training_fields(whole)
    assert marks_between(record_of(whole, False), record_of(cfg, False)) == ''


def test_a_test_keeps_the_protocol_of_its_training_and_says_what_it_changed():
    cfg = load(UPERNET)
    trained = protocol_of(a_runner(cfg), {}, {'iters': 240})

    def tested():
        return protocol_of_test(trained, protocol_of(a_runner(cfg), {}, {}, is_test=True))
    assert tested() == trained
    with changed(cfg, ('model', 'decode_head', 'align_corners'), True):
        assert tested()['test.model.decode_head.align_corners'] is True
    with changed(cfg, ('test_dataloader', 'dataset', 'pipeline', 1, 'keep_ratio'), False):
        assert tested()['val_dataloader.dataset.pipeline.1.keep_ratio'] is False
    with changed(cfg, ('model', 'backbone', 'init_cfg'), None):
        assert tested() == trained


# ------------------------------------------------------------------ what only content tells
class Images(list):
    """(path, label) of each, with the parts of a manifest."""

    def __init__(self, images, manifest):
        super().__init__(images)
        self.store = SimpleNamespace(manifest=manifest)

    def get_data_info(self, index):
        return dict(zip(('img_path', 'gt_label'), self[index]))


IMAGES = [(f'/a/train/n{i % 4}/{i}.jpg', i % 4) for i in range(40)]
LEARNED = dict(source='learned', grid=8, num_parts=6, softmax_over='parts', view=['centre'],
               parts=dict(type='semmae.LearnedParts', foreground='border'),
               learner={'model.blur_kernel': 3}, learner_sha256='a' * 64, images_sha256='b' * 64)


def identity_on(images=IMAGES, manifest=LEARNED):
    runner = a_runner(load('mini/semmae_p16_mini.py'))
    runner._train_loop = SimpleNamespace(dataloader=SimpleNamespace(
        dataset=Images(images, manifest)))
    return identity_of(runner, run_size(runner))


def test_other_images_or_labels_are_another_training_and_another_place_is_not():
    base = identity_on()
    assert identity_on([(path.replace('/a/', '/disk/b/'), label) for path, label in IMAGES]) == base
    for images in (IMAGES[:-1], IMAGES[::-1], [(path, 0) for path, _ in IMAGES]):
        found = identity_on(images)
        assert found['train_images'] != base['train_images']
        assert {k for k in found if found[k] != base[k]} <= {'train_images', 'num_train'}


def test_a_copy_of_the_images_at_another_quality_is_another_training(tmp_path):
    names = [tmp_path / f'{quality}/train/{i}.jpg' for quality in 'ab' for i in range(3)]
    for path in names:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b'x' * (100 if '/a/' in str(path) else 50))
    one, two = ([(str(path), 0) for path in names if f'/{q}/' in str(path)] for q in 'ab')
    assert identity_on(one) == identity_on(one) != identity_on(two)


@pytest.mark.parametrize('field, changes', [
    ('parts.source', dict(source='labels')), ('parts.grid', dict(grid=14)),
    ('parts.num_parts', dict(num_parts=7)), ('parts.softmax_over', dict(softmax_over='positions')),
    ('parts.parts.foreground', dict(parts=dict(type='semmae.LearnedParts', foreground='parts'))),
    ('parts.learner.model.blur_kernel', dict(learner={'model.blur_kernel': 7})),
    ('parts.learner.weights', dict(learner=None))])
def test_part_store_ranking_and_learner_are_part_of_the_identity(field, changes):
    base, found = identity_on(), identity_on(manifest=LEARNED | changes)
    assert base.get(field) != found.get(field)


def test_a_learner_of_another_seed_is_the_same_learner():
    assert identity_on() == identity_on(manifest=LEARNED | dict(learner_sha256='c' * 64))


def test_a_probe_names_the_part_store_that_chooses_its_patches():
    runner = a_runner(load('mini/linprobe_p8_mini.py'))
    data = Images(IMAGES, None)
    for source in ('learned', 'labels'):
        store = SimpleNamespace(manifest=LEARNED | dict(source=source))
        data.pipeline = SimpleNamespace(transforms=[SimpleNamespace(store=store)])
        runner._train_loop = runner._val_loop = SimpleNamespace(
            dataloader=SimpleNamespace(dataset=data))
        protocol = protocol_of(runner, {}, {})
        assert protocol['train_parts.source'] == protocol['val_parts.source'] == source
        assert protocol['val_parts.learner.model.blur_kernel'] == 3


# ------------------------------------------------------------------ the recipe of a name
def at_full_size(config, **options):
    """The identity of a training of a config at its full size, on any machine."""
    cfg = copy.deepcopy(load(config)) if options else load(config)
    cfg.merge_from_dict(options)
    return recipes.recipe_fields(cfg), cfg.recipe.id


FULL = [path.relative_to(REPO / 'mm_configs').as_posix() for path in recipes.shipped_configs()
        if re.search(r'recipe = dict\(', path.read_text())]


@pytest.mark.parametrize('config', FULL)
def test_a_shipped_config_is_the_recipe_of_its_name(config):
    assert recipes.differences(*at_full_size(config)) == {}


@pytest.mark.parametrize('options, told', [
    ({'model.masking.gamma': 3.}, {'model.masking.gamma': [2., 3.]}),
    ({'model.masking.alpha_start': 1.}, {'model.masking.alpha_start': [None, 1.]}),
    ({'train_cfg.max_epochs': 1600}, {'train_cfg.max_epochs': [800, 1600]}),
    ({'recipe.full.epochs': 1, 'train_cfg.max_epochs': 1}, {'train_cfg.max_epochs': [800, 1]}),
    ({'optim_wrapper.type': 'OptimWrapper'}, {'precision': ['bfloat16', 'float32']}),
    ({'train_dataloader.dataset.dataset.pipeline.0.flip_prob': 0.},
     {'train_dataloader.dataset.dataset.pipeline.0.flip_prob': [.5, 0.]})])
def test_a_training_that_only_has_the_name_of_a_recipe_is_told_apart(options, told):
    fields, recipe = at_full_size('semmae_pretrain.py', **options)
    assert recipes.differences(fields, recipe) == told


def test_parts_of_another_source_ranking_or_learner_are_not_the_recipes():
    fields, recipe = at_full_size('semmae_pretrain.py')
    for key, value in {'parts.source': 'labels', 'parts.parts.foreground': 'parts',
                       'parts.learner.model.blur_kernel': 3, 'parts.grid': 14,
                       'start.weights': 'abc'}.items():
        assert key in recipes.differences(fields | {key: value}, recipe)


def test_the_weights_of_one_recipe_under_the_name_of_another_are_told_apart():
    fields, _ = at_full_size('ablations/mae_vit-base-p16.py')
    assert 'model.masking.type' in recipes.differences(fields, 'semmae_p16')
    assert recipes.differences(fields, 'nobody') == {'recipe': [None, 'nobody']}


def test_a_longer_training_than_the_papers_says_so():
    full = dict(epochs=800, batch_size=4096, pixels=224)
    assert why_enlarged(full, dict(epochs=1600, batch_size=4096, pixels=224)) == (
        '1600 instead of 800 epochs')
    assert why_enlarged(full, dict(epochs=800, batch_size=8192, pixels=384)) == (
        '384 instead of 224 pixels a side')
    assert why_enlarged(full, ConfigDict(epochs=20)) == ''


TASKS = ['semmae_linprobe.py', 'semmae_finetune.py', 'semmae_cub.py', 'semmae_upernet_ade20k.py',
         'ablations/linprobe_vit-base-p16.py', 'ablations/cars_vit-base-p16.py']


@pytest.mark.parametrize('name', TASKS)
def test_a_task_that_differs_from_its_config_fills_no_cell(name):
    cfg = load(name)
    size = dict(batch_size=cfg.result.full.batch_size, num_train=cfg.result.full.num_train)
    assert recipes.task_differences(cfg, size) == {}
    rate = cfg.optim_wrapper.optimizer.lr
    with changed(cfg, ('optim_wrapper', 'optimizer', 'lr'), .123):
        assert recipes.task_differences(cfg, size) == {'optim_wrapper.optimizer.lr': [rate, .123]}
    assert 'num_train' in recipes.task_differences(cfg, size | dict(num_train=5))
    other_network = copy.deepcopy(cfg)
    other_network.model.backbone.update(arch='deit-small', patch_size=14)
    assert recipes.task_differences(other_network, size) == {}


def test_a_task_that_is_not_ours_differs_from_nothing():
    cfg = copy.deepcopy(load('semmae_cub.py'))
    cfg.result.task = 'birds'
    assert recipes.task_differences(cfg, {}) == {}
