"""Masked pre-training: strategy + encoder + decoder + loss.

B images, L patches of the grid, K candidates for masking (all L, or the most foreground ones),
V visible, M masked, P parts. A mask is 1 where a patch is removed.
"""
import torch
from mmengine.model import BaseDataPreprocessor, BaseModel

from ..functional.losses import masked_patch_loss
from ..functional.masking import split_ids
from ..functional.parts import foreground_ids
from ..functional.patches import gather_positions, normalize_patches, patchify
from ..registry import MODELS


@MODELS.register_module()
class ImagePreprocessor(BaseDataPreprocessor):
    """The one place where pre-training and part learning normalise: uint8 -> (x - mean) / std."""

    def __init__(self, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375), **kwargs):
        super().__init__(**kwargs)
        self.register_buffer('mean', torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, data, training=False):
        data = dict(self.cast_data(data))
        data['inputs'] = (data['inputs'].float() - self.mean) / self.std
        return data


@MODELS.register_module()
class SemMAE(BaseModel):
    """MAE with any masking strategy (Sec. 3.2); with `RandomMasking` over all patches it is MAE.

    num_candidates: masks are drawn among this many patches, those with the highest foreground
        score; the rest is dropped (Sec. 4.2: 196 of 784 at 8x8). None: among all.
    online_parts: config of a module that gives (part_ids, foreground) of the images, where the
        data set has no part store (`models.part_sources.OnlineParts`).
    norm_pix_loss: targets are normalised within each patch (official code; MAE).
    """

    def __init__(self, backbone, decoder, masking, num_candidates=None, norm_pix_loss=True,
                 online_parts=None, data_preprocessor=None, init_cfg=None):
        super().__init__(data_preprocessor or dict(type='semmae.ImagePreprocessor'), init_cfg)
        self.backbone = MODELS.build(dict(backbone, out_type='raw'))
        self.decoder = MODELS.build(decoder)
        self.masking = MODELS.build(masking)
        self.num_candidates = num_candidates
        self.norm_pix_loss = norm_pix_loss
        self.progress = 0.  # share of the pre-training that is done; set by ProgressHook
        if self.decoder.grid != self.backbone.patch_resolution:
            raise ValueError(f'decoder.grid is {self.decoder.grid}, but the encoder divides '
                             f'img_size by patch_size into {self.backbone.patch_resolution}')
        length = self.decoder.grid[0] * self.decoder.grid[1]
        self.online_parts = online_parts and MODELS.build(online_parts)
        if online_parts:
            found = self.online_parts.grid ** 2, self.online_parts.num_parts
            wanted = length, getattr(self.masking, 'num_parts', found[1])
            if found != wanted:
                raise ValueError(f'online_parts gives (patches, parts) {found}, the masks are made '
                                 f'of {wanted}; set grid and num_parts of online_parts.learner')
        if num_candidates is not None and not 0 < num_candidates <= length:
            raise ValueError(f'num_candidates is {num_candidates}, expected 1 to {length} patches')

    def positions(self, batch, part_ids=None, foreground=None, noise=None):
        """(ids_keep (B, V), ids_mask (B, M)): grid positions that stay and that are to predict.

        part_ids: (B, L) int. foreground: (B, L) scores. noise: (B, L + P), see `models.masking`.
        """
        length = candidates = self.decoder.grid[0] * self.decoder.grid[1]
        if self.masking.needs_parts and part_ids is None:
            raise ValueError(
                f'{type(self.masking).__name__} needs part ids, the batch has none: set part_store '
                'of the data set to a store made by tools/extract_parts.py, or model.online_parts')
        ids = None
        if self.num_candidates is not None:
            if foreground is None:
                raise ValueError('num_candidates needs foreground scores, the batch has none: set '
                                 'part_store of the data set (tools/extract_parts.py)')
            candidates = self.num_candidates
            ids = foreground_ids(foreground, candidates)
        if part_ids is not None:
            part_ids = part_ids.long()
            part_ids = part_ids if ids is None else gather_positions(part_ids, ids)
        if noise is None:
            noise = torch.rand(batch, length + getattr(self.masking, 'num_parts', 0),
                               device=self.decoder.mask_token.device)
        # One number for each candidate, then one for each part.
        noise = torch.cat([noise[:, :candidates], noise[:, length:]], 1)
        mask = self.masking(batch, candidates, part_ids, self.progress, noise)
        num_keep = int(candidates * (1 - self.masking.mask_ratio))
        ids_keep, ids_mask = split_ids(mask, num_keep)
        if ids is not None:
            ids_keep, ids_mask = gather_positions(ids, ids_keep), gather_positions(ids, ids_mask)
        return ids_keep, ids_mask

    def predict(self, images, ids_keep, ids_mask):
        """(B, M, patch_size**2 * 3): predicted (by default normalised) pixels."""
        return self.decoder(self.backbone(images, ids_keep)[-1], ids_keep, ids_mask)

    def forward(self, inputs, part_ids=None, foreground=None, noise=None, mode='tensor', **_):
        """mode 'loss': dict(loss=...); mode 'tensor': all tokens (B, 1 + L, D), nothing masked."""
        if mode != 'loss':
            return self.backbone(inputs)[-1]
        if self.online_parts:
            if part_ids is not None:
                raise ValueError('parts come from a part store and from online_parts, expected one '
                                 'of them; set part_store=None of the data set')
            part_ids, foreground = self.online_parts(inputs)
        ids_keep, ids_mask = self.positions(len(inputs), part_ids, foreground, noise)
        target = gather_positions(patchify(inputs, self.backbone.patch_size), ids_mask)
        if self.norm_pix_loss:
            target = normalize_patches(target)
        losses = dict(loss=masked_patch_loss(self.predict(inputs, ids_keep, ids_mask), target))
        if hasattr(self.masking, 'alpha'):
            losses['alpha'] = inputs.new_tensor(self.masking.alpha(self.progress))
        return losses
