"""Under which conditions a run trained and measured, as plain data for results.jsonl."""
import hashlib
from pathlib import Path

import numpy as np
from mmengine.dist import get_world_size
from torch.nn.modules.batchnorm import _BatchNorm

from ..datasets.seeded import Seeded
from .config import dotted
from .hooks import unwrapped


def accumulated_steps(cfg):
    """Iterations of mmengine for one update of the weights."""
    return (cfg.get('optim_wrapper') or {}).get('accumulative_counts', 1)


def run_size(runner):
    """Epochs or updates, image side, global batch and training images of a run's config.

    norm_batch: images over which batch norm normalises, if the model has one. Accumulation does not
    enlarge it.
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
    backbone = getattr(model, 'backbone', None)
    if hasattr(backbone, 'img_size'):
        size['pixels'] = backbone.img_size[0]
    built = getattr(runner, '_train_loop', None)
    if hasattr(built, 'dataloader'):
        data = built.dataloader.dataset
        size['num_train'] = len(data.dataset if isinstance(data, Seeded) else data)
    return {k: v for k, v in size.items() if v is not None}


def why_reduced(full, size):
    """'' or how it differs from the paper's size, as '20 of 90 epochs, ...'."""
    names = dict(num_train='training images', iters='iterations', pixels='pixels a side',
                 batch_size='images in a batch', norm_batch='images in a batch norm')
    return ', '.join(f'{size[k]} of {v} {names.get(k, k)}' for k, v in full.items()
                     if k in size and (size[k] < v or k == 'batch_size' and size[k] != v))


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
        epoch_length=loader and len(loader), data=loader and data_fingerprint(loader))


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


# Where things lie, and what a resumed run takes from its checkpoint.
PLACES = ('init_cfg', 'checkpoint', 'store', 'root', 'data_root', 'part_store', 'label_root',
          'num_workers', 'accumulative_counts')


def trained_config(cfg):
    """{key: value} of all that decides what a training does to weights, as plain values."""
    data = (cfg.get('train_dataloader') or {}).get('dataset') or {}
    while 'dataset' in data:
        data = data['dataset']
    groups = dict(model=cfg.get('model'), optim_wrapper=cfg.get('optim_wrapper'),
                  pipeline=data.get('pipeline'), compile=cfg.get('compiled'))
    found = dotted({k: plain(v) for k, v in groups.items() if v})
    return {key: value if isinstance(value, (bool, int, float, str, type(None))) else str(value)
            for key, value in found if not isinstance(value, (dict, list))
            and not {*PLACES} & {*key.split('.')}}


def config_changes(before, now):
    """'key: old -> new' for what differs; [] for a checkpoint that has no such dict."""
    return [f'{k}: {before.get(k, "absent")} -> {now.get(k, "absent")}'
            for k in sorted({*before, *now}) if before.get(k) != now.get(k)] if before else []


def data_fingerprint(loader, num=1000):
    """A short hash of the folder, name and label of ``num`` training images, evenly spaced.

    Of few, since it is taken at each checkpoint; an image more or less moves all that follow.
    """
    data = loader.dataset
    data = data.dataset if isinstance(data, Seeded) else data
    if not hasattr(data, 'get_data_info'):
        return None
    found = hashlib.sha256()
    for i in np.linspace(0, len(data) - 1, min(num, len(data))).round().astype(int):
        info = data.get_data_info(int(i))
        name = Path(info.get('img_path', '')).parts[-2:]
        found.update(f'{"/".join(name)} {info.get("gt_label")}\n'.encode())
    return found.hexdigest()[:12]


def schedule_of(cfg):
    """The learning-rate schedules, a short text each, counted in epochs or updates."""
    steps, texts = accumulated_steps(cfg), []
    for schedule in cfg.get('param_scheduler') or []:
        schedule = dict(schedule)
        if not schedule.get('by_epoch', True):
            for key in {'begin', 'end', 'T_max', 'milestones'} & set(schedule):
                value = schedule[key]
                schedule[key] = ([v // steps for v in value] if isinstance(value, (list, tuple))
                                 else value // steps)
        texts.append(short(schedule))
    return texts


def parts_behind(runner):
    """Where the parts of a pre-training came from, or None."""
    online = getattr(unwrapped(runner.model), 'online_parts', None)
    if online is not None:
        return dict(online.identity, source='online')
    loop = getattr(runner, '_train_loop', None)
    data = getattr(getattr(loop, 'dataloader', None), 'dataset', None)
    store = getattr(getattr(data, 'dataset', None), 'store', None)
    if store is None:
        return None
    return {k: store.manifest.get(k) for k in ('learner_sha256', 'encoder_sha256', 'source', 'grid',
                                               'num_parts', 'images_sha256')}


# What only a training decides. k-NN has none, and its batches change nothing.
TRAINED = ('schedule', 'batch_size', 'norm_batch', 'optimizer', 'lr', 'paramwise', 'clip_grad',
           'drop_path', 'batch_augments')

# Options of the ViT that have a field of their own, or none because they are no condition.
NAMED = ('type', 'init_cfg', 'arch', 'img_size', 'patch_size', 'drop_path_rate', 'is_frozen',
         'rel_pos_bias', 'out_type', 'out_indices')

# What a test decides anew; everything else of a protocol is that of the training.
TESTED = ('dataset', 'split', 'num_classes', 'test_pipeline', 'test_mode')


def split_of(runner):
    """The evaluated images: how many, and a hash of their names."""
    loop = getattr(runner, '_val_loop', None)
    if not hasattr(loop, 'dataloader') or getattr(runner, '_test_loop', None) is not None \
            and hasattr(runner._test_loop, 'dataloader'):
        loop = runner._test_loop
    dataset = loop.dataloader.dataset
    names = (Path(dataset.get_data_info(i)['img_path']).name for i in range(len(dataset)))
    return dict(split_images=len(dataset),
                split_sha256=hashlib.sha256('\n'.join(names).encode()).hexdigest()[:12])


def protocol_of(runner, weights, size):
    """Everything that must be equal for two numbers to be comparable, as plain data."""
    cfg, model = runner.cfg, runner.cfg.model
    if model.type == 'semmae.PartLearner':
        learner = unwrapped(runner.model)
        return dict(dataset=cfg.result.dataset, split=cfg.result.split, grid=learner.grid,
                    num_parts=learner.num_parts, test_pipeline=pipeline(cfg.test_dataloader),
                    encoder=(weights.get('encoder') or {}).get('name'),
                    background=cfg.result.get('background'))
    optim = cfg.get('optim_wrapper') or {}
    optimizer = dict(optim.get('optimizer') or {})
    backbone = unwrapped(runner.model).backbone
    vit = model.backbone
    protocol = dict(
        dataset=cfg.result.dataset, split=cfg.result.split, num_classes=model_classes(model),
        input_size=list(backbone.img_size), patch_size=backbone.patch_size,
        tokens=(model.get('num_candidates')
                or backbone.patch_resolution[0] * backbone.patch_resolution[1]),
        arch=vit.arch if isinstance(vit.arch, str) else dict(vit.arch),
        backbone={k: v for k, v in vit.items() if k not in NAMED},
        schedule=schedule_of(cfg),
        **{k: v for k, v in size.items() if k not in ('num_train', 'pixels')},
        optimizer=optimizer.pop('type', None), **optimizer,
        paramwise={k: v for k, v in (optim.get('paramwise_cfg') or {}).items()},
        precision=optim.get('dtype', 'float32') if 'Amp' in optim.get('type', '')
        else 'float32', clip_grad=optim.get('clip_grad'), drop_path=vit.get('drop_path_rate', 0.),
        frozen=vit.get('is_frozen', False), rel_pos_bias=vit.get('rel_pos_bias', False),
        pooling=vit.get('out_type'), out_indices=vit.get('out_indices'),
        heads={k: short(model[k]) for k in ('neck', 'head', 'decode_head', 'auxiliary_head')
               if model.get(k)},
        augmentation=pipeline(cfg.get('train_dataloader')), batch_augments=model.get('train_cfg'),
        test_pipeline=pipeline(cfg.get('val_dataloader') or cfg.get('test_dataloader')),
        test_mode=model.get('test_cfg'),
        pretraining={k: weights.get(k) for k in ('epochs', 'num_train', 'batch_size')})
    if (cfg.get('train_cfg') or {}).get('type') == 'semmae.KNNLoop':
        protocol = {k: v for k, v in protocol.items() if k not in TRAINED}
    return protocol


def plain(value):
    """Config values as plain dicts, lists and numbers."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value


def model_classes(model):
    head = model.get('head') or model.get('decode_head') or {}
    return head.get('num_classes')


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
