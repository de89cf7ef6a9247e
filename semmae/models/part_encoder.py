"""The frozen ViT of part learning: image -> class token and patch tokens (Sec. 3.1).

B images, L = grid x grid patches, D channels, H heads.
"""
import timm
import torch
import torch.nn.functional as F
from mmengine.model import BaseModule

from ..engine.checkpoint import OURS_TO_TIMM, load_backbone
from ..registry import MODELS


@MODELS.register_module()
class PartEncoder(BaseModule):
    """Any ViT as a frozen encoder; it never trains and never leaves evaluation mode.

    backbone: the name of a timm ViT ('vit_small_patch16_224'), or the config of a ``semmae.ViT``.
    checkpoint: its weights (iBOT, DINO, MAE, timm, ours), loaded strictly by `init_weights`.
        A model built without `init_weights` expects its weights in the checkpoint of the learner.
    grid: patches a side. Images are resized to ``grid * patch_size`` pixels, whatever they have,
        and the position embedding is interpolated (ours; the paper does not say how an encoder
        with 16x16 patches gives 28x28 parts).
    """

    def __init__(self, backbone, grid, checkpoint=None, init_cfg=None):
        super().__init__(init_cfg)
        if isinstance(backbone, str):
            self.backbone = timm.create_model(backbone, num_classes=0, dynamic_img_size=True)
            self.patch_size = self.backbone.patch_embed.patch_size[0]
            self.embed_dims = self.backbone.embed_dim
            self.num_prefix = self.backbone.num_prefix_tokens
            self.last_block, self.num_heads = self._last(self.backbone.blocks[-1])
        else:
            self.backbone = MODELS.build(dict(backbone, out_type='raw'))
            self.patch_size = self.backbone.patch_size
            self.embed_dims = self.backbone.embed_dims
            self.num_prefix = 1
            self.last_block, self.num_heads = self._last(self.backbone.layers[-1])
        self.grid, self.checkpoint = grid, checkpoint
        self.requires_grad_(False)
        self.eval()

    @staticmethod
    def _last(block):
        # In a tuple, so that the block is not registered (and saved) twice.
        return (block,), block.attn.num_heads

    def init_weights(self):
        if not self.checkpoint:
            raise ValueError(
                'the part encoder has no checkpoint: parts of an untrained network mean nothing. '
                'Set model.encoder.checkpoint to an iBOT, DINO, MAE or timm file, for example '
                '--cfg-options model.encoder.checkpoint=weights/ibot_vits_16.pth')
        names = () if hasattr(self.backbone, 'layers') else OURS_TO_TIMM
        self.load_report = load_backbone(self.backbone, self.checkpoint, names)
        self._is_init = True

    def train(self, mode=True):
        return super().train(False)

    @torch.no_grad()
    def forward(self, images, return_heads=False):
        """(B, 3, H, W) normalised -> class token (B, D), patch tokens (B, L, D).

        return_heads: also the last layer's attention of the class token to the patches,
        (B, heads, L), the parts that iBOT shows by itself (Table 4, "iBOT-initialized").
        """
        size = self.grid * self.patch_size
        if images.shape[-2:] != (size, size):
            images = F.interpolate(images, (size, size), mode='bicubic', align_corners=False)
        kept = {}
        hook = self.last_block[0].attn.qkv.register_forward_hook(
            lambda _, __, out: kept.update(qkv=out)) if return_heads else None
        try:
            tokens = self.backbone(images)[-1] if self.num_prefix == 1 and hasattr(
                self.backbone, 'layers') else self.backbone.forward_features(images)
        finally:
            if hook:
                hook.remove()
        out = tokens[:, 0], tokens[:, self.num_prefix:]
        if not return_heads:
            return out
        b, n, _ = kept['qkv'].shape
        q, k, _ = kept['qkv'].view(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        attention = (q[:, :, :1] @ k.transpose(-2, -1) * q.shape[-1] ** -.5).softmax(-1)
        return *out, attention[:, :, 0, self.num_prefix:]

