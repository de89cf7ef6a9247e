"""The frozen ViT of part learning: image -> class token and patch tokens (Sec. 3.1).

B images, L = grid x grid patches, D channels, H heads.
"""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule

from ..checkpoints.load import load_backbone
from ..checkpoints.timm_models import load_timm
from ..registry import MODELS
from .backbone import RelPosAttention
from .timm_vit import timm_vit

FACETS = ('token', 'query', 'key', 'value')


class Seen(NamedTuple):
    """What one pass of the encoder gives.

    cls_token: (B, D). patches: (B, L, D). tokens: {layer: patch tokens (B, L, D)}. attention:
    {layer: attention of the class token to the patches (B, H, L)}.
    """
    cls_token: torch.Tensor
    patches: torch.Tensor
    tokens: dict[int, torch.Tensor]
    attention: dict[int, torch.Tensor]


@MODELS.register_module()
class PartEncoder(BaseModule):
    """Any ViT as a frozen encoder, always in evaluation mode.

    backbone: the config of a ``semmae.ViT`` or ``semmae.TimmViT``, or the name of a timm ViT; all
        need a class token. Registers are left out. For iBOT and DINO use ``dict(type='semmae.ViT',
        arch='deit-small', img_size=224, patch_size=16, interpolate_offset=0.1)``: it gives the
        tokens and attention of iBOT's own code at every grid. timm interpolates the position
        embedding differently, so a timm name gives them only at the size of pre-training.
    checkpoint: its weights (iBOT, DINO, MAE, timm, Hugging Face, ours; BEiT with the options of
        `ViT`, only at ``img_size``). `init_weights` loads them strictly; without `init_weights`
        they come from the checkpoint of the learner.
    checkpoint_key: which state dict of the file; None: the teacher of iBOT and DINO
        (`checkpoints.load.backbone_state`).
    grid: patches a side. Images of any size are resized to ``grid * patch_size`` pixels, and the
        position embedding is interpolated (ours; the paper does not say how an encoder with 16x16
        patches gives 28x28 parts).
    layer: whose patch tokens are given, from 0, or from the end if negative. Tokens of inner layers
        get the network's last norm, as in DINOv2's ``get_intermediate_layers``.
    facet: 'token', or the 'query', 'key' or 'value' of the attention in this layer, all heads side
        by side (Amir et al. 2021, who found keys of layer 9 best), without a norm.
    class_token: 'last': of the last layer, as the paper. 'same': of ``layer`` and ``facet``.

    Raises ValueError for a network without a class token, a layer that it does not have, another
    ``facet`` or ``class_token``, and a facet of an attention without ``qkv``.
    """

    def __init__(self, backbone, grid, checkpoint=None, checkpoint_key=None, layer=-1,
                 facet='token', class_token='last'):
        super().__init__()
        self.is_timm = isinstance(backbone, str)
        if self.is_timm:
            self.backbone = timm_vit(backbone)
            self.patch_size = self.backbone.patch_embed.patch_size[0]
            self.embed_dims = self.backbone.embed_dim
            self.num_prefix = self.backbone.num_prefix_tokens
        else:
            self.backbone = MODELS.build(dict(backbone, out_type='raw'))
            self.patch_size = self.backbone.patch_size
            self.embed_dims = self.backbone.embed_dims
            self.num_prefix = self.backbone.num_prefix
        if getattr(self.network, 'cls_token', None) is None:
            raise ValueError(f'part encoder: {backbone} has no class token, which Eq. 1 needs. '
                             'Expected a ViT with one, as vit_small_patch16_224 or '
                             'vit_small_patch14_dinov2')
        if facet not in FACETS or class_token not in ('last', 'same'):
            raise ValueError(f'part encoder: facet is {facet!r} and class_token {class_token!r}, '
                             f"expected one of {FACETS} and 'last' or 'same'")
        self.layer, self.facet, self.class_token = self.number(layer), facet, class_token
        if facet != 'token':
            self.attention_of(layer)  # or ValueError
        self.grid, self.checkpoint, self.checkpoint_key = grid, checkpoint, checkpoint_key
        self.requires_grad_(False)
        self.eval()

    @property
    def network(self):
        """timm's module, or the ViT of this package."""
        return getattr(self.backbone, 'vit', self.backbone)

    @property
    def num_heads(self):
        return self.attention_of(-1).num_heads

    @property
    def blocks(self):
        return getattr(self.network, 'blocks', None) or self.network.layers

    def number(self, layer) -> int:
        """A layer counted from 0; ValueError if there is none of this number."""
        depth = len(self.blocks)
        if not isinstance(layer, int) or not -depth <= layer < depth:
            raise ValueError(f'part encoder: got layer {layer!r} of a network with {depth} layers, '
                             f'expected a number from {-depth} to {depth - 1}')
        return layer % depth

    def attention_of(self, layer):
        """The attention of a layer; ValueError if its heads cannot be computed from ``qkv``."""
        attention = self.blocks[self.number(layer)].attn
        if getattr(self.network, 'rope', None) is not None or not hasattr(attention, 'qkv'):
            raise ValueError(self.no_heads('rotary positions or separate queries and keys'))
        return attention

    def no_heads(self, why) -> str:
        """The message for a network whose heads cannot be computed."""
        return (f'part encoder: the heads of {type(self.network).__name__} are not available: its '
                f'attention has {why}. Expected another source of parts, or a ViT as '
                'vit_small_patch14_dinov2')

    def init_weights(self):
        """Load ``checkpoint`` into the backbone (`load_backbone`); ValueError if there is none."""
        if not self.checkpoint:
            raise ValueError(
                'the part encoder has no checkpoint: parts of an untrained network are useless. '
                'Set model.encoder.checkpoint to an iBOT, DINO, MAE or timm file, for example '
                '--cfg-options model.encoder.checkpoint=weights/ibot_vits_16.pth')
        load = load_backbone if self.network is self.backbone and not self.is_timm else load_timm
        self.load_report = load(self.network, self.checkpoint, checkpoint_key=self.checkpoint_key)
        self.is_init = True

    def train(self, mode=True):
        return super().train(False)

    def features(self, images):
        """(B, 3, S, S), S a multiple of patch_size -> (B, prefix + L, D), after the last norm."""
        return (self.backbone.forward_features(images) if self.is_timm
                else self.backbone(images)[-1])

    def resized(self, images):
        """Images at ``grid * patch_size`` pixels."""
        size = self.grid * self.patch_size
        if images.shape[-2:] == (size, size):
            return images
        return F.interpolate(images, (size, size), mode='bicubic', antialias=True)

    @torch.no_grad()
    def forward(self, images, return_heads=False):
        """(B, 3, H, W) normalised -> class token (B, D), patch tokens (B, L, D).

        return_heads: also the attention of the class token to the patches in the last layer,
        (B, heads, L) (Table 4, "iBOT-initialized" parts). Its sum is below 1, because the class
        token also attends to itself.
        """
        if not return_heads and self.facet == 'token' and self.layer == len(self.blocks) - 1:
            tokens = self.features(self.resized(images))  # without hooks: one graph if compiled
            return tokens[:, 0], tokens[:, self.num_prefix:]
        seen = self.look(images, attention_layers=(-1,) if return_heads else ())
        return (*seen[:2], seen.attention[-1]) if return_heads else tuple(seen[:2])

    @torch.no_grad()
    def look(self, images, token_layers=(), attention_layers=()) -> Seen:
        """One pass over (B, 3, H, W) normalised images.

        token_layers, attention_layers: the layers in ``tokens`` and ``attention`` of the result,
        with the numbers as given here.
        """
        images, last = self.resized(images), len(self.blocks) - 1
        inner = {self.number(layer) for layer in token_layers} | {self.layer}
        facets = {self.number(layer) for layer in attention_layers}
        facets |= {self.layer} if self.facet != 'token' else set()
        kept: dict = {}

        def keep(key):
            return lambda _, __, out: kept.update({key: out})

        handles = [self.blocks[layer].register_forward_hook(keep(('token', layer)))
                   for layer in inner - {last}]
        handles += [self.attention_of(layer).qkv.register_forward_hook(keep(('qkv', layer)))
                    for layer in facets]
        try:
            whole = self.features(images)
        finally:
            for handle in handles:
                handle.remove()
        if any(('qkv', layer) not in kept for layer in facets):  # BEiT of timm
            raise ValueError(self.no_heads('biases that are not of its qkv layer'))
        found = {layer: whole if layer == last else self.normed(kept['token', layer])
                 for layer in inner}
        own = found[self.layer] if self.facet == 'token' else self.facet_of(
            self.layer, kept['qkv', self.layer])
        cls_token = (whole if self.class_token == 'last' else own)[:, 0]
        return Seen(cls_token, own[:, self.num_prefix:],
                    {layer: found[self.number(layer)][:, self.num_prefix:]
                     for layer in token_layers},
                    {layer: self.class_attention(layer, kept['qkv', self.number(layer)])
                     for layer in attention_layers})

    def normed(self, tokens):
        """Tokens after the network's last norm."""
        norm = self.network.ln1 if hasattr(self.network, 'ln1') else self.network.norm
        return norm(tokens)

    def split(self, layer, qkv):
        """Queries, keys and values (B, H, N, D / H) of a layer from its ``qkv``, in float32."""
        attention = self.attention_of(layer)
        b, n, _ = qkv.shape
        q, k, v = qkv.float().view(b, n, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
        if hasattr(attention, 'q_norm'):  # the identity in most networks
            q, k = attention.q_norm(q), attention.k_norm(k)
        return q, k, v

    def facet_of(self, layer, qkv):
        """(B, N, D): queries, keys or values with the heads side by side."""
        return self.split(layer, qkv)[FACETS.index(self.facet) - 1].transpose(1, 2).flatten(2)

    def class_attention(self, layer, qkv):
        """(B, H, L) attention of the class token to the patches."""
        attention = self.attention_of(layer)
        # In float32: under autocast heads are often equal, and the argmax takes the first.
        q, k, _ = self.split(layer, qkv)
        with torch.autocast(q.device.type, enabled=False):
            logits = q[:, :, :1] @ k.transpose(-2, -1) * q.shape[-1] ** -.5
            if isinstance(attention, RelPosAttention):
                logits = logits + attention.bias()[:, :, :1]
        return logits.softmax(-1)[:, :, 0, self.num_prefix:]
