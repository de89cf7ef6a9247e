"""One sample goes through the model before the first step, so that a config that does not fit
together ends in a sentence and not in the middle of a training."""
import contextlib
import logging
import random

import numpy as np
import torch
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop

from ..datasets.image_reading import DamagedImage
from ..datasets.seeded import Seeded, SeededSampler, seed_cpu
from ..models.layers import unwrapped
from .length import require_schedules


def require_consistent(runner):
    """ValueError where the data, the model and its losses do not fit each other.

    Reads the first training sample and computes its losses without gradients, in evaluation mode.
    Random numbers, weights, buffers and what a model remembers are afterwards as before.
    """
    model, loader = unwrapped(runner.model), runner.train_dataloader
    if not isinstance(runner.train_loop, (EpochBasedTrainLoop, IterBasedTrainLoop)):
        runner.is_consistent = True
        return  # nothing is trained (k-NN)
    if isinstance(loader.dataset, Seeded) and not isinstance(
            getattr(loader, 'sampler', None), SeededSampler):
        raise ValueError(f'train_dataloader.sampler is a {type(loader.sampler).__name__}, expected '
                         "dict(type='semmae.SeededSampler') for a semmae.Seeded data set")
    with undrawn():
        sample = first_sample(loader)
    if hasattr(image := sample.get('inputs'), 'shape'):
        runner.sample_side = image.shape[-1]
    require_shapes(model, sample)
    batch = loader.collate_fn([sample])
    was_training, kept = model.training, dict(vars(model))
    buffers = [(b, b.clone()) for b in model.buffers()]
    try:
        # Compiled for this batch of one, a model would be compiled for any size with the next.
        with undrawn(), torch.no_grad(), torch.compiler.set_stance('force_eager'):
            model.eval()
            batch = model.data_preprocessor(batch, True)
            losses = model(**batch, mode='loss')
    except Exception as error:
        shapes = {k: tuple(v.shape) for k, v in named_arrays(sample)}
        raise ValueError(
            f'the first sample does not go through the model: {type(error).__name__}: {error}. '
            f'Found {shapes}; expected what img_size, patch_size, grid, num_parts, widths and '
            'num_classes of the model say. Change them or the pipeline') from error
    finally:
        for buffer, value in buffers:
            buffer.copy_(value)
        vars(model).update(kept)
        model.train(was_training)
    for name, value in losses.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        if 'loss' in name and not all(v.isfinite().all() for v in values):
            raise ValueError(f'{name} of the first sample is not finite before the first step; '
                             'look at its image, the checkpoint and the precision')
    runner.is_consistent = True


def require_evaluation(runner, metrics):
    """ValueError where the first validation sample does not go through model and evaluator.

    metrics: names that the evaluator has to give. Nothing of the trial is left in model, metrics
    or random numbers. k-NN, which remembers the training images first, is not tried.
    """
    if not isinstance(runner.train_loop, (EpochBasedTrainLoop, IterBasedTrainLoop)):
        return
    model, loop = unwrapped(runner.model), runner.val_loop
    loader, evaluator = loop.dataloader, loop.evaluator
    was_training = model.training
    kept = [(thing, dict(vars(thing))) for thing in (model, *evaluator.metrics)]
    try:
        with undrawn(), torch.no_grad(), torch.compiler.set_stance('force_eager'):
            model.eval()
            batch = loader.collate_fn([loader.dataset[0]])
            outputs = model.val_step(batch)
            evaluator.process(data_samples=outputs, data_batch=batch)
            given = set().union(*map(names_given, evaluator.metrics))
    except Exception as error:
        raise ValueError(
            f'the first validation sample cannot be evaluated: {type(error).__name__}: {error}. '
            'Expected that model, val_dataloader and val_evaluator go together; this would have '
            'ended the training at its first validation') from error
    finally:
        for metric in evaluator.metrics:
            metric.results.clear()
        for thing, state in kept:
            vars(thing).update(state)
        model.train(was_training)
    if None not in given and not {*metrics} & given:
        raise ValueError(f'result.metric is {metrics}, the evaluator gives {sorted(given)}; '
                         'expected one of these')


def names_given(metric):
    """Names under which a metric reports what it has seen; {None} where one sample is too few.

    Without the other processes, of which one may have failed.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # mmseg prints its table
    try:
        found = metric.compute_metrics(list(metric.results))
    except Exception:
        return {None}
    finally:
        logging.disable(before)
    return {f'{metric.prefix}/{name}' if metric.prefix else name for name in found}


@contextlib.contextmanager
def undrawn():
    """Random numbers that are drawn inside come again afterwards."""
    python, numbers = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        yield
    random.setstate(python)
    np.random.set_state(numbers)


def require_numbers(cfg):
    """ValueError for lengths and intervals of a training that are no positive whole numbers.

    And for schedules of the learning rate that end before or after the training.
    """
    for key in ('train_cfg.max_epochs', 'train_cfg.max_iters', 'train_cfg.val_interval',
                'train_dataloader.batch_size', 'optim_wrapper.accumulative_counts',
                'default_hooks.checkpoint.interval', 'default_hooks.logger.interval'):
        value = cfg
        for part in key.split('.'):
            value = value.get(part) if hasattr(value, 'get') else None
        if value is not None and (isinstance(value, bool) or value != int(value)
                                  or value <= 0 and value != -1):
            raise ValueError(f'{key} is {value}, expected a whole number above 0')
    require_schedules(cfg)


@contextlib.contextmanager
def built_from(cfg, is_built=lambda: False):
    """What mmengine says of a config that it cannot build, as a ValueError.

    is_built: says when that is done; errors of a training are no mistakes of its config.
    """
    try:
        yield
    except (KeyError, TypeError, AttributeError, AssertionError, ImportError, IndexError) as error:
        if is_built():
            raise
        text = error.args[0] if error.args else type(error).__name__
        said = str(text).partition('. Please')[0].rstrip('.')
        hint = ''
        if isinstance(error, ImportError) and error.name:
            hint = f' Install it: pip install {error.name}'
        elif 'epoch_length' in said:
            hint = (' The training images do not fill one batch: lower train_dataloader.batch_size,'
                    ' or repeat them: train_dataloader.dataset.min_length')
        raise ValueError(f'{cfg.filename} cannot be built: {type(error).__name__}: '
                         f'{said}.{hint}') from error


def first_sample(loader):
    """The first sample whose image is whole, as the first epoch sees it."""
    data = loader.dataset
    if not isinstance(data, Seeded):
        return data[0]
    for index in range(len(data.dataset)):
        with contextlib.suppress(DamagedImage):
            seed_cpu(data.seed, 0, index)
            return data.dataset[index]  # past `SeededOrNext`, which would count it as damaged
    raise ValueError('no training image can be read')


def named_arrays(sample, prefix=''):
    for key, value in sample.items():
        if isinstance(value, dict):
            yield from named_arrays(value, f'{prefix}{key}.')
        elif hasattr(value, 'shape'):
            yield f'{prefix}{key}', value


def require_shapes(model, sample):
    """The commonest mistakes, by their keys: image size, and how many random numbers masks take."""
    found = dict(named_arrays(sample))
    size = getattr(getattr(model, 'backbone', None), 'img_size', None)
    if 'inputs' in found and size is not None:
        size = (size, size) if isinstance(size, int) else tuple(size)
        patch = getattr(model.backbone, 'patch_size', 1)
        if isinstance(patch, int) and any(side % patch for side in size):
            raise ValueError(f'model.backbone.img_size is {size} and patch_size {patch}, which '
                             'leaves pixels over; expected a multiple of it')
        pixels = tuple(found['inputs'].shape[-2:])
        # mmseg fills a photo that is smaller than the crop up to this.
        if padded := getattr(getattr(model, 'data_preprocessor', None), 'size', None):
            pixels = tuple(map(max, pixels, padded))
        if pixels != size:
            raise ValueError(f'the pipeline makes images of {pixels} pixels, model.backbone.'
                             f'img_size is {size}; expected the same. Change img_size, or the '
                             'size, scale and crop_size of the transforms')
    decoder, noise = getattr(model, 'decoder', None), found.get('noise')
    if noise is not None and hasattr(decoder, 'grid') and hasattr(model, 'masking'):
        wanted = decoder.grid[0] * decoder.grid[1] + getattr(model.masking, 'num_parts', 0)
        if noise.numel() != wanted:
            raise ValueError(
                f'num_noise of the last transform is {noise.numel()}, expected {wanted}: a number '
                'for each patch of model.decoder.grid and each of model.masking.num_parts')
