"""The identity of a training: everything that decides its weights, as flat, readable fields.

A field is a dotted key of the resolved config (``model.masking.gamma``) or a fact that only the run
knows (``batch_size`` of all processes, ``parts.source``). Every key counts unless `LET_THROUGH`
says why it cannot change a weight or a metric, so a new option keeps results apart by default.
The seed is not part of it: runs that differ in the seed alone may be averaged.
"""
import functools
import hashlib
import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.runner import Runner

from .. import __version__
from ..datasets.seeded import Seeded
from ..models.layers import unwrapped
from .length import schedules_of
from .lookup import Fields, Node, kind, leaves

# Top-level keys that mmengine's runner or this package reads for a training.
TRAINING = ('model', 'data_preprocessor', 'train_dataloader', 'train_cfg', 'optim_wrapper',
            'param_scheduler', 'auto_scale_lr', 'custom_hooks', 'default_hooks', 'default_scope',
            'env_cfg', 'randomness', 'sync_bn', 'activation_checkpointing',
            'efficient_conv_bn_eval')
# Keys of an evaluation. A test is recorded under the names of a validation.
EVALUATION = {'val_dataloader': 'test_dataloader', 'val_evaluator': 'test_evaluator',
              'val_cfg': 'test_cfg'}

# Hooks that only observe, save or refuse a training.
OBSERVERS = frozenset({
    'IterTimerHook', 'LoggerHook', 'CheckpointHook', 'RuntimeInfoHook', 'RankStateHook',
    'FiniteHook', 'StopHook', 'PatchHook', 'DataCheckHook', 'ResultRecorder', 'MaskMonitorHook',
    'PretrainPicturesHook', 'PartHealthHook', 'VisualizationHook', 'SegVisualizationHook'})

WRAPPERS = frozenset({'OptimWrapper', 'AmpOptimWrapper', 'CPUAmpOptimWrapper'})

_LOADER = r'(train|val)_dataloader\.'
LET_THROUGH = tuple((re.compile(pattern), reason) for pattern, reason in (
    (r'.*\b(data_root|root|store|part_store|label_root)$',
     'a place on a disk; the images and the part store are known by their content'),
    (r'model\..*\b(checkpoint|pretrained|learner)$',
     'a place on a disk; starting weights and part learners are known by their content'),
    (_LOADER + r'(num_workers|persistent_workers|pin_memory|pin_memory_device|prefetch_factor|'
     r'timeout|multiprocessing_context)$',
     'how samples are read; random numbers of a sample depend on seed, epoch and index alone'),
    (r'(train_dataloader\.batch_size|optim_wrapper\.accumulative_counts)$',
     'they make the global batch, which is the fact batch_size'),
    (r'val_dataloader\.batch_size$', 'in evaluation every sample is computed by itself'),
    (r'optim_wrapper\.dtype$', 'it decides the fact precision, as a known type of wrapper does'),
    (r'train_cfg\.(val_interval|val_begin|dynamic_intervals)(\.|$)',
     'when a training is validated; the best of several validations is marked as such'),
    (r'train_cfg\.only$', 'a probe has its own line and depends on no other probe'),
    (r'randomness\.seed$', 'seeds may be averaged'),
    (r'env_cfg\.(mp_cfg|dist_cfg|resource_limit)(\.|$)', 'how processes are started and connected'),
    (r'.*\.(backend_args|file_client_args|meta_keys|lazy_init|serialize_data|palette|max_damaged)'
     r'(\.|$)', 'how files are opened, what is carried along or drawn, when a run is refused'),
    (r'.*\.num_noise$', 'a mask uses the first numbers that it needs; too few are an error'),
    (r'val_cfg\.type$', 'the same loop under another name in a test'),
    (r'val_evaluator\.(\d+\.)?(prefix|collect_device|collect_dir|output_dir|format_only)$',
     'how a metric is called and gathered'),
))


@functools.cache
def reason_to_let_through(key: str) -> str:
    """The reason why a key of a config changes neither weights nor metrics, or ''."""
    return next((reason for pattern, reason in LET_THROUGH if pattern.match(key)), '')


# ------------------------------------------------------------------ a config as fields
def as_field(value: Node) -> Node:
    """A config value as in JSON; absolute paths and classes become their names."""
    if isinstance(value, dict):
        return {str(k): as_field(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_field(v) for v in value]
    if isinstance(value, str):
        return Path(value).name if value.startswith('/') else value
    if isinstance(value, type):
        return value.__name__
    return value if isinstance(value, (bool, int, float, type(None))) else str(value)


def accumulated_steps(cfg: Node) -> int:
    """Iterations of mmengine for one update of the weights."""
    return (cfg.get('optim_wrapper') or {}).get('accumulative_counts', 1)


def per_update(node: Node, steps: int) -> Fields:
    """A copy of a config in which lengths counted in iterations are counted in updates.

    mmengine counts iterations and schedules in accumulated steps; with another number of processes
    and the same global batch they are the same training.
    """
    def divided(value: Node) -> Node:
        if isinstance(value, (list, tuple)):
            return [divided(v) for v in value]
        is_count = isinstance(value, int) and not isinstance(value, bool) and value > 0
        return value // steps if is_count else value
    return {key: divided(value) if key in ('begin', 'end', 'T_max', 'milestones', 'max_iters',
                                           'val_interval', 'total_iters') else value
            for key, value in node.items()}


def compile_of(cfg: Node) -> Node:
    """How a training compiles its model: False, True or a dict of options of torch.compile.

    A run renames the key to ``compiled`` in its own copy of the config: with ``compile`` mmengine
    would compile the whole step.
    """
    return cfg.get('compile') or cfg.get('compiled') or False


def precision_of_training(cfg: Node) -> str:
    """'float32', or the type in which mixed precision multiplies."""
    wrapper = cfg.get('optim_wrapper') or {}
    return wrapper.get('dtype') or 'float16' if 'Amp' in kind(wrapper) else 'float32'


def training_fields(cfg: Node) -> Fields:
    """{field: value} of everything in a config that decides the weights of a training."""
    steps, groups = accumulated_steps(cfg), {k: cfg.get(k) for k in TRAINING if cfg.get(k)}
    if how := compile_of(cfg):
        groups['compile'] = how
    if schedules := schedules_of(cfg):
        groups['param_scheduler'] = [
            s if s.get('by_epoch', True) else per_update(s, steps) for s in schedules]
    if (groups.get('train_cfg') or {}).get('max_iters'):
        groups['train_cfg'] = per_update(groups['train_cfg'], steps)
    groups['custom_hooks'] = by_type(cfg.get('custom_hooks') or ())
    groups['default_hooks'] = {name: hook for name, hook in (cfg.get('default_hooks') or {}).items()
                               if hook and kind(hook) not in OBSERVERS}
    fields = fields_of(groups)
    if kind(groups.get('optim_wrapper')) in WRAPPERS:
        fields.pop('optim_wrapper.type')
    return {'precision': precision_of_training(cfg), **fields}


def by_type(hooks: Iterable[Node]) -> Fields:
    """{type: hook} of the hooks that do something to a training, wherever they stand in a list."""
    found: Fields = {}
    for hook in hooks:
        name = kind(hook)
        if name not in OBSERVERS:
            while name in found:
                name += '+'
            found[name] = hook if isinstance(hook, dict) else dict(type=name)
    return found


def evaluation_fields(cfg: Node, is_test: bool = False) -> Fields:
    """{field: value} of everything in a config that decides the metrics of given weights."""
    other = {name: test for name, test in EVALUATION.items() if is_test and cfg.get(test)}
    return fields_of({name: cfg.get(other.get(name, name)) for name in EVALUATION
                      if cfg.get(other.get(name, name))})


def fields_of(groups: Fields) -> Fields:
    """{dotted key: value} of these parts of a config, without keys of `LET_THROUGH`."""
    return {key: value for key, leaf in leaves(groups)
            if (value := as_field(leaf)) not in ({}, []) and not reason_to_let_through(key)}


# ------------------------------------------------------------------ facts of a run
def training_data(runner: Runner) -> Node:
    """The data set that is trained on, without its seeds; None if nothing is trained."""
    loop = getattr(runner, '_train_loop', None)
    data = getattr(getattr(loop, 'dataloader', None), 'dataset', None)
    return data.dataset if isinstance(data, Seeded) else data


def images_fingerprint(data: Node, with_sizes: bool = False) -> str | None:
    """A short hash of the folder, name and label of 1000 images, evenly spaced, or None.

    Only 1000, because it is computed at each checkpoint; one image more or less shifts the rest.
    with_sizes: the hash includes the file sizes of images and label maps, to distinguish copies
        of another resolution or quality; computed once for a data set.
    """
    if not hasattr(data, 'get_data_info'):
        return None
    if with_sizes and hasattr(data, '_images_with_sizes'):
        return data._images_with_sizes
    found = hashlib.sha256()
    for i in np.linspace(0, len(data) - 1, min(1000, len(data))).round().astype(int):
        info = data.get_data_info(int(i))
        name = Path(info.get('img_path', '')).parts[-2:]
        depth = ('depth_map_path',) if 'depth_map_path' in info else ()
        sizes = [size_of(info.get(key)) for key in ('img_path', 'seg_map_path', *depth)]
        found.update(f'{"/".join(name)} {info.get("gt_label")}'
                     f'{f" {sizes}" if with_sizes else ""}\n'.encode())
    digest = found.hexdigest()[:12]
    if with_sizes:
        data._images_with_sizes = digest
    return digest


def size_of(path: str | None) -> int | None:
    """Bytes of a local file, or None."""
    try:
        return Path(path).stat().st_size if path else None
    except OSError:
        return None


def versions_that_matter() -> Fields:
    """Versions of the packages that compute weights; another version may change the weights."""
    def find(name: str, parts: int) -> str | None:
        try:
            return '.'.join(version(name).split('+')[0].split('.')[:parts])
        except PackageNotFoundError:
            return None
    return {'versions.semmae': __version__, 'versions.torch': find('torch', 2),
            'versions.mmengine': find('onedl-mmengine', 3),
            'versions.mmpretrain': find('onedl-mmpretrain', 3),
            'versions.timm': find('timm', 2)}


def origin_fields(described: Fields | None, sha256: str | None = None) -> Fields:
    """The fields of starting weights: of the training that made them, or of an unknown file.

    described: ``meta['semmae']`` of a checkpoint of ours, or None.
    """
    known = (described or {}).get('identity')
    if known:
        return dict(known)
    return {'weights': sha256[:12]} if sha256 else {}


def prefixed(prefix: str, fields: Fields) -> Fields:
    """Fields under ``prefix.``."""
    return {f'{prefix}.{key}': value for key, value in fields.items()}


def manifest_of_parts(runner: Runner) -> Fields | None:
    """The manifest of the parts that a pre-training reads or computes; None without parts."""
    if (online := getattr(unwrapped(runner.model), 'online_parts', None)) is not None:
        return dict(online.identity, source='online')
    store = getattr(training_data(runner), 'store', None)
    return None if store is None else store.manifest


def parts_fields(runner: Runner) -> Fields:
    """Where the parts of a pre-training come from: source, ranking, grid, and their learner."""
    made = manifest_of_parts(runner)
    return {} if made is None else prefixed('parts', store_fields(made))


def parts_behind(runner: Runner) -> Fields | None:
    """A summary of the source of a pre-training's parts, or None."""
    made = manifest_of_parts(runner)
    if made is None:
        return None
    if made.get('source') == 'online':
        return {k: v for k, v in made.items() if k != 'learner'}
    return {k: made.get(k) for k in ('learner_sha256', 'encoder_sha256', 'source', 'grid',
                                     'num_parts', 'images_sha256')}


def store_fields(made: Fields) -> Fields:
    """The fields of a store's manifest that decide its parts.

    The seed with which a learner was trained does not count.
    """
    known = ('source', 'grid', 'num_parts', 'softmax_over', 'view', 'precision', 'parts')
    fields = {key: as_field(leaf) for key, leaf in leaves(
        {k: made[k] for k in known if made.get(k) is not None})}
    learner = origin_fields(dict(identity=made.get('learner')), made.get('learner_sha256'))
    return fields | prefixed('learner', learner)


def pipeline_parts(prefix: str, data: Node) -> Fields:
    """The fields of the part stores that transforms of a data set read, as in a probe at 8x8."""
    fields: Fields = {}
    for step in getattr(getattr(data, 'pipeline', None), 'transforms', ()):
        manifest: Any = getattr(getattr(step, 'store', None), 'manifest', None)
        if hasattr(manifest, 'get'):
            fields |= prefixed(prefix, store_fields(manifest))
    return fields


def loaded_fields(runner: Runner) -> Fields:
    """The frozen encoder of part learning and the weights that a pre-training starts from."""
    fields: Fields = {}
    for name, part in (('encoder', 'encoder'), ('start', 'backbone')):
        report = getattr(getattr(unwrapped(runner.model), part, None), 'load_report', None)
        if report:
            fields |= prefixed(name, origin_fields(report['recipe'], report['sha256']))
    return fields


def identity_of(runner: Runner, size: Fields) -> Fields:
    """{field: value} of everything that decides the weights of a pre-training or part learner.

    size: `size.run_size`.
    """
    names = ('batch_size', 'norm_batch', 'num_train')
    return {**{key: size[key] for key in names if key in size},
            'train_images': images_fingerprint(training_data(runner), with_sizes=True),
            **training_fields(runner.cfg), **parts_fields(runner), **loaded_fields(runner),
            **versions_that_matter()}
