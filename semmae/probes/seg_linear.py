"""Linear segmentation: one linear layer on frozen patch tokens.

S settings, n images, L patches, D channels, C classes.
"""
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ..registry import MODELS
from .dense import patch_areas, patch_rows, predict_maps, score_layers, standard_patches
from .features import Features, Task
from .grid import Setting, by_key, grid_of, layers_of, require_counts, values_of
from .heads import Heads, steps_of, train_heads
from .probe import Probe

Fitted = dict[int, tuple[list[int], Heads]]  # {layer: (numbers of its settings, their heads)}


@MODELS.register_module()
class LinearSegProbe(Probe):
    """One linear layer on standardised patch tokens, pixel cross entropy, AdamW with a cosine.

    After DINOv3's linear segmentation (batch norm, one linear layer, AdamW, batches of 16 images,
    40k iterations = 32 epochs of ADE20K; https://github.com/facebookresearch/dinov3 at 6876159,
    eval/segmentation/configs/config-ade20k-linear-training.yaml), and DINOv2's before it. Different
    here: features are encoded once, so the whole image at one size without scaling, crops, flips or
    sliding windows; the statistics of the whole set in place of batch norm's, which has a scale and
    shift that the linear layer can represent; no dropout; no warm-up. Their learning rates are
    1e-4, 3e-4 and 1e-3; the larger ones are for small sets, where 30 epochs are few steps.

    The loss is the cross entropy with the share of each class in a patch, weighted by the labelled
    area of the patch. It equals the mean cross entropy over the labelled pixels, for logits that
    are held constant inside a patch. Theirs upsamples the logits first.

    lr, weight_decay, layers: numbers or lists; all combinations are trained on the same batches.
    layers: None for the last stored one, 'all', or a tuple. batch_size: images.
    """

    def __init__(self, lr: Any = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, .1, .3),
                 weight_decay: Any = 1e-3, layers: Any = None, epochs: int = 30,
                 batch_size: int = 16) -> None:
        require_counts(epochs=epochs, batch_size=batch_size)
        self.lr = values_of('lr', lr)
        self.weight_decay = values_of('weight_decay', weight_decay, above=False)
        self.layers, self.epochs, self.batch_size = layers, epochs, batch_size

    def settings(self, layers: tuple[int, ...]) -> list[Setting]:
        return grid_of(layer=layers_of(self.layers, layers), lr=self.lr,
                       weight_decay=self.weight_decay)

    def fit(self, data: Features, index: np.ndarray, settings: list[Setting], task: Task,
            seed: int, device: str = 'cpu') -> Fitted:
        areas = patch_areas(data, index, task)
        labelled = areas.sum(1) > 0
        steps = steps_of(len(index), self.batch_size, self.epochs, seed)
        rows_of_images = np.arange(len(labelled)).reshape(len(index), -1)
        fitted = {}
        for layer, numbers in by_key(settings, 'layer').items():
            heads = Heads([settings[number] for number in numbers],
                          standard_patches(data, layer, index, labelled, device),
                          task.num_classes, seed)
            read = patch_rows(data, layer, index, labelled)

            def losses(step, images, heads=heads, read=read):
                rows = rows_of_images[images].reshape(-1)
                rows = rows[labelled[rows]]
                if len(rows):
                    yield soft_cross_entropy(heads(read(images)), torch.from_numpy(
                        areas[rows].toarray()).to(device)).sum()

            fitted[layer] = numbers, train_heads(heads, steps, losses)
        return fitted

    def score(self, fitted: Fitted, data: Features, index: np.ndarray, task: Task) -> list[float]:
        return score_layers(
            {layer: numbers for layer, (numbers, _) in fitted.items()}, data, index, task,
            lambda layer: lambda tokens: fitted[layer][1](tokens).movedim(-2, 0))

    def predict(self, fitted: Fitted, number: int, data: Features, index: np.ndarray,
                task: Task) -> Iterator[torch.Tensor]:
        layer, (numbers, heads) = next(item for item in fitted.items() if number in item[1][0])
        chosen = [numbers.index(number)]
        yield from predict_maps(data, layer, index,
                                lambda tokens: heads(tokens, chosen).squeeze(-2))


def soft_cross_entropy(logits: torch.Tensor, areas: torch.Tensor) -> torch.Tensor:
    """(S,) cross entropy of logits (n, S, C) with labelled areas (n, C), over all labelled area.

    A patch with labelled area a and shares q of the classes counts as a pixels with label q.
    """
    log_shares = logits.log_softmax(-1)
    return -(log_shares * areas[:, None]).sum((0, 2)) / areas.sum()
