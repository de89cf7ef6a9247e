"""The frozen ViT of part learning: image -> class token and patch tokens (Sec. 3.1).

B images, L = grid x grid patches, D channels, H heads.
"""
import torch
import torch.nn.functional as F
from mmengine.model import BaseModule

from ..checkpoints.load import load_backbone
from ..checkpoints.timm_models import load_timm
from ..registry import MODELS
from .backbone import RelPosAttention
from .timm_vit import timm_vit


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

    Raises ValueError for a network without a class token.
    """

    def __init__(self, backbone, grid, checkpoint=None, checkpoint_key=None):
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
        self.grid, self.checkpoint, self.checkpoint_key = grid, checkpoint, checkpoint_key
        self.requires_grad_(False)
        self.eval()

    @property
    def network(self):
        """timm's module, or the ViT of this package."""
        return getattr(self.backbone, 'vit', self.backbone)

    @property
    def num_heads(self):
        return self.last_attention.num_heads

    @property
    def last_attention(self):
        """The attention of the last layer; ValueError if its heads cannot be computed from qkv."""
        layers = getattr(self.network, 'blocks', None) or self.network.layers
        attention = layers[-1].attn
        if getattr(self.network, 'rope', None) is not None or not hasattr(attention, 'qkv'):
            raise ValueError(
                f'part encoder: the heads of {type(self.network).__name__} are not available: its '
                'attention has rotary positions or separate queries and keys. Expected another '
                'source of parts, or a ViT as vit_small_patch14_dinov2')
        return attention

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

    @torch.no_grad()
    def forward(self, images, return_heads=False):
        """(B, 3, H, W) normalised -> class token (B, D), patch tokens (B, L, D).

        return_heads: also the attention of the class token to the patches in the last layer,
        (B, heads, L) (Table 4, "iBOT-initialized" parts). Its sum is below 1, because the class
        token also attends to itself.
        """
        size = self.grid * self.patch_size
        if images.shape[-2:] != (size, size):
            images = F.interpolate(images, (size, size), mode='bicubic', antialias=True)
        if not return_heads:
            tokens = self.features(images)
            return tokens[:, 0], tokens[:, self.num_prefix:]
        kept: dict[str, torch.Tensor] = {}
        attention = self.last_attention
        hook = attention.qkv.register_forward_hook(lambda _, __, out: kept.update(qkv=out))
        try:
            tokens = self.features(images)
        finally:
            hook.remove()
        b, n, _ = kept['qkv'].shape
        # In float32: under autocast heads are often equal, and the argmax takes the first.
        q, k, _ = kept['qkv'].float().view(b, n, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
        if hasattr(attention, 'q_norm'):  # the identity in most networks
            q, k = attention.q_norm(q), attention.k_norm(k)
        with torch.autocast(q.device.type, enabled=False):
            logits = q[:, :, :1] @ k.transpose(-2, -1) * q.shape[-1] ** -.5
            if isinstance(attention, RelPosAttention):
                logits = logits + attention.bias()[:, :, :1]
        heads = logits.softmax(-1)[:, :, 0, self.num_prefix:]
        return tokens[:, 0], tokens[:, self.num_prefix:], heads
