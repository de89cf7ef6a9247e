"""Semantic part learning (Sec. 3.1): part attention, decoder and losses as one model.

B images, P parts (the paper's N), D channels, L = grid x grid patches.
"""
import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from torch import nn

from ..functional.losses import diversity_loss, part_loss, reconstruction_loss
from ..functional.parts import (
    blur_maps,
    part_attention,
    part_health,
    part_textures,
    part_tokens,
)
from ..registry import MODELS
from .part_encoder import Seen

EPS = 1e-6  # of the object's map, so that its logarithm is finite


@MODELS.register_module()
class PartLearner(BaseModel):
    """Learns P part maps from a frozen encoder by reconstructing the image from them.

    Only the attention (Eq. 1-2) and the decoder (Eq. 3-4) are trained.

    blur_kernel: side of the Gaussian blur on the maps, in patches (paper: 7, on 28x28).
    diversity_weight: lambda of Eq. 7 (paper: 0.03).
    softmax_over: axis of the softmax of Eq. 2, see `part_attention`.
    over_colours: Eq. 5 as 'mean' (ours, default) or 'sum', see `reconstruction_loss`.
    token_weight: weight of the mean squared error of the layer-normed patch tokens, which a
        `PaintDecoder` can also predict (ours; 0 in the paper). With it a part has the same meaning
        in more images; in some runs the background is split (benchmarks/results/parts).
    parts: config of the source of the parts that `segment` gives (`models.part_sources`); default
        the learned parts. It has no effect on training.
    object: config of an `ObjectMap` (ours); None: Eq. 1-7 as they are. With it the first of the
        ``num_parts`` maps is the background, and the others share the object of each image. Eq. 5
        and the error of the tokens then count the object only, and Eq. 6 its parts.

    Raises ValueError for a token loss without a decoder of tokens, or such a decoder without it,
    and for an object with fewer than two parts or with a softmax over positions.
    """

    def __init__(self, encoder, decoder, num_parts=6, blur_kernel=7, diversity_weight=0.03,
                 softmax_over='parts', over_colours='mean', token_weight=0., parts=None,
                 object=None, data_preprocessor=None):
        super().__init__(data_preprocessor or dict(type='semmae.ImagePreprocessor'))
        self.encoder = MODELS.build(encoder)
        d = self.encoder.embed_dims
        self.decoder = MODELS.build(dict(decoder, num_parts=num_parts, embed_dims=d))
        self.num_parts, self.blur_kernel = num_parts, blur_kernel
        self.diversity_weight, self.softmax_over = diversity_weight, softmax_over
        self.over_colours, self.token_weight = over_colours, token_weight
        if bool(token_weight) != (getattr(self.decoder, 'token', None) is not None):
            raise ValueError(f'token_weight is {token_weight}, so the decoder must '
                             f'{"" if token_weight else "not "}predict tokens; set both or none: '
                             'token_weight > 0 and a semmae.PaintDecoder with paints_tokens=True')
        if object and (num_parts < 2 or softmax_over != 'parts'):
            raise ValueError(f'got object with num_parts={num_parts} and softmax_over='
                             f"{softmax_over!r}, expected at least 2 (the background and a part) "
                             "and 'parts'")
        self.object = MODELS.build(dict(object, type='semmae.ObjectMap')) if object else None
        self.parts = MODELS.build(parts or dict(type='semmae.LearnedParts'))
        self.w1 = nn.Parameter(torch.empty(num_parts, d, d))  # W_c1 of Eq. 1
        self.w2 = nn.Parameter(torch.empty(num_parts, d, d))  # W_c2 of Eq. 1
        self.wp = nn.Parameter(torch.empty(d, d))             # W_p of Eq. 2
        self.w = nn.Parameter(torch.empty(d, d))              # W of Eq. 2
        for weight in (*self.w1, *self.w2, self.wp, self.w):
            nn.init.kaiming_uniform_(weight, a=5 ** .5)  # as nn.Linear

    @property
    def grid(self):
        return self.encoder.grid

    @property
    def num_parts_out(self):
        """Number of part ids that `segment` can give; it differs for the encoder's heads."""
        return self.parts.num_parts(self)

    def look(self, images, ranking=None):
        """`part_encoder.Seen` of images, from one pass; ranking: a `Ranking` that also reads it."""
        reads: dict = {}
        for asked in (ranking, self.object and self.object.ranking):
            for key, layers in (asked.reads if asked else {}).items():
                reads[key] = (*reads.get(key, ()), *layers)
        if reads:
            return self.encoder.look(images, **reads)
        cls_token, patches = self.encoder(images)
        return Seen(cls_token, patches, {}, {})

    def attend(self, images, seen=None):
        """(logits of the part maps of Eq. 2 (B, P, L), class token (B, D), patch tokens (B, L, D)).

        Tokens are float32. The class token is layer-normed (ours): otherwise its scale decides
        whether the maps become different from each other.
        seen: what the encoder gives for these images; None: a pass is made.
        """
        seen = seen or self.look(images)
        cls_token, patches = seen.cls_token.float(), seen.patches.float()
        cls_token = F.layer_norm(cls_token, cls_token.shape[-1:])
        # Logits without 1/sqrt(D) reach hundreds; bfloat16 has steps of 1 there.
        with torch.autocast(images.device.type, enabled=False):
            logits = part_attention(part_tokens(cls_token, self.w1, self.w2), patches, self.wp,
                                    self.w, self.softmax_over, return_logits=True)
            if self.object:
                inside = self.object(seen, self.grid)[0].clamp(EPS, 1 - EPS)[:, None]
                logits = torch.cat([(1 - inside).log(),
                                    inside.log() + logits[:, 1:].log_softmax(1)], 1)
        return logits, cls_token, patches

    def normalised(self, logits):
        """Part maps M of Eq. 2: the softmax of the logits (B, P, L) over ``softmax_over``."""
        return logits.softmax(1 if self.softmax_over == 'parts' else -1)

    def segment(self, images):
        """(part_ids (B, L) int64, foreground (B, L), larger is more object) of images."""
        return self.parts(self, images)

    def reconstruct(self, maps, cls_token, patches):
        """Eq. 3-4: maps (B, P, L) -> (image (B, 3, h, w) at the decoder's resolution, tokens).

        tokens: with ``token_weight`` the layer-normed patch tokens (B, L, D), else None.
        """
        texture = cls_token
        if self.decoder.needs_part_textures:
            texture = part_textures(maps, F.layer_norm(patches, patches.shape[-1:]))
        maps = maps.unflatten(-1, (self.grid, self.grid))
        if self.softmax_over == 'positions':
            maps = maps * self.grid ** 2  # each map then has mean 1
        with torch.autocast(maps.device.type, enabled=False):
            maps = blur_maps(maps, self.blur_kernel)
        tokens = self.decoder.paint_tokens(maps, texture) if self.token_weight else None
        return self.decoder(maps, texture), tokens

    def loss(self, images):
        """dict with the loss of Eq. 7 and the numbers of `functional.parts.part_health`.

        explained: share of the variance within images (within the object, if there is one) that the
        reconstruction explains; 0: as good as one colour for each image.
        """
        logits, cls_token, patches = self.attend(images)
        maps = self.normalised(logits)
        reconstruction, tokens = self.reconstruct(maps, cls_token, patches)
        target = F.adaptive_avg_pool2d(images, reconstruction.shape[-2:])
        counted = (maps[:, 0] < .5).float() if self.object else None
        pixels = counted if counted is None else F.interpolate(
            counted.unflatten(-1, (1, self.grid, self.grid)), target.shape[-2:])[:, 0]
        loss = part_loss(target, reconstruction, maps[:, 1:] if self.object else maps,
                         self.diversity_weight, self.over_colours, pixels)
        if tokens is not None:
            wanted = F.layer_norm(patches, patches.shape[-1:])
            loss = loss + self.token_weight * (
                F.mse_loss(tokens.float(), wanted) if counted is None else
                ((tokens.float() - wanted).square().mean(-1) * counted).sum() / counted.sum())
        with torch.no_grad():
            shares = torch.ones_like(target[:, 0]) if pixels is None else pixels
            plain = (target * shares[:, None]).sum((2, 3), keepdim=True) / shares.sum(
                (1, 2)).clamp(min=1e-6)[:, None, None, None]
            error, spread = (reconstruction_loss(target, x, weights=pixels)
                             for x in (reconstruction, plain.expand_as(target)))
            health = dict(part_health(maps), diversity=diversity_loss(maps), logit_std=logits.std(),
                          explained=1 - error / spread.clamp(min=1e-6))
        self.coverage = health.pop('coverage')  # (P,), read by PartHealthHook
        return dict(loss=loss, **health)

    def forward(self, inputs, mode='tensor', **truth):
        """mode 'loss': see `loss`. mode 'tensor': part maps (B, P, L).

        mode 'predict': a dict for each image: part_ids (L,), foreground (L,), num_parts, and its
            entries of ``truth`` (sample_idx, labels).
        """
        if mode == 'loss':
            return self.loss(inputs)
        if mode == 'tensor':
            return self.normalised(self.attend(inputs)[0])
        ids, foreground = self.segment(inputs)
        return [dict(part_ids=ids[i], foreground=foreground[i], num_parts=self.num_parts_out,
                     **{k: v[i] for k, v in truth.items()}) for i in range(len(ids))]
