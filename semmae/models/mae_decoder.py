"""The MAE decoder over arbitrary patch positions.

B images, L patches of the grid, V visible, M masked, D channels.
"""
import torch
from mmengine.model import BaseModule
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from torch import nn

from ..functional.patches import gather_positions, sincos_position_embedding
from ..registry import MODELS
from .backbone import mae_init
from .layers import Layer


@MODELS.register_module()
class MAEDecoder(BaseModule):
    """Predicts the pixels of masked patches from visible tokens (MAE, Sec. 3).

    Tensor names are those of mmpretrain's ``MAEPretrainDecoder``. Differences: visible and masked
    positions need not cover the grid (8x8 pre-training drops the background), and only masked
    positions are predicted.

    grid: patches a side, or (h, w). embed_dim: width of the encoder.
    """

    def __init__(self, grid, patch_size, embed_dim=768, decoder_embed_dim=512, decoder_depth=8,
                 decoder_num_heads=16):
        super().__init__()
        self.grid = (grid, grid) if isinstance(grid, int) else tuple(grid)
        self.decoder_embed = nn.Linear(embed_dim, decoder_embed_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_embed_dim))
        self.decoder_pos_embed = nn.Parameter(
            torch.zeros(1, 1 + self.grid[0] * self.grid[1], decoder_embed_dim), requires_grad=False)
        self.decoder_blocks = nn.ModuleList(
            Layer(TransformerEncoderLayer(
                decoder_embed_dim, decoder_num_heads, feedforward_channels=4 * decoder_embed_dim,
                norm_cfg=dict(type='LN', eps=1e-6)))
            for _ in range(decoder_depth))
        self.ln1 = nn.LayerNorm(decoder_embed_dim, eps=1e-6)
        self.decoder_pred = nn.Linear(decoder_embed_dim, patch_size ** 2 * 3)

    def init_weights(self):
        mae_init(self)
        nn.init.normal_(self.mask_token, std=.02)
        self.decoder_pos_embed.data.copy_(
            sincos_position_embedding(self.decoder_pos_embed.shape[-1], self.grid))
        self.is_init = True

    def forward(self, tokens, ids_keep, ids_mask):
        """Pixels of the masked patches, (B, M, patch_size**2 * 3).

        tokens: (B, 1 + V, D) from the encoder, class token first.
        ids_keep (B, V), ids_mask (B, M): positions on the grid.
        """
        pos = self.decoder_pos_embed
        shown = torch.cat([pos[:, :1].expand(len(tokens), -1, -1),
                           gather_positions(pos[:, 1:], ids_keep)], 1)
        hidden = self.mask_token + gather_positions(pos[:, 1:], ids_mask)
        x = torch.cat([self.decoder_embed(tokens) + shown, hidden], 1)
        *blocks, last = self.decoder_blocks
        for block in blocks:
            x = block(x)
        return self.decoder_pred(self.ln1(last(x, num_queries=ids_mask.shape[1])))
