"""Registered masking strategies: faces of `semmae.functional.masking`.

The interface, all of it: a module that is called as

    mask = strategy(batch, length, part_ids, progress, noise)        bool (B, L), 1 is removed

with ``part_ids`` (B, L) int64 or None, ``progress`` in [0, 1] through the pre-training, ``noise``
(B, L + P) uniform numbers of these images in this epoch (`semmae.datasets.seeded`), or None to draw
new ones. Every image of a batch must have ``L - int(L * (1 - mask_ratio))`` patches removed.
``needs_parts`` says whether a part store has to be given.
"""
from mmengine.model import BaseModule

from ..functional.masking import alpha_at, part_guided_mask, random_mask
from ..registry import MODELS


@MODELS.register_module()
class RandomMasking(BaseModule):
    """Every patch equally likely (MAE). Table 3, first row."""

    needs_parts = False

    def __init__(self, mask_ratio=0.75):
        super().__init__()
        self.mask_ratio = mask_ratio

    def forward(self, batch, length, part_ids=None, progress=0., noise=None):
        return random_mask(batch, length, self.mask_ratio, noise=noise)


@MODELS.register_module()
class PartGuidedMasking(BaseModule):
    """Algorithm 1: from patches of every part (alpha 0) to whole parts (alpha 1).

    gamma, alpha_start, alpha_end: alpha runs from start to end as progress**gamma (line 7).
    With start = end it is fixed: 0 and 1 are rows 2 and 3 of Table 3; start 1, end 0 is row 4.
    """

    needs_parts = True

    def __init__(self, num_parts, mask_ratio=0.75, gamma=2.0, alpha_start=0.0, alpha_end=1.0):
        super().__init__()
        self.num_parts = num_parts
        self.mask_ratio = mask_ratio
        self.gamma, self.alpha_start, self.alpha_end = gamma, alpha_start, alpha_end

    def alpha(self, progress):
        """The interpolation weight of Algorithm 1, line 7, at ``progress``."""
        return alpha_at(progress, self.gamma, self.alpha_start, self.alpha_end)

    def forward(self, batch, length, part_ids, progress, noise=None):
        return part_guided_mask(part_ids, self.num_parts, self.mask_ratio, self.alpha(progress),
                                noise=noise)
