"""Attentive probes on frozen patch tokens: a learned query pools them, a linear layer classifies.

N images, B images of a batch, S settings, L tokens, D channels, H heads, C classes.
"""
import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from ..registry import MODELS
from .classification import ClassificationProbe
from .grid import require_counts
from .probe import is_stored
from .standard import Standard, batches

INIT_STD = .02
CHUNK = 64  # images of patch tokens that are read at a time, except for a batch of training
Parameters = dict[str, torch.Tensor]


@MODELS.register_module()
class AttentiveProbe(ClassificationProbe):
    """Cross-attention of one learned query, then a linear classifier, trained by AdamW.

    The head is AIM's (El-Nouby et al. 2024): keys and values without bias, no MLP after
    the attention (V-JEPA, Bardes et al. 2024, has one), standardised tokens. The grid of learning
    rates and weight decays is trained together as in V-JEPA 2; its values and 20 epochs are ours.
    The tokens are the patches and, if it is stored, the class token. Cosine to 0, no warm-up.
    Initial weights and the order of the images depend on ``seed`` only, not on the other settings.
    layers: see `ClassificationProbe`. num_heads: None for the largest of 12, 6, 4, 3, 2, 1 that
    divides D. Raises ValueError if ``num_heads`` does not divide D.
    """
    known = ('patches',)

    def __init__(self, lr=(1e-4, 3e-4, 1e-3, 3e-3), weight_decay=(.01, .1), epochs=20,
                 batch_size=128, num_heads=None, layers=None):
        super().__init__(layers, self.known, lr=tuple(lr), weight_decay=tuple(weight_decay))
        require_counts(epochs=epochs, batch_size=batch_size, num_heads=num_heads or 1)
        self.epochs, self.batch_size, self.num_heads = epochs, batch_size, num_heads

    def fit_head(self, data, index, labels, settings, task, seed, device):
        layer = settings[0]['layer']
        kinds = ('patches', 'class') if is_stored(data, layer, 'class') else ('patches',)
        standards = {kind: Standard.of(partial(data.tokens, layer, kind), index, CHUNK, device)
                     for kind in kinds}
        channels = len(standards['patches'].mean)
        num_heads = self.num_heads or math.gcd(channels, 12)
        if channels % num_heads:
            raise ValueError(f'num_heads={num_heads} does not divide the {channels} channels '
                             'of the tokens, expected a divisor')
        generator = torch.Generator().manual_seed(seed)
        first = initial(num_heads, channels, task.num_classes, generator)
        parameters = [{name: value.clone().to(device).requires_grad_()
                       for name, value in first.items()} for _ in settings]
        head = AttentiveHeads(layer, standards, parameters)
        self._train(head, data, index, labels.to(device), settings, generator)
        return head

    def _train(self, head, data, index, labels, settings, generator):
        """Change the parameters of ``head`` in place."""
        optimizer = torch.optim.AdamW([
            dict(params=list(own.values()), lr=setting['lr'], weight_decay=setting['weight_decay'])
            for own, setting in zip(head.parameters, settings)])
        steps = self.epochs * math.ceil(len(index) / self.batch_size)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: .5 * (1 + math.cos(math.pi * step / steps)))
        for part in batches(len(index), self.batch_size, self.epochs, generator,
                            f'fitting {len(settings)} settings'):
            logits = head.logits(head.inputs(data, index[part]))  # (B, S, C)
            target = labels[part, None].expand(logits.shape[:2])
            # The mean over images and the sum over settings: no setting changes another.
            loss = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction='sum')
            optimizer.zero_grad()
            (loss / len(part)).backward()
            optimizer.step()
            schedule.step()


def initial(heads: int, channels: int, classes: int, generator: torch.Generator) -> Parameters:
    """Initial parameters of one setting, normal; bias 0.

    query (H, D / H), key and value (H, D / H, D), weight (D, C), bias (C,).
    """
    width = channels // heads
    shapes = dict(query=(heads, width), key=(heads, width, channels),
                  value=(heads, width, channels), weight=(channels, classes))
    return dict(bias=torch.zeros(classes), **{
        name: torch.randn(shape, generator=generator) * INIT_STD for name, shape in shapes.items()})


def attend(tokens: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
           ) -> torch.Tensor:
    """(B, S, D): the values of tokens (B, L, D), pooled by the attention of S queries.

    query: (S, H, E), key and value: (S, H, E, D), with D = H E. The keys of the tokens are not
    computed: query . (key token) = (query key) . token, and the value of the pooled token is the
    pooled value. Both are linear, so this equals cross-attention and costs H / D of it.
    """
    settings, heads, width, channels = key.shape
    queries = torch.einsum('she,shed->shd', query, key) * width ** -.5
    attention = (tokens @ queries.flatten(0, 1).T).softmax(1)  # (B, L, S H)
    pooled = attention.transpose(1, 2) @ tokens
    pooled = pooled.view(-1, settings, heads, channels)
    return torch.einsum('bshd,shed->bshe', pooled, value).flatten(2)


@dataclass
class AttentiveHeads:
    """The settings of one layer. standards: {kind of tokens: its statistics}."""
    layer: int
    standards: dict[str, Standard]
    parameters: list[Parameters]
    chunk = CHUNK

    def inputs(self, data, index: np.ndarray) -> torch.Tensor:
        """(B, L, D) standardised tokens."""
        tokens = [standard(data.tokens(self.layer, kind, index))
                  for kind, standard in self.standards.items()]
        return torch.cat([t if t.ndim == 3 else t[:, None] for t in tokens], 1)

    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, S, C)."""
        stacked = {name: torch.stack([own[name] for own in self.parameters])
                   for name in self.parameters[0]}
        pooled = attend(tokens, *(stacked[name] for name in ('query', 'key', 'value')))
        return torch.einsum('bsd,sdc->bsc', pooled, stacked['weight']) + stacked['bias']

    @torch.no_grad()
    def __call__(self, data, index):
        return self.logits(self.inputs(data, index)).softmax(2).transpose(0, 1)
