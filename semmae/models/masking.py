"""Registered masking strategies; they call `semmae.functional.masking`.

B images, K candidates of the L patches of the grid, P parts.

The interface: a module with a ``mask_ratio`` that is called with `Candidates` as

    mask = strategy(candidates)        bool (B, K), 1 is removed

and removes ``K - int(K * (1 - mask_ratio))`` patches of every image. ``needs`` names the optional
fields of `Candidates` that it reads: 'part_ids', 'scores'. ``num_parts`` (optional) is the number
of parts that it expects. A strategy with parameters also has

    loss = strategy.loss(candidates, mask, patch_losses)        0-d, or a dict of such

patch_losses: (B, K) error of each masked patch, without gradient, 0 where visible. The result is
added to the loss of the model (`models.adversarial_masking`).
"""
from dataclasses import dataclass

import torch
from mmengine.model import BaseModule

from ..functional.masking import (
    alpha_at,
    attention_mask,
    blockwise_mask,
    part_guided_mask,
    random_mask,
)
from ..registry import MODELS


@dataclass(frozen=True)
class Candidates:
    """The patches among which a mask is drawn, and all that a strategy may read.

    images: (B, 3, height, width), normalised. grid: (H, W) patches.
    ids: (B, K) int64 grid positions of the candidates, ascending; all L unless the model drops the
        background.
    noise: (B, K + P) uniform numbers: one for each candidate, then one for each part. They are a
        function of (seed, epoch, image index), so the mask is too (`datasets.seeded`).
    progress: completed share of the pre-training, in [0, 1].
    part_ids: (B, K) int64, or None. scores: (B, K), larger is more foreground or more attended,
        as in the part store, or None.
    """
    images: torch.Tensor
    grid: tuple[int, int]
    ids: torch.Tensor
    noise: torch.Tensor
    progress: float = 0.
    part_ids: torch.Tensor | None = None
    scores: torch.Tensor | None = None


@MODELS.register_module()
class RandomMasking(BaseModule):
    """Every patch is equally likely (MAE; Table 3, first row)."""

    needs = ()

    def __init__(self, mask_ratio=0.75):
        super().__init__()
        self.mask_ratio = mask_ratio

    def forward(self, candidates):
        batch, length = candidates.ids.shape
        return random_mask(batch, length, self.mask_ratio, noise=candidates.noise)


@MODELS.register_module()
class BlockwiseMasking(BaseModule):
    """Rectangles of neighbouring patches (SiT, BEiT)."""

    needs = ()

    def __init__(self, mask_ratio=0.75):
        super().__init__()
        self.mask_ratio = mask_ratio

    def forward(self, candidates):
        return blockwise_mask(len(candidates.ids), candidates.grid, self.mask_ratio,
                              noise=candidates.noise, ids=candidates.ids)


@MODELS.register_module()
class AttentionMasking(BaseModule):
    """Guided by the attention of the part encoder's class token.

    mode: 'high' and 'hint' (AttMask), 'low' (AttMask's control), or 'nonessential' (MST): see
        `attention_mask`.
    The scores come from a part store made with ``--source heads``; its foreground is the mean
    attention of the heads. Configs require it by ``foreground='attention'`` of the data set.
    """

    needs = ('scores',)

    def __init__(self, mode='high', mask_ratio=0.75):
        super().__init__()
        self.mode, self.mask_ratio = mode, mask_ratio

    def forward(self, candidates):
        return attention_mask(candidates.scores, self.mask_ratio, self.mode,
                              noise=candidates.noise)


@MODELS.register_module()
class PartGuidedMasking(BaseModule):
    """Algorithm 1: from patches of every part (alpha 0) to whole parts (alpha 1).

    gamma, alpha_start, alpha_end: alpha goes from start to end as progress**gamma (line 7).
    With start = end it is fixed: 0 and 1 are rows 2 and 3 of Table 3. Start 1, end 0 is row 4.
    ``semmae.ProgressHook`` sets the progress, by epoch (Algorithm 1) or with by_epoch=False by
    iteration.
    """

    needs = ('part_ids',)

    def __init__(self, num_parts, mask_ratio=0.75, gamma=2.0, alpha_start=0.0, alpha_end=1.0):
        super().__init__()
        self.num_parts = num_parts
        self.mask_ratio = mask_ratio
        self.gamma, self.alpha_start, self.alpha_end = gamma, alpha_start, alpha_end

    def alpha(self, progress):
        """The interpolation weight of Algorithm 1, line 7, at ``progress``."""
        return alpha_at(progress, self.gamma, self.alpha_start, self.alpha_end)

    def forward(self, candidates):
        return part_guided_mask(candidates.part_ids, self.num_parts, self.mask_ratio,
                                self.alpha(candidates.progress), noise=candidates.noise)
