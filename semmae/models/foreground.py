"""Which patches show the object: rankings of the foreground, and the object as a map (ours).

B images, L = grid x grid patches, D channels, H heads. The paper drops the patches most likely to
be background and does not say how it ranks them (Sec. 4.2).
"""
from dataclasses import dataclass

import torch
from mmengine.model import BaseModule

from ..functional.parts import centre_scores, otsu_thresholds, unlike_border_tokens
from ..registry import MODELS

BY = ('border', 'attention', 'both', 'centre')


@dataclass(frozen=True)
class Ranking:
    """Scores of the patches from one pass of the encoder; larger is more object.

    by: 'border': by `unlike_border_tokens`. 'attention': by the attention of the class token, mean
        over heads. 'both': the mean of the two ranks in the image. 'centre': by the distance from
        the centre of the image, the baseline.
    layer: whose tokens or attention are read, from 0, or from the end if negative. None: the
        tokens that the encoder gives, and the attention of its last layer.
    Raises ValueError for another ``by``.
    """
    by: str = 'border'
    layer: int | None = None

    def __post_init__(self):
        if self.by not in BY:
            raise ValueError(f'the foreground is ranked by {self.by!r}, expected one of {BY}')

    @property
    def reads(self) -> dict:
        """What it asks of `PartEncoder.look`."""
        found = {}
        if self.by in ('border', 'both') and self.layer is not None:
            found['token_layers'] = (self.layer,)
        if self.by in ('attention', 'both'):
            found['attention_layers'] = (-1 if self.layer is None else self.layer,)
        return found

    def scores(self, seen, grid: int) -> torch.Tensor:
        """(B, L) of what the encoder saw (`part_encoder.Seen`)."""
        tokens = seen.patches if self.layer is None else seen.tokens.get(self.layer)
        border, attention = (), ()
        if self.by == 'centre':
            return centre_scores(grid, seen.patches.device).expand(len(seen.patches), -1)
        if self.by in ('border', 'both'):
            border = unlike_border_tokens(tokens, grid)
        if self.by in ('attention', 'both'):
            attention = seen.attention[-1 if self.layer is None else self.layer].mean(1)
        if self.by == 'both':
            return (ranks(border) + ranks(attention)) / 2
        return border if self.by == 'border' else attention


def ranks(scores):
    """(B, L) float32: 0 for the lowest score of each image, L - 1 for the highest."""
    return scores.argsort(dim=1, stable=True).argsort(dim=1).float()


def object_first(scores, ids):
    """Scores (B, L) with the patches outside part 0, the background, above all others."""
    return ranks(scores) + (ids > 0) * scores.shape[1]


@MODELS.register_module()
class ObjectMap(BaseModule):
    """The object of each image as a map (B, L) of zeros and ones, from a `Ranking`.

    by, layer: see `Ranking`. threshold: 'otsu', the threshold of Otsu (1979) on the scores of each
        image, or the share of the patches that are object, in (0, 1).
    Raises ValueError for another ``by`` or ``threshold``.
    """

    def __init__(self, by='border', layer=None, threshold='otsu'):
        super().__init__()
        self.ranking = Ranking(by, layer)
        if threshold != 'otsu' and not (isinstance(threshold, float) and 0 < threshold < 1):
            raise ValueError(f"threshold is {threshold!r}, expected 'otsu' or a share of the "
                             'patches between 0 and 1')
        self.threshold = threshold

    def forward(self, seen, grid):
        """(map of the object (B, L) float32, scores (B, L)); at least one patch is object."""
        scores = self.ranking.scores(seen, grid).float()
        order = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        if self.threshold == 'otsu':
            found = (scores > otsu_thresholds(scores)[:, None]) | (order == 0)
        else:
            found = order < max(1, round(self.threshold * scores.shape[1]))
        return found.float(), scores
