"""A masking strategy that is trained against the autoencoder, after ADIOS (Shi et al. 2022).

B images, K candidate patches, M of them masked.
"""
import torch
from mmengine.model import BaseModule
from torch import nn

from ..functional.patches import patches_at
from ..registry import MODELS


@MODELS.register_module()
class AdversarialMasking(BaseModule):
    """Masks patches that are hard to reconstruct; a small network learns to score them.

    ADIOS learns soft masks by gradients through the reconstruction. Masks here are exact sets of M
    patches, so the network learns by policy gradient (ours). Masks are drawn without replacement in
    proportion to exp(score): Gumbel noise is added, and the M highest scores are masked. A masked
    patch with an error above the mean of its image becomes more likely, others less likely.

    Raises the ValueErrors of `patches_at`.
    """

    needs = ()
    HIDDEN = 64  # width of the two-layer network; it sees a patch and the mean patch of its image
    ENTROPY_WEIGHT = 0.01  # without it scores diverge and the mask is always the same

    def __init__(self, patch_size, mask_ratio=0.75):
        super().__init__()
        self.patch_size, self.mask_ratio = patch_size, mask_ratio
        self.score = nn.Sequential(nn.Linear(2 * 3 * patch_size ** 2, self.HIDDEN), nn.GELU(),
                                   nn.Linear(self.HIDDEN, 1))

    def logits(self, candidates):
        """(B, K) float32 scores of the candidates; a larger one is masked more often."""
        patches = patches_at(candidates.images, self.patch_size, candidates.ids)
        mean = patches.mean(1, keepdim=True).expand_as(patches)
        return self.score(torch.cat([patches - mean, mean], 2)).squeeze(2).float()

    @torch.no_grad()
    def forward(self, candidates):
        logits = self.logits(candidates)
        k = logits.shape[1]
        uniform = candidates.noise[:, :k].clamp(1e-7, 1 - 1e-7)
        rank = (logits - (-uniform.log()).log()).argsort(dim=1, stable=True).argsort(1)
        return rank >= int(k * (1 - self.mask_ratio))

    def loss(self, candidates, mask, patch_losses):
        """dict(policy=..., entropy=...), 0-d each; patch_losses: see `models.masking`."""
        log_p = self.logits(candidates).log_softmax(1)
        is_masked = mask.float()
        mean = patch_losses.sum(1, keepdim=True) / is_masked.sum(1, keepdim=True)
        reward = (patch_losses - mean) * is_masked
        entropy = -(log_p.exp() * log_p).sum(1).mean()
        return dict(policy=-(reward * log_p).sum(1).mean() / is_masked.sum(1).mean(),
                    entropy=-self.ENTROPY_WEIGHT * entropy)
