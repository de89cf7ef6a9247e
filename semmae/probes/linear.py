"""Linear probes on frozen features: a whole grid of settings is trained as one stacked head.

N images, B images of a batch, S settings, D channels, C classes.
"""
import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from ..registry import MODELS
from .classification import TOKENS, ClassificationProbe, read
from .standard import Standard, batches

LRS = tuple(4 * lr for lr in (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2,
                              5e-2, .1))  # DINOv2's, times batch size / 256
INIT_STD = .01
LOGITS = 1 << 24  # numbers of one chunk of predictions


@MODELS.register_module()
class LinearProbe(ClassificationProbe):
    """Linear classifiers on standardised features, trained by SGD with momentum, cosine to 0.

    The grid of learning rates, layers and poolings follows DINOv2 (Oquab et al. 2023); the
    standardised features follow MAE (He et al. 2022, App. A.1). 100 epochs: ours.
    lr: the learning rates, as SGD uses them. weight_decay: also applies to the bias, as in
    torch.optim.SGD. layers, tokens: see `ClassificationProbe`.
    Initial weights and the order of the images depend on ``seed`` only, not on the other settings.
    """

    def __init__(self, lr=LRS, weight_decay=(0.,), layers='all', tokens=TOKENS, epochs=100,
                 batch_size=1024, momentum=.9):
        super().__init__(layers, tokens, lr=tuple(lr), weight_decay=tuple(weight_decay))
        if epochs < 1 or batch_size < 1:
            raise ValueError(f'epochs={epochs}, batch_size={batch_size}: expected at least 1 each')
        self.epochs, self.batch_size, self.momentum = epochs, batch_size, momentum

    def fit_head(self, data, index, labels, settings, task, seed, device):
        layer, tokens = settings[0]['layer'], settings[0]['tokens']
        standard = Standard.of(partial(read, data, layer, tokens), index, 1024, device)
        generator = torch.Generator().manual_seed(seed)
        first = torch.randn(len(standard.mean), 1, task.num_classes, generator=generator) * INIT_STD
        weights = F.pad(first, (0, 0, 0, 0, 0, 1)).repeat(1, len(settings), 1).to(device)
        head = LinearHeads(layer, tokens, standard, weights)
        self._train(head, data, index, labels.to(device), settings, generator)
        return head

    def _train(self, head, data, index, labels, settings, generator):
        """Change the weights of ``head`` in place. The update is that of torch.optim.SGD."""
        weights, velocity = head.weights, torch.zeros_like(head.weights)
        lr, decay = (weights.new_tensor([s[name] for s in settings])[:, None]  # (S, 1)
                     for name in ('lr', 'weight_decay'))
        steps = self.epochs * math.ceil(len(index) / self.batch_size)
        for step, part in enumerate(batches(len(index), self.batch_size, self.epochs, generator,
                                            f'fitting {len(settings)} settings')):
            inputs = head.inputs(data, index[part])
            slope = head.probabilities(inputs)  # the gradient of the loss by the logits:
            slope[torch.arange(len(part)), :, labels[part]] -= 1
            gradient = (inputs.T @ slope.flatten(1)).div_(len(part)).view_as(weights)
            velocity.mul_(self.momentum).add_(gradient.addcmul_(weights, decay))
            cosine = .5 * (1 + math.cos(math.pi * step / steps))
            weights.addcmul_(velocity, lr, value=-cosine)


@dataclass
class LinearHeads:
    """The settings of one input. weights: (D + 1, S, C); the last row is the bias.

    All settings read the same input, so one matrix product (B, D + 1) x (D + 1, S C) serves all.
    """
    layer: int
    tokens: str
    standard: Standard
    weights: torch.Tensor

    @property
    def chunk(self):
        return max(1, min(1024, LOGITS // self.weights[0].numel()))

    def inputs(self, data, index: np.ndarray) -> torch.Tensor:
        """(B, D + 1) standardised features and a column of ones."""
        return F.pad(self.standard(read(data, self.layer, self.tokens, index)), (0, 1), value=1.)

    def probabilities(self, inputs: torch.Tensor) -> torch.Tensor:
        """(B, S, C)."""
        logits = inputs @ self.weights.flatten(1)
        return logits.view(-1, *self.weights.shape[1:]).softmax(2)

    def __call__(self, data, index):
        return self.probabilities(self.inputs(data, index)).transpose(0, 1)
