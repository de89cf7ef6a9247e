"""What a probe reads: tokens and labels of one split, from a feature store or from memory.

N images, L = h x w patches, D channels, C classes.
"""
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

KINDS = ('class', 'mean', 'patches')  # (N, D), (N, D), (N, L, D)


class Features(Protocol):
    """Tokens and labels of N images.

    labels: (N,) int64 for a classification; else a sequence of N maps (H, W) at the full
        resolution of each image: uint8 or uint16 class indices, or float32 depth in metres.
    layers: the stored layers, counted from 0. grid: (h, w) patches.
    """
    names: Sequence[str]
    labels: Any
    layers: tuple[int, ...]
    grid: tuple[int, int]

    def __len__(self) -> int: ...

    def tokens(self, layer: int, kind: str, index: Any = slice(None)) -> torch.Tensor:
        """float32 tokens of the images ``index`` (a slice or an array): (n, D), patches (n, L, D).

        kind: one of `KINDS`. Raises ValueError for a layer or kind that is not stored.
        """


@dataclass
class ArrayFeatures:
    """`Features` in memory. arrays: {(layer, kind): (N, D) or (N, L, D)}."""
    arrays: dict[tuple[int, str], Any]
    labels: Any
    grid: tuple[int, int] = (1, 1)
    names: Sequence[str] = field(default_factory=list)

    def __post_init__(self):
        self.layers = tuple(sorted({layer for layer, _ in self.arrays}))
        self.names = self.names or [f'{i}.jpg' for i in range(len(self))]

    def __len__(self):
        return len(next(iter(self.arrays.values())))

    def tokens(self, layer, kind, index=slice(None)):
        if (layer, kind) not in self.arrays:
            stored = ', '.join(f'layer {at} {name}' for at, name in sorted(self.arrays))
            raise ValueError(f'layer {layer} {kind} tokens are not in these features, expected one '
                             f'of: {stored}')
        return torch.as_tensor(np.asarray(self.arrays[layer, kind][index], dtype=np.float32))


@dataclass(frozen=True)
class Task:
    """What the labels mean.

    kind: 'classification', 'segmentation' or 'depth'. num_classes: C; 0 for depth.
    ignore_index: pixels of this label count neither in training nor in the metric.
    depth_range: (nearest, farthest) in metres; pixels outside count as unlabelled.
    """
    kind: str
    num_classes: int = 0
    ignore_index: int = 255
    depth_range: tuple[float, float] = (1e-3, 10.)
