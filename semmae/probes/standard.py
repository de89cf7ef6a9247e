"""Standardised tokens: statistics of training images, read in chunks.

D channels.
"""
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from ..progress_bar import track

EPS = 1e-6  # MAE's batch norm before the linear classifier


def chunks(index: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """``index`` in order, ``size`` images at a time; the last chunk may be smaller."""
    return (index[start:start + size] for start in range(0, len(index), size))


def batches(images: int, size: int, epochs: int, generator: torch.Generator, what: str
            ) -> Iterator[np.ndarray]:
    """The images of each step of a training, in a new order in each epoch; shows its progress."""
    steps = (part for _ in range(epochs) for part in chunks(
        torch.randperm(images, generator=generator).numpy(), size))
    return track(steps, what, epochs * math.ceil(images / size), 'steps')


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
        for part in track(chunks(index, chunk), 'statistics', len(index), size=len):
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
