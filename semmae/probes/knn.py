"""k-NN on frozen features, as DINO evaluates. B queries, T images in the bank, S settings."""
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from ..functional.knn import CHUNK, nearest, vote
from ..registry import MODELS
from .classification import ClassificationProbe, read

BYTES = 64 << 20  # of the similarities of one chunk of queries


@MODELS.register_module()
class KNNProbe(ClassificationProbe):
    """Weighted k-NN (semmae.functional.knn; the results equal those of `semmae.KNNHead`).

    k, temperature: one setting for each pair. layers, tokens: see `ClassificationProbe`.
    A k above the number of training images scores minus infinity; ValueError if all are above it.
    Raises ValueError for a k below 1 and a temperature that is not positive.
    """

    def __init__(self, k=(10, 20, 100), temperature=(.07,), tokens=('class',), layers=None):
        super().__init__(layers, tokens, k=tuple(k), temperature=tuple(temperature))
        if min(k) < 1 or not min(temperature) > 0:
            raise ValueError(f'k={k}, temperature={temperature}: expected k of at least 1 and '
                             'temperatures above 0')

    def fit_head(self, data, index, labels, settings, task, seed, device):
        smallest = min(setting['k'] for setting in settings)
        if smallest > len(index):
            raise ValueError(f'k-NN: got {len(index)} training images, expected at least '
                             f'{smallest}, the smallest k; lower k')
        layer, tokens = settings[0]['layer'], settings[0]['tokens']
        bank = F.normalize(read(data, layer, tokens, index).to(device), dim=1)
        if not bank.isfinite().all():
            raise ValueError('k-NN: got NaN or infinite features, expected finite ones. Check '
                             'the checkpoint for NaN')
        return Neighbours(bank, labels.to(device), settings, task.num_classes)


@dataclass
class Neighbours:
    """The settings of one input: votes (S, B, C); NaN where k > T. bank: (T, D) of length 1."""
    bank: torch.Tensor
    labels: torch.Tensor
    settings: list[dict[str, Any]]
    num_classes: int

    @property
    def chunk(self):
        return min(1024, BYTES // (4 * min(len(self.bank), CHUNK)))

    def __call__(self, data, index):
        layer, tokens = self.settings[0]['layer'], self.settings[0]['tokens']
        queries = F.normalize(read(data, layer, tokens, index).to(self.bank.device), dim=1)
        most = max(s['k'] for s in self.settings if s['k'] <= len(self.bank))
        similarity, found = nearest(queries, self.bank, most)
        labels = self.labels[found]
        return torch.stack([
            vote(similarity[:, :s['k']], labels[:, :s['k']], self.num_classes, s['temperature'])
            if s['k'] <= most else torch.full((len(index), self.num_classes), torch.nan,
                                              device=self.bank.device) for s in self.settings])
