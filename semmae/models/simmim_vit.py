"""SimMIM's ViT: all patches go in, masked ones as a learned token.

B images, D channels, h w patch grid.
"""
import torch
from torch import nn

from ..registry import MODELS
from .backbone import ViT


@MODELS.register_module()
class SimMIMViT(ViT):
    """`ViT` for mmpretrain's ``SimMIM``; it has the tensors of `ViT` and ``mask_token``.

    Mask tokens replace patch embeddings before the positions are added (SimMIM, Sec. 3.2). Without
    a mask it is `ViT`. The images have ``img_size`` pixels.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs, out_type='featmap')
        self.mask_token = nn.Parameter(torch.zeros(1, 1, self.embed_dims))

    def init_weights(self):
        super().init_weights()
        nn.init.trunc_normal_(self.mask_token, std=.02, a=-.02, b=.02)

    def forward(self, images, mask=None):
        """(B, 3, H, W) -> a tuple of feature maps (B, D, h, w).

        mask: (B, h, w), 1 where a patch is masked, or None. Raises ValueError for another grid.
        """
        if mask is None:
            return super().forward(images)
        x, hw = self.patch_embed(images)
        if tuple(mask.shape[1:]) != tuple(hw):
            raise ValueError(
                f'got masks of {tuple(mask.shape[1:])} patches, expected {tuple(hw)}: set '
                f'input_size to the image side and model_patch_size={self.patch_size} of '
                'mmpretrain.SimMIMMaskGenerator')
        where = mask.flatten(1).unsqueeze(-1).to(x.dtype)
        x = x * (1 - where) + self.mask_token * where
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        return self.encode(self.drop_after_pos(x), hw)
