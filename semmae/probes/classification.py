"""What the classification probes share: the grid, the standardised input, the top-1 score.

N images, B images of a chunk, S settings, D channels, C classes.
"""
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch

from .features import Features, Task
from .probe import Probe

TOKENS = ('class', 'mean', 'class+mean')  # 'class+mean' concatenates both: (N, 2D)
EPS = 1e-6  # MAE's batch norm before the linear classifier


def read(data: Features, layer: int, tokens: str, index: np.ndarray) -> torch.Tensor:
    """float32 features (n, D) of the images ``index``. tokens: one of `TOKENS`."""
    return torch.cat([data.tokens(layer, kind, index) for kind in tokens.split('+')], 1)


def chunks(index: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """``index`` in order, ``size`` images at a time; the last chunk may be smaller."""
    return (index[start:start + size] for start in range(0, len(index), size))


@dataclass
class Standard:
    """Standardises channels by statistics of the training images. mean, scale: (D,).

    This is batch norm without affine as in MAE's linear probe, with the statistics of all training
    images instead of those of a batch.
    """
    mean: torch.Tensor
    scale: torch.Tensor

    @classmethod
    def of(cls, read: Callable[[np.ndarray], torch.Tensor], index: np.ndarray, chunk: int,
           device: str) -> 'Standard':
        """Statistics over the tokens (..., D) that ``read`` returns for ``index``, read in chunks.

        Raises ValueError for features with NaN or infinity.
        """
        count, total, squares = 0, torch.zeros(1), torch.zeros(1)
        for part in chunks(index, chunk):
            tokens = read(part).flatten(0, -2).double()
            count, total = count + len(tokens), total + tokens.sum(0)
            squares = squares + tokens.square().sum(0)
        mean = total / count
        if not mean.isfinite().all():
            raise ValueError('got NaN or infinite features, expected finite ones. Check the '
                             'checkpoint for NaN')
        variance = (squares / count - mean.square()).clamp(min=0)
        return cls(mean.float().to(device), (variance + EPS).rsqrt().float().to(device))

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens.to(self.mean.device).sub(self.mean).mul_(self.scale)


class ClassificationProbe(Probe):
    """A probe whose settings are all combinations of layer, tokens and its own ``axes``.

    layers: the layers to read: None for the last stored one, 'all', or a tuple of stored layers.
    tokens: any of `TOKENS`. Settings with equal layer and tokens share an input and are fitted
    together. Raises ValueError for unknown tokens and for an axis without values.
    """
    known: tuple[str, ...] = TOKENS

    def __init__(self, layers, tokens, **axes):
        self.layers, self.axes = layers, dict(tokens=tuple(tokens), **axes)
        unknown = [kind for kind in self.axes['tokens'] if kind not in self.known]
        if unknown:
            raise ValueError(f"tokens={unknown}, expected any of: {', '.join(self.known)}")
        empty = [name for name, values in self.axes.items() if not len(values)]
        if empty or layers == ():
            raise ValueError(f"{type(self).__name__} has no settings: got no values for "
                             f"{', '.join(empty) or 'layers'}, expected at least one each")

    def settings(self, layers):
        wanted = (layers[-1:] if self.layers is None else layers if self.layers == 'all'
                  else tuple(self.layers))
        missing = sorted(set(wanted) - set(layers))
        if missing:
            raise ValueError(f'layers={missing} are not stored, expected any of: '
                             f"{', '.join(map(str, layers))}")
        return [dict(zip(('layer', *self.axes), values))
                for values in product(wanted, *self.axes.values())]

    def fit(self, data, index, settings, task, seed, device='cpu'):
        """[(numbers of the settings, their head)], one head for each input.

        A head is called with (data, index of B images) and returns probabilities (S, B, C); NaN
        for a setting that diverged. Its ``chunk`` is the largest B that it should get.
        Raises ValueError without settings or images, and for labels outside of 0..C-1.
        """
        if not settings or not len(index):
            raise ValueError(f'got {len(settings)} settings and {len(index)} training images, '
                             'expected at least one of each')
        labels = torch.as_tensor(np.asarray(data.labels)[index], dtype=torch.long)
        if labels.min() < 0 or labels.max() >= task.num_classes:
            raise ValueError(f'got labels from {labels.min()} to {labels.max()}, expected 0 to '
                             f'{task.num_classes - 1}; set num_classes of the task')
        groups: dict[tuple[int, str], list[int]] = {}
        for number, setting in enumerate(settings):
            groups.setdefault((setting['layer'], setting['tokens']), []).append(number)
        return [(numbers, self.fit_head(data, index, labels, [settings[n] for n in numbers], task,
                                        seed, device)) for numbers in groups.values()]

    @abstractmethod
    def fit_head(self, data: Features, index: np.ndarray, labels: torch.Tensor,
                 settings: list[dict[str, Any]], task: Task, seed: int, device: str) -> Any:
        """The head of ``settings``, which share layer and tokens. labels: (N,) of ``index``."""

    def score(self, fitted, data, index, task):
        """Top-1 in percent of each setting; minus infinity for a setting that diverged."""
        labels = torch.as_tensor(np.asarray(data.labels))
        scores = [-math.inf] * sum(len(numbers) for numbers, _ in fitted)
        for numbers, head in fitted:
            right = torch.zeros(len(numbers), dtype=torch.long)
            finite = torch.ones(len(numbers), dtype=torch.bool)
            for part in chunks(index, head.chunk):
                best, found = head(data, part).max(2)  # NaN if any class has NaN
                finite &= best.isfinite().all(1).cpu()
                right += (found.cpu() == labels[part]).sum(1)
            for number, hits, is_finite in zip(numbers, right.tolist(), finite.tolist()):
                if is_finite:
                    scores[number] = 100 * hits / len(index)
        return scores

    def predict(self, fitted, number, data, index, task):
        """(C,) probabilities of each image. Raises ValueError for a setting that diverged."""
        numbers, head = next(group for group in fitted if number in group[0])
        at = numbers.index(number)
        for part in chunks(index, head.chunk):
            shares = head(data, part)[at].cpu()
            if not shares.isfinite().all():
                raise ValueError(f'{type(self).__name__}: setting {number} predicts NaN, expected '
                                 'finite scores: it diverged (lower lr), or k is above the number '
                                 'of training images')
            yield from shares
