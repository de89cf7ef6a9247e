"""Under which conditions a run trained and measured, as plain data for results.jsonl."""
import hashlib
import re
from pathlib import Path

from mmengine.dist import get_world_size
from torch.nn.modules.batchnorm import _BatchNorm

from ..models.layers import unwrapped
from .identity import (
    accumulated_steps,
    evaluation_fields,
    images_fingerprint,
    per_update,
    pipeline_parts,
    schedules_of,
    training_data,
    training_fields,
)


def run_size(runner):
    """Epochs or updates, image side, global batch and training images of a run's config.

    norm_batch: images over which batch norm normalises, if the model has one. Accumulation does not
    enlarge it. pixels: of the backbone, or of the first training image where it does not tell.
    """
    cfg = runner.cfg
    loader = cfg.get('train_dataloader') or {}
    train = cfg.get('train_cfg') or {}
    steps, iters = accumulated_steps(cfg), train.get('max_iters')
    size = dict(epochs=train.get('max_epochs'), iters=iters and iters // steps,
                batch_size=loader.get('batch_size', 0) * get_world_size() * steps)
    model = unwrapped(runner.model)
    if any(isinstance(m, _BatchNorm) for m in model.modules()):
        is_synced = 'SyncBN' in str(cfg.model)
        size['norm_batch'] = loader.get('batch_size', 0) * (get_world_size() if is_synced else 1)
    size['pixels'] = side_of(getattr(model, 'backbone', None)) or getattr(
        runner, 'sample_side', None)
    if (data := training_data(runner)) is not None:
        size['num_train'] = len(data)
    return {k: v for k, v in size.items() if v is not None}


def side_of(backbone):
    """Pixels a side that a backbone is made for, or None."""
    size = getattr(backbone, 'img_size', None)
    return size[0] if isinstance(size, (tuple, list)) else size


NAMES = dict(num_train='training images', iters='iterations', pixels='pixels a side',
             batch_size='images in a batch', norm_batch='images in a batch norm')


def why_reduced(full, size):
    """'' or in what a run is smaller than the paper's size, as '20 of 90 epochs, ...'."""
    return ', '.join(f'{size[k]} of {v} {NAMES.get(k, k)}' for k, v in full.items()
                     if k in size and (size[k] < v or k == 'batch_size' and size[k] != v))


def why_enlarged(full, size):
    """'' or in what a run is larger than the paper's size, as '1600 instead of 800 epochs, ...'."""
    return ', '.join(f'{size[k]} instead of {v} {NAMES.get(k, k)}' for k, v in full.items()
                     if k in size and size[k] > v and k not in ('batch_size', 'norm_batch'))


def run_identity(runner):
    """What a resumed run must have in common with the one that was stopped."""
    size = run_size(runner)
    shared = ('batch_size', 'norm_batch', 'num_train', 'epochs', 'iters')
    loader = getattr(getattr(runner, '_train_loop', None), 'dataloader', None)
    return dict(
        seed=runner.seed, **{k: size.get(k) for k in shared},
        # mmengine counts iterations and schedules in accumulated steps.
        accumulated_steps=accumulated_steps(runner.cfg), schedule=schedule_of(runner.cfg),
        parts=parts_behind(runner), world_size=get_world_size(),
        epoch_length=loader and len(loader),
        data=loader and images_fingerprint(training_data(runner)))


def changes(before, now, allow_elastic=False):
    """What keeps a run from being resumed, a short text for each field; [] if nothing does.

    Fields that ``before``, of an older checkpoint, does not have are not compared.
    allow_elastic: another number of processes is no reason. The global batch still has to be the
    same, made of batches of another size: batches, samples and masks then are those of before.
    Numbers that are drawn in the model (drop path, mixup) are not; MAE's pre-training has none.
    """
    wrong = [f'{k} {before[k]}, now {now[k]}' for k in now if k in before and before[k] != now[k]
             and not (k == 'world_size' and allow_elastic)]
    if len(wrong) == 1 and wrong[0].startswith('world_size'):
        wrong[-1] += ' (at the same global batch; --allow-elastic accepts that)'
    return wrong


def config_changes(before, now):
    """'key: old -> new' for what differs; [] for a checkpoint that has no such dict.

    Keys that only one of them has count too, unless the older one did not record such keys yet.
    """
    known = before or {}
    is_old = 'precision' not in known
    return [f'{k}: {known.get(k, "absent")} -> {now.get(k, "absent")}'
            for k in sorted({*known} & {*now} if is_old else {*known, *now})
            if known.get(k) != now.get(k)]


def schedule_of(cfg):
    """The learning-rate schedules, a short text each, counted in epochs or updates."""
    steps = accumulated_steps(cfg)
    return [short(s if s.get('by_epoch', True) else per_update(s, steps))
            for s in schedules_of(cfg)]


def parts_behind(runner):
    """Where the parts of a pre-training came from, or None."""
    online = getattr(unwrapped(runner.model), 'online_parts', None)
    if online is not None:
        return dict({k: v for k, v in online.identity.items() if k != 'learner'}, source='online')
    store = getattr(training_data(runner), 'store', None)
    if store is None:
        return None
    return {k: store.manifest.get(k) for k in ('learner_sha256', 'encoder_sha256', 'source', 'grid',
                                               'num_parts', 'images_sha256')}


def evaluated_data(runner):
    """The data set of the test if there is one, else of the validation, or None."""
    loops = (getattr(runner, name, None) for name in ('_test_loop', '_val_loop'))
    return next((loop.dataloader.dataset for loop in loops if hasattr(loop, 'dataloader')), None)


def split_of(runner):
    """The evaluated images: how many, and a hash of their names."""
    dataset = evaluated_data(runner)
    names = (Path(dataset.get_data_info(i)['img_path']).name for i in range(len(dataset)))
    return dict(split_images=len(dataset),
                split_sha256=hashlib.sha256('\n'.join(names).encode()).hexdigest()[:12])


# Fields that only a training decides. k-NN has none, and its batches change nothing.
OF_TRAINING = ('precision', 'batch_size', 'norm_batch', 'optim_wrapper.', 'param_scheduler.',
               'custom_hooks.', 'default_hooks.', 'train_cfg.', 'train_dataloader.drop_last',
               'train_dataloader.sampler.', 'env_cfg.')


def protocol_of(runner, weights, size, is_test=False):
    """Everything that must be equal for two numbers to be comparable, as plain data.

    Facts of the run, and every key of the resolved config that can change a weight or a metric
    (`identity.training_fields`), whatever the model is. weights: `ResultRecorder.describe`.
    """
    cfg = runner.cfg
    measured = dict(dataset=cfg.result.dataset, split=cfg.result.split)
    if cfg.model.type == 'semmae.PartLearner':
        learner = unwrapped(runner.model)
        return dict(measured, grid=learner.grid, num_parts=learner.num_parts,
                    test_pipeline=pipeline(cfg.test_dataloader),
                    encoder=(weights.get('encoder') or {}).get('name'),
                    background=cfg.result.get('background'))
    protocol = dict(
        measured, **{k: v for k, v in size.items() if k != 'pixels'},
        train_images=images_fingerprint(training_data(runner), with_sizes=True),
        val_images=images_fingerprint(evaluated_data(runner), with_sizes=True),
        **training_fields(cfg),
        **evaluation_fields(cfg, is_test), **probe_parts(runner),
        pretraining={k: weights.get(k) for k in ('epochs', 'num_train', 'batch_size')})
    if (cfg.get('train_cfg') or {}).get('type') == 'semmae.KNNLoop':
        protocol = {k: v for k, v in protocol.items() if not k.startswith(OF_TRAINING)}
    return protocol


START = re.compile(r'\.(init_cfg|pretrained)(\.|$)')  # weights that a tested checkpoint replaces


def probe_parts(runner):
    """Which part stores choose the patches that a probe looks at, in training and evaluation."""
    return (pipeline_parts('train_parts', training_data(runner))
            | pipeline_parts('val_parts', evaluated_data(runner)))


def is_batch_norm(*types):
    return set(map(str, types)) == {'BN', 'SyncBN'}  # the same in evaluation


def protocol_of_test(trained, tested):
    """The protocol of a test: that of the training, and what the test itself decides.

    Keys of the model that a test has changed stand under ``test.``.
    """
    own = ('dataset', 'split', 'val_')
    changed = {f'test.{k}': tested.get(k, 'absent') for k in sorted({*trained, *tested})
               if k.startswith('model.') and trained.get(k) != tested.get(k)
               and not START.search(k) and not is_batch_norm(trained.get(k), tested.get(k))}
    return ({k: v for k, v in trained.items() if not k.startswith(own)}
            | {k: v for k, v in tested.items() if k.startswith(own)}
            | (changed if 'precision' in trained else {}))


def model_facts(model, cfg):
    """What a network is, for the cells of a table: its type, arch, sizes and parameters."""
    backbone = getattr(model, 'backbone', None)
    layers = getattr(backbone, 'layers', None)
    patch = getattr(backbone, 'patch_size', None)
    return dict(type=str((cfg.model.get('backbone') or {}).get('type')),
                width=getattr(backbone, 'embed_dims', None),
                depth=len(layers) if hasattr(layers, '__len__') else None,
                patch_size=patch if isinstance(patch, int) else None,
                pixels=side_of(backbone),
                parameters=sum(p.numel() for p in getattr(backbone, 'parameters', list)()))


def plain(value):
    """Config values as plain dicts, lists and numbers."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value


def pipeline(loader):
    """A data loader's transforms, one short text each, without paths and packing."""
    dataset = (loader or {}).get('dataset') or {}
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    steps = [s for s in dataset.get('pipeline') or []
             if not any(word in s['type'] for word in ('Pack', 'LoadImage', 'LoadAnnot'))]
    return [short({k: v for k, v in s.items() if k not in ('store', 'root')}) for s in steps]


def short(step):
    """``Resize(scale=(64, 64))`` of a config dict."""
    step = dict(step)
    kind = str(step.pop('type')).split('.')[-1]
    return f'{kind}({", ".join(f"{k}={v}" for k, v in sorted(step.items()))})'
