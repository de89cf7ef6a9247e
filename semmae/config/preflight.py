"""Checks before the first step: one sample goes through the model, and numbers are in range."""
import contextlib
import logging
import random
from collections.abc import Callable, Iterator

import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from ..datasets.image_files import DamagedImage
from ..datasets.seeded import Seeded, SeededSampler, seed_cpu
from ..models.layers import unwrapped
from .length import require_schedules
from .lookup import Fields, Node, at, walk


def require_consistent(runner: Runner) -> None:
    """Raises ValueError where the data, the model and its losses do not fit each other.

    Reads the first training sample and computes its losses without gradients, in evaluation mode.
    Random state, weights, buffers and attributes of the model are unchanged afterwards.
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
    try:
        with trial(model):
            losses = model(**model.data_preprocessor(batch, True), mode='loss')
    except Exception as error:
        shapes = {k: tuple(v.shape) for k, v in arrays_of(sample).items()}
        raise ValueError(
            f'the first sample does not go through the model: {type(error).__name__}: {error}. '
            f'Got {shapes}, expected the img_size, patch_size, grid, num_parts, widths and '
            'num_classes of the model. Change them or the pipeline') from error
    for name, value in losses.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        if 'loss' in name and not all(v.isfinite().all() for v in values):
            raise ValueError(f'{name} of the first sample is NaN or infinite before the first '
                             'step; check its image, the checkpoint and the precision')
    runner.is_consistent = True


def require_evaluation(runner: Runner, metrics: list[str]) -> None:
    """Raises ValueError where the first validation sample cannot be evaluated.

    metrics: names; the evaluator must give one of them. Model, metrics and random state are
    unchanged afterwards. k-NN, which first stores the training features, is not tried.
    """
    if not isinstance(runner.train_loop, (EpochBasedTrainLoop, IterBasedTrainLoop)):
        return
    model, loop = unwrapped(runner.model), runner.val_loop
    loader, evaluator = loop.dataloader, loop.evaluator
    try:
        with trial(model, *evaluator.metrics):
            batch = loader.collate_fn([loader.dataset[0]])
            outputs = model.val_step(batch)
            evaluator.process(data_samples=outputs, data_batch=batch)
            given = set().union(*map(names_given, evaluator.metrics))
    except Exception as error:
        raise ValueError(
            f'the first validation sample cannot be evaluated: {type(error).__name__}: {error}. '
            'Expected a model, val_dataloader and val_evaluator that fit each other; the training '
            'would have ended at its first validation') from error
    finally:
        for metric in evaluator.metrics:
            metric.results.clear()
    if None not in given and not {*metrics} & given:
        raise ValueError(f'result.metric is {metrics}, the evaluator gives '
                         f'{sorted(map(str, given))}; expected one of these')


def names_given(metric: Node) -> set[str | None]:
    """The names of a metric's values; {None} where one sample is too few to compute them.

    Does not wait for other processes, since one may have failed.
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
def trial(model: Node, *others: Node) -> Iterator[None]:
    """Inside, the model is in evaluation mode without gradients; all state is restored at the end.

    others: further objects whose attributes are restored.
    """
    was_training, kept = model.training, [(x, dict(vars(x))) for x in (model, *others)]
    buffers = [(b, b.clone()) for b in model.buffers()]
    try:
        # Compiled for this batch of one, a model would compile again for any batch size.
        with undrawn(), torch.no_grad(), torch.compiler.set_stance('force_eager'):
            model.eval()
            yield
    finally:
        for buffer, value in buffers:
            buffer.copy_(value)
        for thing, state in kept:
            vars(thing).update(state)
        model.train(was_training)


@contextlib.contextmanager
def undrawn() -> Iterator[None]:
    """Restores the random state at the end."""
    python, numbers = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        yield
    random.setstate(python)
    np.random.set_state(numbers)


def require_numbers(cfg: Config) -> None:
    """Raises ValueError for lengths and intervals that are not positive whole numbers.

    Raises it also for learning-rate schedules that end before or after the training.
    """
    for key in ('train_cfg.max_epochs', 'train_cfg.max_iters', 'train_cfg.val_interval',
                'train_dataloader.batch_size', 'optim_wrapper.accumulative_counts',
                'default_hooks.checkpoint.interval', 'default_hooks.logger.interval'):
        value = at(cfg, key)
        if value is not None and (isinstance(value, bool) or value != int(value)
                                  or value <= 0 and value != -1):
            raise ValueError(f'{key} is {value}, expected a whole number above 0')
    require_schedules(cfg)


@contextlib.contextmanager
def built_from(cfg: Config, is_built: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Turns errors of mmengine about a config that it cannot build into a ValueError.

    is_built: whether everything is built; later errors are not mistakes of the config.
    """
    try:
        yield
    except ValueError as error:
        if is_built() or 'need at least one array' not in str(error):  # mmengine's `BaseDataset`
            raise
        raise ValueError(f'{cfg.filename}: a data set has no images. Expected files in the folders '
                         'of its data_root and data_prefix, with the suffix img_suffix') from error
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


def first_sample(loader: Node) -> Node:
    """The first sample with an undamaged image, as in the first epoch."""
    data = loader.dataset
    if not isinstance(data, Seeded):
        return data[0]
    for index in range(len(data.dataset)):
        with contextlib.suppress(DamagedImage):
            seed_cpu(data.seed, 0, index)
            return data.dataset[index]  # not through `SeededOrNext`, which counts damaged images
    raise ValueError('no training image can be read')


def arrays_of(sample: Node) -> Fields:
    """{dotted key: tensor or array} of a sample."""
    return {key: value for key, value in walk(sample) if hasattr(value, 'shape')}


def require_shapes(model: Node, sample: Node) -> None:
    """Raises ValueError for a wrong image size or number of random numbers per image."""
    found = arrays_of(sample)
    size = getattr(getattr(model, 'backbone', None), 'img_size', None)
    if getattr(model, 'backbone', None) is not None and getattr(
            model.backbone, 'takes_any_size', False):
        size = None
    if 'inputs' in found and size is not None:
        size = (size, size) if isinstance(size, int) else tuple(size)
        patch = getattr(model.backbone, 'patch_size', 1)
        if isinstance(patch, int) and any(side % patch for side in size):
            raise ValueError(f'model.backbone.img_size is {size} and patch_size {patch}, which '
                             'leaves pixels over; expected a multiple of patch_size')
        pixels = tuple(found['inputs'].shape[-2:])
        # mmseg pads a photo that is smaller than the crop to this size.
        if padded := getattr(getattr(model, 'data_preprocessor', None), 'size', None):
            pixels = tuple(map(max, pixels, padded))
        if pixels != size:
            raise ValueError(f'the pipeline makes images of {pixels} pixels, model.backbone.'
                             f'img_size is {size}; expected the same. Change img_size, or the '
                             'size, scale and crop_size of the transforms')
    grid, noise = getattr(getattr(model, 'decoder', None), 'grid', None), found.get('noise')
    if noise is not None and grid and hasattr(model, 'masking'):
        wanted = grid[0] * grid[1] + getattr(model.masking, 'num_parts', 0)
        if noise.numel() < wanted:
            raise ValueError(
                f'a sample has {noise.numel()} random numbers for its mask, expected at least '
                f'{wanted}: one for each patch of model.decoder.grid and each of '
                'model.masking.num_parts. Set grid and num_parts of the data set to the same')
