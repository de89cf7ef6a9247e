"""A linear layer on patch features: the dense probe of DINOv3, as a head of mmseg.

B images, D channels, C classes, H W patch grid.
"""
from mmcv.cnn import build_norm_layer
from mmseg.models.decode_heads.decode_head import BaseDecodeHead

from ..registry import MODELS


@MODELS.register_module()
class LinearSegHead(BaseDecodeHead):
    """Dropout, batch norm, 1x1 convolution at patch resolution (DINOv3, linear segmentation).

    mmseg's FCNHead without convolutions has no norm. The base class resizes the logits to the label
    map, bilinearly. norm_cfg: as in mmseg.
    """

    def __init__(self, in_channels, norm_cfg, **kwargs):
        super().__init__(in_channels=in_channels, channels=in_channels, norm_cfg=norm_cfg, **kwargs)
        self.norm = build_norm_layer(norm_cfg, in_channels)[1]

    def forward(self, inputs):
        """Logits (B, C, H, W) of the feature map (B, D, H, W) that ``in_index`` chooses."""
        x = self._transform_inputs(inputs)
        if self.dropout is not None:
            x = self.dropout(x)
        return self.conv_seg(self.norm(x))
