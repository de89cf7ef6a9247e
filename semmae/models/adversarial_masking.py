"""A masking strategy that learns against the autoencoder, in the manner of ADIOS (Shi et al. 2022).

B images, K candidate patches, M of them masked.
"""
import torch
from mmengine.model import BaseModule
from torch import nn

from ..functional.patches import patches_at
from ..registry import MODELS


@MODELS.register_module()
class AdversarialMasking(BaseModule):
    """Masks what is hard to reconstruct: a small network scores patches, and is paid in loss.

    ADIOS learns soft masks through the reconstruction; here masks are exact sets of M patches, so
    the network learns by policy gradient (ours). Masks are drawn without replacement in proportion
    to exp(score / temperature), by adding Gumbel noise and masking the M highest. A masked patch
    whose error is above the mean of its image's masked ones gets likelier, the others less.
    ``entropy_weight`` keeps the scores from running away: without it one set would win for good.

    hidden: width of the two-layer network that sees one patch and the mean patch of its image.
    """

    needs = ()

    def __init__(self, patch_size, mask_ratio=0.75, hidden=64, temperature=1.0,
                 entropy_weight=0.01):
        super().__init__()
        self.patch_size, self.mask_ratio = patch_size, mask_ratio
        self.temperature, self.entropy_weight = temperature, entropy_weight
        self.score = nn.Sequential(nn.Linear(2 * 3 * patch_size ** 2, hidden), nn.GELU(),
                                   nn.Linear(hidden, 1))

    def logits(self, candidates):
        """(B, K) scores of the candidates, larger is likelier to be masked."""
        patches = patches_at(candidates.images, self.patch_size, candidates.ids)
        mean = patches.mean(1, keepdim=True).expand_as(patches)
        return self.score(torch.cat([patches - mean, mean], 2)).squeeze(2) / self.temperature

    @torch.no_grad()
    def forward(self, candidates):
        logits = self.logits(candidates).float()
        k = logits.shape[1]
        uniform = candidates.noise[:, :k].clamp(1e-7, 1 - 1e-7)
        rank = (logits - (-uniform.log()).log()).argsort(dim=1, stable=True).argsort(1)
        return rank >= int(k * (1 - self.mask_ratio))

    def loss(self, candidates, mask, patch_losses):
        logits = self.logits(candidates).float()
        log_p = logits.log_softmax(1)
        is_masked = mask.float()
        mean = patch_losses.sum(1, keepdim=True) / is_masked.sum(1, keepdim=True)
        reward = (patch_losses - mean) * is_masked
        entropy = -(log_p.exp() * log_p).sum(1).mean()
        return dict(policy=-(reward * log_p).sum(1).mean() / is_masked.sum(1).mean(),
                    entropy=-self.entropy_weight * entropy)
