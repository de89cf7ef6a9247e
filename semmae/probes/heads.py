"""Linear heads of many settings on the same tokens, trained on the same batches.

S settings, D channels, K outputs of a head.
"""
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..progress_bar import track
from .grid import Setting
from .standard import Standard

INIT_STD = .01  # of the weights; biases start at 0 (as in DINOv3's linear head)


class Heads(nn.Module):
    """S linear layers on standardised tokens, computed as one matrix product.

    All settings start from the same weights, which depend on the seed and the sizes only.
    standard: statistics (D,) of the tokens; the heads are on its device.
    """

    def __init__(self, settings: Sequence[Setting], standard: Standard, outputs: int, seed: int
                 ) -> None:
        super().__init__()
        self.settings, self.standard = settings, standard
        weight = INIT_STD * torch.randn(outputs, len(standard.mean),
                                        generator=torch.Generator().manual_seed(seed))
        self.weight = nn.ParameterList(weight.clone() for _ in settings)
        self.bias = nn.ParameterList(torch.zeros(outputs) for _ in settings)
        self.to(standard.mean.device)

    def forward(self, tokens: torch.Tensor, numbers: Sequence[int] | None = None) -> torch.Tensor:
        """(..., S, K) outputs for tokens (..., D), of the settings ``numbers`` or of all."""
        numbers = range(len(self.settings)) if numbers is None else numbers
        outputs = F.linear(self.standard(tokens),
                           torch.cat([self.weight[number] for number in numbers]),
                           torch.cat([self.bias[number] for number in numbers]))
        return outputs.unflatten(-1, (len(numbers), -1))


def train_heads(heads: Heads, steps: Sequence[np.ndarray],
                losses: Callable[[int, np.ndarray], Iterable[torch.Tensor]]) -> Heads:
    """Train with AdamW, each setting with its ``lr`` and ``weight_decay``, and a cosine to 0.

    steps: the images of each step. losses(step, images): losses whose sum is minimised, each over
    some settings; one backward pass each, so that only one graph is in memory.
    """
    optimizer = torch.optim.AdamW([
        dict(params=[weight, bias], lr=setting['lr'], weight_decay=setting['weight_decay'])
        for setting, weight, bias in zip(heads.settings, heads.weight, heads.bias)])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(steps))
    what = f'fitting {len(heads.settings)} settings'
    for step, images in enumerate(track(steps, what, unit='steps')):
        optimizer.zero_grad()
        for loss in losses(step, images):
            loss.backward()
        optimizer.step()
        schedule.step()
    return heads.requires_grad_(False)


def steps_of(images: int, batch_size: int, epochs: int, seed: int) -> list[np.ndarray]:
    """The images of each step: a new order in each epoch, sorted within a step for reading."""
    random = np.random.default_rng(seed)
    orders: Iterator[np.ndarray] = (random.permutation(images) for _ in range(epochs))
    return [np.sort(order[start:start + batch_size]) for order in orders
            for start in range(0, images, batch_size)]
