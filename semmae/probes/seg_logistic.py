"""Logistic regression on a sample of frozen patch tokens.

S settings, n images, L patches, D channels, C classes, K classes of the sample.
"""
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from ..progress_bar import track
from ..registry import MODELS
from .dense import IMAGES, patch_areas, patch_rows, predict_maps, score_layers
from .features import Features, Task
from .grid import Setting, by_key, grid_of, layers_of, require_counts, values_of
from .probe import Probe
from .standard import Standard, chunks

CS = tuple((10. ** np.linspace(-6, 5, 8)).tolist())  # CAPI's


class Logistic(NamedTuple):
    """A fitted setting. weight: (K, D), bias: (K,), of standardised tokens. classes: (K,) int64."""
    layer: int
    standard: Standard
    weight: torch.Tensor
    bias: torch.Tensor
    classes: torch.Tensor

    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        """(..., K) for tokens (..., D)."""
        return F.linear(self.standard(tokens), self.weight, self.bias)


@MODELS.register_module()
class LogisticSegProbe(Probe):
    """scikit-learn's LogisticRegression (L-BFGS) on standardised patches and their largest class.

    After CAPI (https://github.com/facebookresearch/capi at 98b4fa1, eval_segmentation.py: each
    token standardised, the most frequent label of a patch, patches with an ignored label left out,
    eight C from 1e-6 to 1e5). Different here: a seeded sample of ``max_patches`` patches in place
    of all, as scikit-learn runs on the CPU (cuML there, up to 1000 iterations with tolerance
    1e-12); a patch is left out only if all its pixels are ignored; logits are upsampled bilinearly
    (their prediction is constant in a patch) and measured at full resolution (224 pixels there).

    C: numbers. layers: None for the last stored one, 'all', or a tuple. max_iter, tol:
    scikit-learn's.
    The fit runs on the CPU, the prediction on the device. Has no random numbers but the sample.
    """

    def __init__(self, C: Any = CS, layers: Any = None, max_patches: int = 50_000,
                 max_iter: int = 1000, tol: float = 1e-4) -> None:
        require_counts(max_patches=max_patches, max_iter=max_iter)
        self.C, self.layers, self.max_patches = values_of('C', C), layers, max_patches
        self.max_iter, (self.tol,) = max_iter, values_of('tol', tol)

    def settings(self, layers: tuple[int, ...]) -> list[Setting]:
        return grid_of(layer=layers_of(self.layers, layers), C=self.C)

    def fit(self, data: Features, index: np.ndarray, settings: list[Setting], task: Task,
            seed: int, device: str = 'cpu') -> list[Logistic]:
        areas = patch_areas(data, index, task)
        sample = np.flatnonzero(areas.sum(1) > 0)
        if len(sample) > self.max_patches:
            sample = np.sort(np.random.default_rng(seed).choice(sample, self.max_patches,
                                                                replace=False))
        kept = np.zeros(areas.shape[0], bool)
        kept[sample] = True
        labels = areas[sample].argmax(1)
        if len(np.unique(labels)) < 2:
            raise ValueError(f'all {len(labels)} sampled patches have label {labels[0]}, expected '
                             'two or more classes')
        fitted: dict[int, Logistic] = {}
        for layer, numbers in by_key(settings, 'layer').items():
            read, images = patch_rows(data, layer, index, kept), np.arange(len(index))
            standard = Standard.of(read, images, IMAGES, 'cpu')
            rows = torch.cat([standard(read(at)) for at in chunks(images, IMAGES)]).numpy()
            moved = Standard(standard.mean.to(device), standard.scale.to(device))
            for number in track(numbers, 'fitting', unit='settings'):
                model = LogisticRegression(C=settings[number]['C'], max_iter=self.max_iter,
                                           tol=self.tol).fit(rows, labels)
                arrays = (*weights_of(model), torch.from_numpy(model.classes_).long())
                fitted[number] = Logistic(layer, moved, *(array.to(device) for array in arrays))
        return [fitted[number] for number in range(len(settings))]

    def score(self, fitted: list[Logistic], data: Features, index: np.ndarray, task: Task
              ) -> list[float]:
        groups = by_key([dict(layer=model.layer) for model in fitted], 'layer')

        def scores_of(layer):
            models = [fitted[number] for number in groups[layer]]
            return lambda tokens: torch.stack([
                full_classes(model.logits(tokens), model.classes, task.num_classes)
                for model in models])

        return score_layers(groups, data, index, task, scores_of)

    def predict(self, fitted: list[Logistic], number: int, data: Features, index: np.ndarray,
                task: Task) -> Iterator[torch.Tensor]:
        model = fitted[number]
        classes = model.classes.cpu()
        for found in predict_maps(data, model.layer, index, model.logits):
            yield classes[found]


def weights_of(model: LogisticRegression) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (K, D) and biases (K,) float32; with two classes the first one has zeros."""
    weight, bias = (np.asarray(array, np.float32) for array in (model.coef_, model.intercept_))
    if len(model.classes_) == 2:
        weight, bias = (np.concatenate([np.zeros_like(array), array]) for array in (weight, bias))
    return torch.from_numpy(weight), torch.from_numpy(bias)


def full_classes(logits: torch.Tensor, classes: torch.Tensor, num_classes: int) -> torch.Tensor:
    """(..., C) from logits (..., K); minus infinity for classes that are not in the sample."""
    full = logits.new_full((*logits.shape[:-1], num_classes), -torch.inf)
    full[..., classes] = logits
    return full
