"""What the classification probes share: the grid, the standardised input, the top-1 score.

N images, B images of a chunk, S settings, D channels, C classes.
"""
import math
from abc import abstractmethod
from typing import Any

import numpy as np
import torch

from ..progress_bar import track
from .features import Features, Task
from .grid import by_key, grid_of, layers_of
from .probe import Probe
from .standard import chunks

TOKENS = ('class', 'mean', 'class+mean')  # 'class+mean' concatenates both: (N, 2D)


def read(data: Features, layer: int, tokens: str, index: np.ndarray) -> torch.Tensor:
    """float32 features (n, D) of the images ``index``. tokens: one of `TOKENS`."""
    return torch.cat([data.tokens(layer, kind, index) for kind in tokens.split('+')], 1)


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
        return grid_of(layer=layers_of(self.layers, layers), **self.axes)

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
        groups = by_key(settings, 'layer', 'tokens').values()
        return [(numbers, self.fit_head(data, index, labels, [settings[n] for n in numbers], task,
                                        seed, device)) for numbers in groups]

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
            for part in track(chunks(index, head.chunk), 'choosing', len(index), size=len):
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
