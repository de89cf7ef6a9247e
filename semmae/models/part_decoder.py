"""Decoders from blurred part maps to an image: the paper's (Eq. 3-4) and a simpler one (ours).

B images, P parts, D channels of a token, C channels of the decoder, h w grid of the maps.
A decoder is called as ``decoder(maps (B, P, h, w), texture)``. texture is the class token (B, D),
or with ``needs_part_textures`` the mean patch token of each part (B, P, D). The maps are the only
spatial input.
"""
import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import nn

from ..functional.parts import adain
from ..registry import MODELS


class SynthesisBlock(nn.Module):
    """Upsampling, convolution, AdaIN from the class token (Eq. 3), LeakyReLU (ours)."""

    def __init__(self, in_channels, out_channels, embed_dims, upsample):
        super().__init__()
        self.upsample = upsample
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.style = nn.Linear(embed_dims, 2 * out_channels)  # W_s and W_b of Eq. 3

    def forward(self, x, cls_token):
        if self.upsample:
            x = F.interpolate(x, scale_factor=2, mode='bilinear', align_corners=False)
        scale, shift = self.style(cls_token).chunk(2, 1)
        # 1 + scale as in StyleGAN (Eq. 3: scale): initial blocks are near the identity.
        return F.leaky_relu(adain(self.conv(x), 1 + scale, shift), .2)


@MODELS.register_module()
class PartDecoder(BaseModule):
    """Image from part maps (Eq. 4): position comes from the maps only, texture from F_c only.

    The paper says "StyleGAN-based", convolution and AdaIN stacked. Ours: no noise, no mapping
    network and no path from the patch tokens.

    channels: of the synthesis blocks. num_upsamplings: number of the last blocks that double the
        resolution; a (grid, grid) map becomes an image of ``grid * 2**num_upsamplings`` pixels.
    Raises ValueError for more upsamplings than blocks.
    """

    needs_part_textures = False

    def __init__(self, num_parts, embed_dims, channels=(32, 32, 32), num_upsamplings=1):
        super().__init__()
        if not 0 <= num_upsamplings <= len(channels):
            raise ValueError(f'num_upsamplings is {num_upsamplings}, expected 0 to '
                             f'{len(channels)}, the number of blocks')
        sizes = [num_parts, *channels]
        first = len(channels) - num_upsamplings
        self.blocks = nn.ModuleList(
            SynthesisBlock(a, b, embed_dims, upsample=i >= first)
            for i, (a, b) in enumerate(zip(sizes, sizes[1:])))
        self.to_rgb = nn.Conv2d(sizes[-1], 3, 3, padding=1)

    def forward(self, maps, cls_token):
        """maps (B, P, h, w), cls_token (B, D) -> (B, 3, h * 2**n, w * 2**n)."""
        x = maps
        for block in self.blocks:
            x = block(x, cls_token)
        return self.to_rgb(x)


@MODELS.register_module()
class PaintDecoder(BaseModule):
    """Each part in one colour, without a convolution (ours).

    An object of several colours then needs several parts. The paper's decoder can draw it from one
    map (benchmarks/results/parts).

    texture: input of the two-layer network that gives the colour of a part. 'parts': the mean of
        the part's own patch tokens. 'class_token': F_c, as in the paper.
    paints_tokens: it also predicts patch tokens, for `PartLearner(token_weight=...)`.
    Raises ValueError for another ``texture``.
    """

    HIDDEN = 128  # width of the two-layer network

    def __init__(self, num_parts, embed_dims, texture='parts', paints_tokens=False):
        super().__init__()
        if texture not in ('parts', 'class_token'):
            raise ValueError(f"texture is {texture!r}, expected 'parts' or 'class_token'")
        self.needs_part_textures = texture == 'parts'
        each = 1 if self.needs_part_textures else num_parts
        self.num_parts = num_parts
        self.colour, self.token = (nn.Sequential(
            nn.Linear(embed_dims, self.HIDDEN), nn.GELU(), nn.Linear(self.HIDDEN, each * out))
            if out else None for out in (3, embed_dims * paints_tokens))

    def _paint(self, net, maps, texture):
        values = net(texture)
        if not self.needs_part_textures:
            values = values.unflatten(1, (self.num_parts, -1))
        return torch.einsum('bphw,bpc->bchw', maps, values)

    def forward(self, maps, texture):
        """maps (B, P, h, w), texture (B, P, D) or (B, D) -> image (B, 3, h, w)."""
        return self._paint(self.colour, maps, texture)

    def paint_tokens(self, maps, texture):
        """maps and texture as `forward` -> patch tokens (B, h * w, D)."""
        return self._paint(self.token, maps, texture).flatten(2).transpose(1, 2)
