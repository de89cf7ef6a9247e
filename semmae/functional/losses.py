"""Losses of part learning (Eq. 5-7) and of masked pre-training.

B images, C colours, H W pixels, P parts (the paper's N), L patches, M masked patches,
D values of a patch.
"""
import torch
import torch.nn.functional as F

from .parts import off_diagonal_cosines


def reconstruction_loss(image: torch.Tensor, reconstruction: torch.Tensor,
                        over_colours: str = 'mean', weights: torch.Tensor | None = None
                        ) -> torch.Tensor:
    """Mean squared error of two images (B, C, H, W), mean over pixels and images, 0-d (Eq. 5).

    over_colours: Eq. 5 divides the sum over pixels by H * W. It does not say how the squared
        difference of two colours becomes a number. 'mean' (ours): the mean of the C squared
        differences. 'sum': their sum, C times as large, so lambda of Eq. 7 has 1 / C of its weight.
    weights: (B, H, W) of the pixels in the mean (ours); None: all are equal.
    Raises ValueError for images of different shapes and another ``over_colours``.
    """
    _check_same_shape(image, reconstruction, 'image', 'reconstruction')
    if over_colours not in ('mean', 'sum'):
        raise ValueError(f"over_colours is {over_colours!r}, expected 'mean' or 'sum'")
    if weights is None:
        loss = F.mse_loss(reconstruction.float(), image.float())
    else:
        errors = (reconstruction.float() - image.float()).square().mean(1)
        loss = (errors * weights).sum() / weights.sum().clamp(min=1e-6)
    return loss * image.shape[1] if over_colours == 'sum' else loss


def diversity_loss(maps: torch.Tensor) -> torch.Tensor:
    """Similarity of the part maps (B, P, L) of an image, 0-d in [0, (P - 1) / P] (Eq. 6).

    Sum of the squared cosines of all pairs of different maps, divided by P**2 as printed, mean over
    images. The terms with i = j of Eq. 6 are (1 - 1)**2 = 0 without gradient, so left out.
    Raises ValueError for maps that are not (B, P, L).
    """
    return off_diagonal_cosines(maps).square().sum((1, 2)).mean() / maps.shape[1] ** 2


def part_loss(image: torch.Tensor, reconstruction: torch.Tensor, maps: torch.Tensor,
              weight: float = 0.03, over_colours: str = 'mean',
              pixel_weights: torch.Tensor | None = None) -> torch.Tensor:
    """Eq. 5 plus ``weight`` times Eq. 6, 0-d (Eq. 7). weight: the paper's lambda (Sec. 4.1).

    image, reconstruction: (B, C, H, W). maps: (B, P, L) of Eq. 2 before the blur, M in Eq. 6.
    over_colours, errors: see `reconstruction_loss`; pixel_weights: its ``weights``.
    """
    return (reconstruction_loss(image, reconstruction, over_colours, pixel_weights)
            + weight * diversity_loss(maps))


def masked_patch_loss(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean squared error over the masked patches (B, M, D), 0-d (MAE).

    MAE divides the sum over all masked patches by their number. Every image has M of them here, so
    this is the mean. Raises ValueError for different shapes and for M = 0.
    """
    _check_same_shape(pred, target, 'pred', 'target')
    if not pred.numel():
        raise ValueError(f'no masked patch to predict: pred has shape {tuple(pred.shape)}; '
                         'mask_ratio must mask at least one patch')
    return F.mse_loss(pred.float(), target.float())


def _check_same_shape(a: torch.Tensor, b: torch.Tensor, name_a: str, name_b: str) -> None:
    # Broadcasting would turn a wrong shape into a wrong number.
    if a.shape != b.shape:
        raise ValueError(f'{name_a} has shape {tuple(a.shape)} and {name_b} {tuple(b.shape)}, '
                         'expected the same')
