"""Semantic part learning (Sec. 3.1): part attention, decoder and losses as one model.

B images, P parts (the paper's N), D channels, L = grid x grid patches.
"""
import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from torch import nn

from ..functional.losses import diversity_loss, part_loss
from ..functional.parts import (
    blur_maps,
    foreground_scores,
    part_attention,
    part_health,
    part_ids,
    part_tokens,
)
from ..registry import MODELS


@MODELS.register_module()
class PartLearner(BaseModel):
    """Learns P part maps from a frozen encoder by reconstructing the image from them.

    Trains only the attention (Eq. 1-2) and the decoder (Eq. 3-4).

    softmax_over: axis of Eq. 2's softmax, 'parts' (ours, default) or 'positions'; the paper does
        not say.
    blur_kernel: side of the Gaussian blur on the maps, in patches (paper: 7, on 28x28).
    diversity_weight: lambda of Eq. 7 (paper: 0.03).
    """

    def __init__(self, encoder, decoder, num_parts=6, blur_kernel=7, diversity_weight=0.03,
                 softmax_over='parts', data_preprocessor=None, init_cfg=None):
        super().__init__(data_preprocessor or dict(type='semmae.ImagePreprocessor'), init_cfg)
        self.encoder = MODELS.build(encoder)
        d = self.encoder.embed_dims
        self.decoder = MODELS.build(dict(decoder, num_parts=num_parts, embed_dims=d))
        self.num_parts, self.blur_kernel = num_parts, blur_kernel
        self.diversity_weight, self.softmax_over = diversity_weight, softmax_over
        self.w1 = nn.Parameter(torch.empty(num_parts, d, d))  # W_c1 of Eq. 1
        self.w2 = nn.Parameter(torch.empty(num_parts, d, d))  # W_c2 of Eq. 1
        self.wp = nn.Parameter(torch.empty(d, d))             # W_p of Eq. 2
        self.w = nn.Parameter(torch.empty(d, d))              # W of Eq. 2
        for weight in (*self.w1, *self.w2, self.wp, self.w):
            nn.init.kaiming_uniform_(weight, a=5 ** .5)  # as nn.Linear

    @property
    def grid(self):
        return self.encoder.grid

    def maps(self, images, return_logits=False):
        """Part maps M of Eq. 2, (B, P, L), and the class token (B, D)."""
        cls_token, patches = self.encoder(images)
        # Layer norm (ours): without it the scale of the class token decides whether the maps ever
        # become different from each other.
        cls_token = F.layer_norm(cls_token.float(), cls_token.shape[-1:])
        # Logits without 1/sqrt(D) reach hundreds, where bfloat16 has steps of 1.
        with torch.autocast(images.device.type, enabled=False):
            out = part_attention(part_tokens(cls_token, self.w1, self.w2), patches.float(), self.wp,
                                 self.w, softmax_over=self.softmax_over,
                                 return_logits=return_logits)
        return out, cls_token

    def reconstruct(self, maps, cls_token):
        """Eq. 3-4: (B, P, L) maps -> image (B, 3, h, w) at the decoder's resolution."""
        maps = maps.unflatten(-1, (self.grid, self.grid))
        if self.softmax_over == 'positions':
            maps = maps * self.grid ** 2  # mean 1 a map, as an image of ones
        with torch.autocast(maps.device.type, enabled=False):
            maps = blur_maps(maps, self.blur_kernel)
        return self.decoder(maps, cls_token)

    def forward(self, inputs, mode='tensor', **_):
        """mode 'loss': dict with the loss of Eq. 7 and signs of health.

        mode 'tensor' or 'predict': dict(part_ids (B, L) int64, foreground (B, L), maps (B, P, L)).
        """
        if mode != 'loss':
            logits, _ = self.maps(inputs, return_logits=True)
            maps = logits.softmax(1 if self.softmax_over == 'parts' else -1)
            # Over positions every map sums to 1, so large parts would lose each argmax: logits.
            ids = part_ids(logits)
            return dict(part_ids=ids, foreground=foreground_scores(maps), maps=maps)
        maps, cls_token = self.maps(inputs)
        reconstruction = self.reconstruct(maps, cls_token)
        target = F.adaptive_avg_pool2d(inputs, reconstruction.shape[-2:])
        losses = dict(loss=part_loss(target, reconstruction, maps, self.diversity_weight))
        with torch.no_grad():
            health = part_health(maps)
            losses.update(
                diversity=diversity_loss(maps), empty_parts=health['num_empty'].float(),
                off_diagonal_cosine=health['off_diagonal_cosine'],
                largest_part=health['largest_share'])
        return losses
