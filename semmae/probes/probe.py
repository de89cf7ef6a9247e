"""A probe, and how its setting is chosen: on held-out training images, never on test images.

N images, S settings, C classes.
"""
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from .features import Features, Task

HELD_OUT = .1  # share of the training images on which the setting is chosen
SPLIT_SEED = 0  # of the held-out images; the same for every probe, seed and backbone


class Probe(ABC):
    """A head on frozen features. One object fits many settings, together where it can.

    A setting is a flat dict of plain values, for example dict(layer=11, tokens='class', lr=0.1).
    """

    @abstractmethod
    def settings(self, layers: tuple[int, ...]) -> list[dict[str, Any]]:
        """All settings to try on the stored layers, in a fixed order."""

    @abstractmethod
    def fit(self, data: Features, index: np.ndarray, settings: list[dict[str, Any]], task: Task,
            seed: int, device: str = 'cpu') -> Any:
        """Fitted heads of all ``settings`` on the images ``index`` of ``data``."""

    @abstractmethod
    def score(self, fitted: Any, data: Features, index: np.ndarray, task: Task) -> list[float]:
        """The measure of choice of each setting on the images ``index``; larger is better."""

    @abstractmethod
    def predict(self, fitted: Any, number: int, data: Features, index: np.ndarray,
                task: Task) -> Iterator[torch.Tensor]:
        """The prediction of setting ``number`` for each image of ``index``, one after the other.

        Classification: (C,) float32 scores that sum to 1. Segmentation: (H, W) int64 classes at the
        resolution of the label map. Depth: (H, W) float32 metres.
        """


def split(data: Features, task: Task, held_out: float = HELD_OUT, index: np.ndarray | None = None
          ) -> tuple[np.ndarray, np.ndarray]:
    """(indices to fit, indices to choose on), both sorted; depends on the data set only.

    index: the training images to split, for example those of `low_shot`; None for all.
    A classification holds out the share of each class, at least one image of a class with two.
    Raises ValueError for data that leave nothing to fit or to choose on.
    """
    order = np.random.default_rng(SPLIT_SEED).permutation(len(data))
    if index is not None:
        order = order[np.isin(order, index)]
    if task.kind == 'classification':
        chosen = np.concatenate([
            of_class[:max(round(held_out * len(of_class)), int(len(of_class) > 1))]
            for of_class in by_class(data.labels, order)])
    else:
        chosen = order[:max(round(held_out * len(order)), 1)]
    rest = np.setdiff1d(order, chosen)
    if not len(chosen) or not len(rest):
        raise ValueError(f'{len(order)} training images are too few to hold out {held_out:.0%} of '
                         'them for choosing a setting; expected two of a class. Without this '
                         'probe: model.probes.NAME=None')
    return rest, np.sort(chosen)


def by_class(labels: Any, order: np.ndarray) -> list[np.ndarray]:
    """The indices ``order`` of the images of each class, in that order. labels: (N,)."""
    ordered = np.asarray(labels)[order]
    return [order[ordered == label] for label in np.unique(ordered)]


def low_shot(labels: Any, fraction: float, seed: int) -> np.ndarray:
    """Sorted indices of the share ``fraction`` of the images of each class, at least one of each.

    0.01 and 0.1 give the 1 % and 10 % of semi-supervised ImageNet (SimCLR, Chen et al. 2020,
    whose lists of files are fixed; ours are drawn from ``seed``). labels: (N,) classes.
    Raises ValueError unless 0 < fraction <= 1.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f'fraction={fraction}, expected a number above 0 and at most 1')
    order = np.random.default_rng(seed).permutation(len(labels))
    return np.sort(np.concatenate([of_class[:max(round(fraction * len(of_class)), 1)]
                                   for of_class in by_class(labels, order)]))


def available(settings: list[dict[str, Any]], data: Features) -> list[dict[str, Any]]:
    """The settings whose tokens are stored; of a backbone without a class token those of the mean.
    """
    def has(setting: dict[str, Any]) -> bool:
        return all(is_stored(data, setting['layer'], kind)
                   for kind in setting.get('tokens', '').split('+') if kind)

    def without_class(setting: dict[str, Any]) -> dict[str, Any]:
        return dict(setting, tokens='mean') if setting.get('tokens') == 'class' else setting

    return [s for s in settings if has(s)] or [
        s for s in map(without_class, settings) if has(s)] or settings


def is_stored(data: Features, layer: int, kind: str) -> bool:
    """Whether tokens of this layer and kind can be read."""
    try:
        data.tokens(layer, kind, slice(0, 0))
    except ValueError:
        return False
    return True


def choose(probe: Probe, data: Features, task: Task, seed: int, device: str = 'cpu',
           index: np.ndarray | None = None) -> tuple[dict[str, Any], list[float]]:
    """(the best setting, the scores of all settings) on held-out training images.

    index: the training images to use; None for all. Of equal scores the first setting wins.
    With one setting nothing is held out. A setting that diverged scores NaN or minus infinity and
    never wins. Raises ValueError if all diverged.
    """
    settings = available(probe.settings(data.layers), data)
    if len(settings) == 1:
        return settings[0], []
    fit, held_out = split(data, task, index=index)
    scores = probe.score(probe.fit(data, fit, settings, task, seed, device), data, held_out, task)
    finite = np.isfinite(scores)
    if not finite.any():
        raise ValueError(f'{type(probe).__name__}: all {len(settings)} settings diverged: their '
                         'scores are NaN or infinite. Lower the learning rates')
    return settings[int(np.argmax(np.where(finite, scores, -np.inf)))], scores
