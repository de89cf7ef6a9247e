"""Linear depth: bins of depth from frozen patch tokens.

S settings, n images, L = h x w patches, D channels, K bins, u upsampling, H x W pixels.
"""
import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from mmseg.evaluation import DepthMetric
from torch.nn import functional as F

from ..progress_bar import track
from ..registry import MODELS
from .dense import IMAGES, patch_of_pixel, upsample
from .features import Features, Task
from .grid import Setting, by_key, grid_of, layers_of, require_counts, values_of
from .heads import Heads, steps_of, train_heads
from .probe import Probe
from .standard import Standard, chunks

RELU_SHIFT = .1  # added to the outputs after the ReLU (DINOv2: eps of depth_pred)
LOG_SHIFT = 1e-3  # added to depths before the logarithm (DINOv2: eps of SigLoss)
WARM_UP = 100  # steps with the mean term of the loss only, at most a tenth of all steps
Fitted = dict[str, tuple[list[int], Heads]]  # {layers: (numbers of their settings, their heads)}


@MODELS.register_module()
class LinearDepthProbe(Probe):
    """One linear layer to 256 uniform bins of depth; the depth is the expected value.

    After DINOv2 (https://github.com/facebookresearch/dinov2 at b8931f7, eval/depth: BNHead,
    SigLoss) and DINOv3 (https://github.com/facebookresearch/dinov3 at 6876159,
    eval/depth/configs/config-nyu.yaml): outputs of the linear layer, upsampled 4 times, then ReLU,
    + 0.1 and a division by their sum (AdaBins); the scale-invariant log loss, its first 100 steps
    without the variance; AdamW; batches of 16 images, 38,400 steps = 25 epochs of NYUv2; DINOv2
    concatenates the class token to each patch and one or four layers, DINOv3 has batch norm.
    Different here: features are encoded once, so the whole image without crops, rotations or
    flips, also in the test; standardised tokens as with DINOv3; the loss compares the predicted
    depth with the mean valid depth of each of the 4h x 4w cells (each pixel there); no gradient
    loss (DINOv3's config has none, https://github.com/Jiawei-Yang/Denoising-ViT at 2d08bd8, which
    follows DINOv2, has one with weight 0.5); a cosine to 0 without warm-up; no gradient
    clipping. To upsample tokens or outputs of a linear layer is the same.

    lr, weight_decay: numbers or lists. layers: None for the last stored one, or a list of lists of
    stored layers; the layers of a list are concatenated, in a setting as '2+5+8+11'.
    has_class_token: whether the class token of each layer is concatenated; it must be stored.
    upsample: u; the depth maps must have u h x u w pixels at least. The cost grows with its square:
    a step of 16 images with 784 patches takes 5 s on one CPU core. batch_size: images.
    """

    def __init__(self, lr: Any = (3e-4, 1e-3, 3e-3), weight_decay: Any = 1e-4, layers: Any = None,
                 bins: int = 256, has_class_token: bool = True, upsample: int = 4,
                 epochs: int = 25, batch_size: int = 16) -> None:
        require_counts(bins=bins, upsample=upsample, epochs=epochs, batch_size=batch_size)
        self.lr = values_of('lr', lr)
        self.weight_decay = values_of('weight_decay', weight_decay, above=False)
        self.layers, self.has_class_token, self.bins = layers, has_class_token, bins
        self.upsample, self.epochs, self.batch_size = upsample, epochs, batch_size

    def settings(self, layers: tuple[int, ...]) -> list[Setting]:
        chosen = [None] if self.layers is None else self.layers
        return grid_of(layers=['+'.join(map(str, layers_of(one, layers))) for one in chosen],
                       lr=self.lr, weight_decay=self.weight_decay)

    def fit(self, data: Features, index: np.ndarray, settings: list[Setting], task: Task,
            seed: int, device: str = 'cpu') -> Fitted:
        truth = self.cell_depths(data, index, task)
        if not truth.isfinite().any():
            raise ValueError(f'got {len(index)} depth maps without a depth between '
                             f'{task.depth_range[0]:g} and {task.depth_range[1]:g} metres')
        steps = steps_of(len(index), self.batch_size, self.epochs, seed)
        warm_up = min(WARM_UP, len(steps) // 10)
        fitted = {}
        for layers, numbers in by_key(settings, 'layers').items():
            read = partial(self.tokens, data, layers)
            heads = Heads([settings[number] for number in numbers],
                          Standard.of(read, index, IMAGES, device), self.bins, seed)

            def losses(step, images, heads=heads, read=read):
                depths = truth[images].to(device)
                valid = depths.isfinite()
                if valid.sum() > 1:  # a variance needs two
                    tokens = read(index[images])
                    for number in range(len(heads.settings)):  # one at a time: K maps need memory
                        found = self.depths(heads, tokens, number, data.grid, task)
                        yield log_loss(found[valid], depths[valid], step >= warm_up)

            fitted[layers] = numbers, train_heads(heads, steps, losses)
        return fitted

    def score(self, fitted: Fitted, data: Features, index: np.ndarray, task: Task) -> list[float]:
        """Minus the RMSE in metres at the resolution of training, a mean over images."""
        scores = {}
        truth = self.cell_depths(data, index, task)
        for layers, (numbers, heads) in fitted.items():
            errors: list[list[torch.Tensor]] = [[] for _ in numbers]
            pairs = zip(chunks(index, IMAGES), truth.split(IMAGES))
            for part, of_part in track(pairs, 'choosing', len(index), size=lambda x: len(x[0])):
                tokens = self.tokens(data, layers, part)
                for at, of_setting in enumerate(errors):
                    found = self.depths(heads, tokens, at, data.grid, task).cpu()
                    of_setting.append(torch.where(of_part.isfinite(), found - of_part, math.nan
                                                  ).square().nanmean((1, 2)).sqrt())
            for number, of_setting in zip(numbers, errors):
                rmse = torch.cat(of_setting).nanmean().item()
                scores[number] = -math.inf if math.isnan(rmse) else -rmse
        return [scores[number] for number in range(len(scores))]

    def predict(self, fitted: Fitted, number: int, data: Features, index: np.ndarray,
                task: Task) -> Iterator[torch.Tensor]:
        layers, (numbers, heads) = next(item for item in fitted.items() if number in item[1][0])
        for part in chunks(index, IMAGES):
            found = self.depths(heads, self.tokens(data, layers, part), numbers.index(number),
                                data.grid, task)
            for i, depths in zip(part, found):
                if not depths.isfinite().all():
                    raise ValueError(f'{data.names[i]}: the prediction is NaN, expected finite '
                                     'depths; lower the learning rate of the probe')
                yield upsample(depths[None], np.shape(data.labels[i]))[0].cpu()

    def tokens(self, data: Features, layers: str, index: np.ndarray) -> torch.Tensor:
        """(n, L, D) patch tokens of the layers, each followed by the class token of the layer."""
        parts = []
        for layer in map(int, layers.split('+')):
            parts.append(data.tokens(layer, 'patches', index))
            if self.has_class_token:
                parts.append(data.tokens(layer, 'class', index)[:, None].expand_as(parts[-1]))
        return torch.cat(parts, -1)

    def depths(self, heads: Heads, tokens: torch.Tensor, number: int, grid: tuple[int, int],
               task: Task) -> torch.Tensor:
        """(n, u h, u w) metres."""
        outputs = heads(tokens, [number]).squeeze(-2).transpose(1, 2).unflatten(-1, grid)
        shares = upsample_exactly(outputs, self.upsample).relu() + RELU_SHIFT
        bins = torch.linspace(*task.depth_range, self.bins, device=shares.device)
        return torch.einsum('nkhw,k->nhw', shares, bins) / shares.sum(1)

    def cell_depths(self, data: Features, index: np.ndarray, task: Task) -> torch.Tensor:
        """(n, u h, u w) float32 mean valid depth of each cell; NaN without one."""
        if task.kind != 'depth':
            raise ValueError(f'got a task of kind {task.kind}, expected depth')
        grid = (data.grid[0] * self.upsample, data.grid[1] * self.upsample)
        return torch.stack([cell_means(np.asarray(data.labels[i]), grid, task.depth_range)
                            for i in track(index, 'labels')])


def cell_means(depth_map: np.ndarray, grid: tuple[int, int], depth_range: tuple[float, float]
               ) -> torch.Tensor:
    """``grid`` float32 mean of the valid depths in each cell; NaN without one."""
    valid = (depth_map > depth_range[0]) & (depth_map < depth_range[1])
    cells, length = patch_of_pixel(depth_map.shape, grid)[valid], grid[0] * grid[1]
    with np.errstate(invalid='ignore'):
        means = (np.bincount(cells, depth_map[valid], minlength=length)
                 / np.bincount(cells, minlength=length))
    return torch.from_numpy(means.astype(np.float32)).reshape(grid)


def upsample_exactly(maps: torch.Tensor, factor: int) -> torch.Tensor:
    """Maps (..., h, w) upsampled bilinearly to (..., u h, u w), align_corners=False.

    As two matrix products: the gradient of F.interpolate differs from run to run on a GPU.
    """
    rows, columns = (F.interpolate(torch.eye(size, device=maps.device)[None], scale_factor=factor,
                                   mode='linear', align_corners=False)[0]
                     for size in maps.shape[-2:])
    return rows.T @ maps @ columns


def log_loss(found: torch.Tensor, truth: torch.Tensor, with_variance: bool) -> torch.Tensor:
    """Scale-invariant log loss of AdaBins, as DINOv2's SigLoss: sqrt(var(g) + 0.15 mean(g)^2).

    found, truth: (m,) metres; g is the difference of their logarithms.
    """
    g = (found + LOG_SHIFT).log() - (truth + LOG_SHIFT).log()
    square = .15 * g.mean().square() + (g.var() if with_variance else 0)
    return square.clamp(min=1e-12).sqrt()  # the gradient of sqrt is infinite at 0


def depth_metrics(found: torch.Tensor, truth: torch.Tensor, depth_range: tuple[float, float],
                  crop: str | None = None) -> dict[str, float]:
    """{rmse, abs_rel, d1} of one image by mmseg's DepthMetric; its result is the mean over images.

    found, truth: (H, W) metres. Valid pixels have a depth inside ``depth_range``, ends excluded.
    crop: None, or 'nyu_crop' for rows 45 to 470 and columns 41 to 600 of 480 x 640 pixels: Eigen's
    crop, in which mmseg (configs/_base_/datasets/nyu.py) and DINOv3 (config-nyu.yaml) evaluate
    NYUv2, from 0.001 to 10 metres.
    All three are NaN for an image without a valid pixel; mmseg's mean would be NaN.
    """
    if found.shape != truth.shape or crop and truth.shape != (480, 640):
        raise ValueError(f'got predicted depths of {tuple(found.shape)} and true depths of '
                         f'{tuple(truth.shape)} pixels with crop={crop}, expected the same, and '
                         '480 x 640 with a crop')
    metric = DepthMetric(min_depth_eval=depth_range[0], max_depth_eval=depth_range[1],
                         crop_type=crop)
    metric.process({}, [dict(pred_depth_map=dict(data=found), gt_depth_map=dict(data=truth))])
    (pair,) = metric.results
    if not len(pair[0]):
        return dict.fromkeys(('rmse', 'abs_rel', 'd1'), math.nan)
    values = metric._calc_all_metrics(*pair)
    return {name: values[name] for name in ('rmse', 'abs_rel', 'd1')}
