"""Logistic regression on frozen features by scikit-learn. B images, S settings, C classes."""
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from sklearn.linear_model import LogisticRegression

from ..progress_bar import track
from ..registry import MODELS
from .classification import ClassificationProbe, read
from .standard import Standard


@MODELS.register_module()
class LogisticProbe(ClassificationProbe):
    """scikit-learn's LogisticRegression (lbfgs, L2) on standardised features, one fit per setting.

    C: inverse strengths of the penalty; the default grid is ours. max_iter: of lbfgs.
    layers, tokens: see `ClassificationProbe`. It runs on the CPU and does not depend on the seed.
    """

    def __init__(self, C=(1e-4, 1e-3, 1e-2, .1, 1., 10., 100.), layers=None, tokens=('class',),
                 max_iter=1000):
        super().__init__(layers, tokens, C=tuple(C))
        self.max_iter = max_iter

    def fit_head(self, data, index, labels, settings, task, seed, device):
        layer, tokens = settings[0]['layer'], settings[0]['tokens']
        standard = Standard.of(partial(read, data, layer, tokens), index, 1024, 'cpu')
        inputs = standard(read(data, layer, tokens, index)).numpy()
        models = [LogisticRegression(C=setting['C'], max_iter=self.max_iter)
                  .fit(inputs, labels.numpy())
                  for setting in track(settings, 'fitting', unit='settings')]
        return LogisticHeads(layer, tokens, standard, models, task.num_classes)


@dataclass
class LogisticHeads:
    """The settings of one input. A class without training images gets probability 0."""
    layer: int
    tokens: str
    standard: Standard
    models: list[Any]
    num_classes: int
    chunk = 1024

    def __call__(self, data, index):
        inputs = self.standard(read(data, self.layer, self.tokens, index)).numpy()
        shares = torch.zeros(len(self.models), len(index), self.num_classes)
        for of_model, model in zip(shares, self.models):
            of_model[:, model.classes_] = torch.from_numpy(model.predict_proba(inputs)).float()
        return shares
