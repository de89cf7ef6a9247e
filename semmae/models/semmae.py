"""Masked pre-training: masking strategy, encoder, decoder and loss (Sec. 3.2).

B images, L patches of the grid, K candidates for masking (all L, or the most foreground ones),
V visible, M masked, P parts. A mask is 1 where a patch is removed.
"""
from dataclasses import replace

import torch
from mmengine.model import BaseDataPreprocessor, BaseModel

from ..functional.losses import masked_patch_loss
from ..functional.masking import split_ids
from ..functional.parts import foreground_ids
from ..functional.patches import gather_positions, normalize_patches, patches_at
from ..registry import MODELS
from .masking import Candidates


@MODELS.register_module()
class ImagePreprocessor(BaseDataPreprocessor):
    """Normalises ``inputs`` (B, 3, H, W) uint8 RGB: (x - mean) / std, in units of 0 to 255.

    The only place where pre-training and part learning normalise.
    """

    def __init__(self, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)):
        super().__init__(non_blocking=True)
        self.register_buffer('mean', torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, data, training=False):
        data = dict(self.cast_data(data))
        data['inputs'] = (data['inputs'] - self.mean).div_(self.std)
        return data


@MODELS.register_module()
class SemMAE(BaseModel):
    """MAE with any masking strategy; with `RandomMasking` over all patches it is MAE.

    num_candidates: masks are drawn among this many patches, those with the highest foreground
        score; the others are dropped (Sec. 4.2: 196 of 784 at 8x8). None: among all.
    norm_pix_loss: targets are normalised within each patch (MAE; official code).
    online_parts: config of a module that gives (part_ids, foreground) of the images, for a data set
        without a part store (`models.part_sources.OnlineParts`).

    Raises ValueError where sizes of decoder, encoder, parts or candidates do not agree.
    """

    def __init__(self, backbone, decoder, masking, num_candidates=None, norm_pix_loss=True,
                 online_parts=None, data_preprocessor=None):
        super().__init__(data_preprocessor or dict(type='semmae.ImagePreprocessor'))
        self.backbone = MODELS.build(dict(backbone, out_type='raw'))
        self.decoder = MODELS.build(decoder)
        self.masking = MODELS.build(masking)
        self.num_candidates = num_candidates
        self.norm_pix_loss = norm_pix_loss
        self.progress = 0.  # completed share of the pre-training; set by ProgressHook
        self.last_masks = None  # (Candidates, mask) of the last step, for monitors
        self.is_mask_size_checked = False
        if self.decoder.grid != self.backbone.patch_resolution:
            raise ValueError(f'decoder.grid is {self.decoder.grid}, but the encoder divides '
                             f'img_size by patch_size into {self.backbone.patch_resolution}')
        self.num_patches = self.decoder.grid[0] * self.decoder.grid[1]
        self.online_parts = online_parts and MODELS.build(online_parts)
        if online_parts:
            found = self.online_parts.grid ** 2, self.online_parts.num_parts
            wanted = self.num_patches, self.num_parts or found[1]
            if found != wanted:
                raise ValueError(f'online_parts gives (patches, parts) {found}, the masks need '
                                 f'{wanted}; set grid and num_parts of online_parts.learner')
        if num_candidates is not None and not 0 < num_candidates <= self.num_patches:
            raise ValueError(f'num_candidates is {num_candidates}, expected 1 to '
                             f'{self.num_patches} patches')

    @property
    def num_parts(self):
        """P of the masking strategy; 0 where it does not use parts."""
        return getattr(self.masking, 'num_parts', 0)

    def candidates(self, images, part_ids=None, foreground=None, noise=None):
        """The `Candidates` of a batch of images (B, 3, H, W).

        part_ids: (B, L) int. foreground: (B, L) scores.
        noise: (B, L + P) or wider, or None to draw it. A strategy without parts has P = 0.
        Raises ValueError if an input that the strategy needs is missing, and for other shapes.
        """
        batch, length = len(images), self.num_patches
        given = dict(part_ids=part_ids, scores=foreground)
        for need in self.masking.needs:
            if given[need] is None:
                raise ValueError(
                    f'{type(self.masking).__name__} needs {need}, missing in the batch: set '
                    'part_store of the data set to a store made by tools/extract_parts.py, or '
                    'model.online_parts')
        for name, value in given.items():
            if value is not None and value.shape != (batch, length):
                raise ValueError(
                    f'{name} have shape {tuple(value.shape)}, expected {(batch, length)}: the part '
                    'store, or the crop that resamples it, has another grid than the model')
        if noise is None:
            noise = torch.rand(batch, length + self.num_parts, device=images.device)
        if self.num_candidates is None:
            ids = torch.arange(length, device=images.device).expand(batch, -1)
        else:
            if foreground is None:
                raise ValueError('num_candidates needs foreground scores, got none: set '
                                 'part_store of the data set (tools/extract_parts.py)')
            ids = foreground_ids(foreground, self.num_candidates)
            given = {k: v if v is None else gather_positions(v, ids) for k, v in given.items()}
        noise = torch.cat([noise[:, :ids.shape[1]], noise[:, length:length + self.num_parts]], 1)
        if part_ids is not None:
            given['part_ids'] = given['part_ids'].long()
        return Candidates(images=images, grid=self.decoder.grid, ids=ids, noise=noise,
                          progress=self.progress, **given)

    def split(self, candidates, mask):
        """(ids_keep (B, V), ids_mask (B, M)): grid positions that stay and that are predicted.

        mask: (B, K) of the candidates. Raises ValueError for another shape or number of masked
        patches. A GPU counts them in the first step only, since reading them waits for the device.
        """
        length = candidates.ids.shape[1]
        num_keep = int(length * (1 - self.masking.mask_ratio))
        if mask.shape != candidates.ids.shape or mask.dtype != torch.bool:
            raise ValueError(f'{type(self.masking).__name__} gave a {mask.dtype} mask of shape '
                             f'{tuple(mask.shape)}, expected torch.bool and '
                             f'{tuple(candidates.ids.shape)}')
        if mask.device.type == 'cpu' or not self.is_mask_size_checked:
            masked = mask.sum(1)
            if (masked != length - num_keep).any():
                raise ValueError(
                    f'{type(self.masking).__name__} masks {masked.min()} to {masked.max()} of '
                    f'{length} patches of an image, expected {length - num_keep}: '
                    'L - int(L * (1 - mask_ratio)) in each')
        self.is_mask_size_checked = True
        ids_keep, ids_mask = split_ids(mask, num_keep)
        if self.num_candidates is None:
            return ids_keep, ids_mask
        return (gather_positions(candidates.ids, ids_keep),
                gather_positions(candidates.ids, ids_mask))

    def predict(self, images, ids_keep, ids_mask):
        """(B, M, patch_size**2 * 3): predicted pixels, normalised with ``norm_pix_loss``."""
        return self.decoder(self.backbone(images, ids_keep)[-1], ids_keep, ids_mask)

    def pixel_loss(self, images, ids_keep, ids_mask):
        """(loss 0-d, predicted (B, M, D), target (B, M, D)), D = patch_size**2 * 3.

        This part of a step has the same shapes for any mask: one graph with ``compile=True``.
        """
        target = patches_at(images, self.backbone.patch_size, ids_mask)
        if self.norm_pix_loss:
            target = normalize_patches(target)
        predicted = self.predict(images, ids_keep, ids_mask)
        return masked_patch_loss(predicted, target), predicted, target

    def forward(self, inputs, part_ids=None, foreground=None, noise=None, mode='tensor', **_):
        """mode 'loss': dict(loss=...); mode 'tensor': all tokens (B, 1 + L, D), without a mask.

        inputs: (B, 3, H, W) normalised; the others: see `candidates`.
        """
        if mode != 'loss':
            return self.backbone(inputs)[-1]
        if self.online_parts:
            if part_ids is not None:
                raise ValueError('parts come from a part store and from online_parts, expected one '
                                 'of them; set part_store=None of the data set')
            part_ids, foreground = self.online_parts(inputs)
        candidates = self.candidates(inputs, part_ids, foreground, noise)
        mask = self.masking(candidates)
        ids_keep, ids_mask = self.split(candidates, mask)
        loss, predicted, target = self.pixel_loss(inputs, ids_keep, ids_mask)
        losses = dict(loss=loss)
        if hasattr(self.masking, 'alpha'):
            losses['alpha'] = inputs.new_full((), self.masking.alpha(self.progress))
        if hasattr(self.masking, 'loss'):
            losses |= self.masking_losses(candidates, mask, predicted, target)
        self.last_masks = replace(candidates, images=None), mask  # images would fill the memory
        return losses

    def masking_losses(self, candidates, mask, predicted, target):
        """The loss terms ``loss_masking...`` of a strategy with parameters."""
        errors = (predicted.detach().float() - target.float()).pow(2).mean(-1)
        ids_mask = split_ids(mask, mask.shape[1] - errors.shape[1])[1]
        patch_losses = errors.new_zeros(mask.shape).scatter(1, ids_mask, errors)
        losses = self.masking.loss(candidates, mask, patch_losses)
        losses = losses if isinstance(losses, dict) else {'': losses}
        return {f'loss_masking{"_" * bool(k)}{k}': v for k, v in losses.items()}
