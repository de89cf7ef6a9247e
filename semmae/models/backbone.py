"""One ViT for pre-training, mmpretrain and mmseg.

B images, L patches, V visible (kept) patches, D channels.
Its tensors have the names of mmpretrain's ``VisionTransformer``, so mmpretrain loads every
checkpoint of ours. It adds three things: it embeds only chosen patches, it loads weights strictly,
and it can have a relative position bias (BEiT; zero-initialised in MAE's segmentation protocol).
"""
import torch
import torch.nn.functional as F
from mmpretrain.models.backbones import VisionTransformer
from torch import nn

from ..checkpoints.load import load_backbone, resize_position_embedding
from ..functional.patches import gather_positions, patches_at, sincos_position_embedding
from ..registry import MODELS
from .layers import Attention, Layer


@MODELS.register_module()
class ViT(VisionTransformer):
    """mmpretrain's ViT that can embed some patches only. Arguments besides mmpretrain's:

    is_pos_embed_fixed: the sine-cosine position embedding is not trained (MAE pre-training).
    rel_pos_bias: each layer adds a learned bias by relative position (BEiT; MAE's ADE20K
        protocol). It starts at zero, so the network starts as the pre-trained one. The input size
        is then fixed to ``img_size``. BEiT's own network also has mmpretrain's
        ``layer_scale_init_value`` above 0 and ``is_pos_embed_fixed`` with positions of zero.
    is_frozen: no parameter is trained (linear probing).
    interpolate_offset: in patches, for images of another size than ``img_size`` and checkpoints of
        another grid (`checkpoints.load.resize_position_embedding`). 0: as MAE and mmpretrain. 0.1:
        as DINO and iBOT, which need it at other sizes.
    init_cfg: ``dict(type='Pretrained', checkpoint=FILE)`` loads FILE strictly
        (`checkpoints.load.load_backbone`) or raises; the report is in ``load_report``.
        ``checkpoint_key`` in it chooses among the state dicts of FILE.
    pretrained: FILE, as mmseg's configs name it (``model.pretrained``); the same as ``init_cfg``.

    Raises ValueError for options that exclude each other, or that MAE's ViT does not have.
    """

    num_prefix, has_class_token = 1, True  # the contract of `outputs`

    def __init__(self, *args, is_pos_embed_fixed=False, rel_pos_bias=False, is_frozen=False,
                 interpolate_offset=0., pretrained=None, **kwargs):
        if pretrained:
            kwargs['init_cfg'] = with_pretrained(kwargs.get('init_cfg'), pretrained)
        if isinstance(kwargs.get('out_indices'), tuple):
            kwargs['out_indices'] = list(kwargs['out_indices'])  # mmpretrain changes it in place
        super().__init__(*args, **kwargs)
        if not 0 <= interpolate_offset < 1:
            raise ValueError(f'interpolate_offset={interpolate_offset}: expected 0 (MAE) or a '
                             'fraction of a patch, 0.1 for DINO and iBOT')
        self.interpolate_offset = interpolate_offset
        if not self.with_cls_token or not isinstance(self.pre_norm, nn.Identity):
            raise ValueError('semmae.ViT has a class token and no pre_norm, as MAE; got '
                             f'with_cls_token={self.with_cls_token}, pre_norm={self.pre_norm}')
        self.patch_size = self.patch_embed.projection.kernel_size[0]
        self.pos_embed.requires_grad = not is_pos_embed_fixed
        self.load_report, self.has_relative_positions = None, rel_pos_bias
        for i, layer in enumerate(self.layers):
            self.layers[i] = Layer(layer)
            if rel_pos_bias:
                self.layers[i].attn = RelPosAttention(layer.attn, self.patch_resolution)
        if is_frozen:
            self.requires_grad_(False)

    def init_weights(self):
        """MAE's initialisation, then the checkpoint of ``init_cfg``, if there is one.

        Raises ValueError for another ``init_cfg``, and the errors of `load_backbone`.
        """
        mae_init(self)
        nn.init.normal_(self.cls_token, std=.02)
        self.pos_embed.data.copy_(
            sincos_position_embedding(self.embed_dims, self.patch_resolution))
        w = self.patch_embed.projection.weight.data
        nn.init.xavier_uniform_(w.view(w.shape[0], -1))
        if self.init_cfg:
            if self.init_cfg.get('type') != 'Pretrained' or not self.init_cfg.get('checkpoint'):
                raise ValueError(
                    f"init_cfg of the ViT: got {self.init_cfg}, expected dict(type='Pretrained', "
                    "checkpoint=FILE), or None to train from scratch. From the command line: "
                    '--cfg-options model.backbone.init_cfg.checkpoint=FILE')
            self.load_report = load_backbone(
                self, self.init_cfg['checkpoint'],
                checkpoint_key=self.init_cfg.get('checkpoint_key'))
        self.is_init = True

    def train(self, mode=True):
        super().train(mode)
        return self  # mmpretrain's returns None

    def tokens(self, images, ids_keep=None):
        """(tokens (B, 1 + V, D) for the first layer, class token first; grid (h, w) of the images).

        images: (B, 3, H, W). ids_keep: (B, V) positions of the patches to embed; None: all L.
        Raises ValueError for ``ids_keep`` with relative positions.
        """
        if ids_keep is not None and self.has_relative_positions:
            raise ValueError('rel_pos_bias=True needs all patches in order, got ids_keep. Expected '
                             'rel_pos_bias=False for a backbone that sees some of the patches')
        if ids_keep is None:
            x, hw = self.patch_embed(images)
        else:
            hw = images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size
            conv = self.patch_embed.projection
            pixels = patches_at(images, self.patch_size, ids_keep)
            # The convolution over one patch is a linear map; channels are last in a patch.
            x = F.linear(pixels, conv.weight.permute(0, 2, 3, 1).flatten(1), conv.bias)
        pos = resize_position_embedding(self.pos_embed, self.patch_resolution, hw,
                                        offset=self.interpolate_offset, mode=self.interpolate_mode)
        cls_token = (self.cls_token + pos[:, :1]).expand(len(x), -1, -1)
        pos = pos[:, 1:]
        if ids_keep is not None:
            pos = gather_positions(pos, ids_keep)
        return self.drop_after_pos(torch.cat([cls_token, x + pos], 1)), hw

    def forward(self, images, ids_keep=None):
        """(B, 3, H, W) -> a tuple of features, one for each of ``out_indices``, as in mmpretrain.

        ids_keep: (B, V) positions of the patches to use; ValueError for out_type 'featmap'.
        """
        if ids_keep is not None and self.out_type == 'featmap':
            raise ValueError("out_type='featmap' needs all patches, got ids_keep")
        grid = None
        if self.has_relative_positions and self.out_type == 'featmap':
            images, grid = self.filled_up(images)
        outs = self.encode(*self.tokens(images, ids_keep))
        return outs if grid is None else tuple(
            out[..., :grid[0], :grid[1]].contiguous() for out in outs)

    def filled_up(self, images):
        """(images padded with zeros at the right and bottom to ``img_size``, their grid before).

        mmseg's preprocessor pads photos smaller than the crop in the same way in training, and
        relative positions are made for that size. The grid is None if nothing is padded.
        """
        size, (height, width) = self.img_size, images.shape[-2:]
        missing = [max(0, side - found) for side, found in zip(size, (height, width))]
        if not any(missing):
            return images, None
        grid = [-(-side // self.patch_size) for side in (height, width)]
        return F.pad(images, (0, missing[1], 0, missing[0])), grid

    def encode(self, x, hw):
        """A tuple of features of tokens (B, 1 + V, D); hw: the grid of all patches."""
        if self.has_relative_positions:
            self.require_grid(hw)
        outs = []
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i == len(self.layers) - 1 and self.final_norm:
                x = self.ln1(x)
            if i in self.out_indices:
                outs.append(self._format_output(x, hw))
        return tuple(outs)

    def require_grid(self, hw):
        """Raise ValueError for a grid other than that of the relative positions.

        The number of patches is not enough: 4x16 patches are as many as 8x8.
        """
        own = tuple(self.patch_resolution)
        if tuple(hw) == own:
            return
        is_larger = any(found > side for found, side in zip(hw, own))
        expected = ("windows of that size: model.test_cfg=dict(mode='slide', crop_size=img_size, "
                    'stride=...)' if is_larger else
                    f"images of {self.img_size[0]}x{self.img_size[1]} pixels, or "
                    "out_type='featmap', which pads smaller ones")
        raise ValueError(
            f'relative position bias is made for a grid of {own[0]}x{own[1]} patches, got '
            f'{hw[0]}x{hw[1]}: the image is {"larger" if is_larger else "smaller"} than img_size '
            f'of the backbone. Expected {expected}')


def with_pretrained(init_cfg, file):
    """The ``init_cfg`` that loads ``file``; ValueError if ``init_cfg`` names something else."""
    plain = dict(type='Pretrained', checkpoint=file)
    if not init_cfg:
        return plain
    if not isinstance(init_cfg, dict) or init_cfg.get('type', 'Pretrained') != 'Pretrained' or (
            init_cfg.get('checkpoint') or file) != file:
        raise ValueError(f'the ViT got two checkpoints or initialisations, pretrained={file} and '
                         f'init_cfg={init_cfg}; expected one of them')
    return dict(init_cfg, **plain)


class RelPosAttention(Attention):
    """`Attention` plus a zero-initialised relative position bias (BEiT, Sec. 2.2).

    window: (h, w) patches, to which the bias belongs.
    """

    def __init__(self, attn, window):
        super().__init__(attn)
        # Keep this draw: the initial weights of later modules depend on it.
        self.qkv.reset_parameters()
        self.proj.reset_parameters()
        h, w = window
        # 3 more entries: class to patch, patch to class, class to class.
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros((2 * h - 1) * (2 * w - 1) + 3, self.num_heads))
        self.register_buffer('relative_position_index', relative_positions(h, w), persistent=False)

    def bias(self):
        """(1, heads, 1 + L, 1 + L), added to the logits of attention."""
        return self.relative_position_bias_table[self.relative_position_index].permute(
            2, 0, 1).unsqueeze(0)


def relative_positions(h, w):
    """(1 + h*w, 1 + h*w) int64: row of each pair in a table of (2h-1)(2w-1) + 3 biases."""
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing='ij')
    y, x = y.flatten(), x.flatten()
    index = torch.zeros(1 + h * w, 1 + h * w, dtype=torch.long)
    index[1:, 1:] = (y[:, None] - y + h - 1) * (2 * w - 1) + (x[:, None] - x + w - 1)
    last = (2 * h - 1) * (2 * w - 1)
    index[0, 1:], index[1:, 0], index[0, 0] = last, last + 1, last + 2
    return index


def mae_init(module):
    """MAE's initialisation: Xavier-uniform linear layers, biases 0, layer norms 1 and 0."""
    for m in module.modules():
        if isinstance(m, nn.Linear):
            nn.init.xavier_uniform_(m.weight)
            if m.bias is not None:
                nn.init.zeros_(m.bias)
        elif isinstance(m, nn.LayerNorm):
            nn.init.ones_(m.weight)
            nn.init.zeros_(m.bias)
