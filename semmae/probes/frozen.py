"""A frozen backbone and its probes, as a model; it turns images into tokens for the feature store.

B images, L = h x w patches, X prefix tokens, D channels.
"""
import hashlib

import torch
from mmengine.model import BaseModel

from ..models.outputs import grid_of
from ..registry import MODELS
from .features import Task


@MODELS.register_module()
class FrozenProbe(BaseModel):
    """Encodes images with a frozen ``backbone``; ``probes`` are fitted on the stored tokens.

    backbone: any with the contract of `models.outputs`, best with ``out_type='raw'``; or one that
        returns maps (B, D, h, w), whose "class" token does not exist.
    probes: {task of the result: config of a `probe.Probe`, or None}. A config may also have
        ``fraction``, the share of the training labels that is used (`probe.low_shot`).
    task: arguments of `features.Task`.
    layers, patch_layers: whose class and mean tokens, and whose patch tokens are stored, as
        positions in the tuple that the backbone returns: -1 is the last. Every number needs room:
        1,000 images with 256 patches of 384 channels take 200 MB a layer.
    """

    def __init__(self, backbone, probes, task, layers=(-1,), patch_layers=(),
                 data_preprocessor=None):
        super().__init__(data_preprocessor)
        self.backbone = MODELS.build(backbone)
        self.backbone.requires_grad_(False)
        self.task = Task(**task)
        self.probes = {name: MODELS.build({k: v for k, v in probe.items() if k != 'fraction'})
                       for name, probe in probes.items() if probe}
        self.fractions = {name: probe.get('fraction') for name, probe in probes.items() if probe}
        if self.task.kind != 'classification' and any(self.fractions.values()):
            raise ValueError('model.probes: fraction is for classification, whose classes it keeps '
                             f'in proportion; got it in a probe of {self.task.kind}')
        self.layers, self.patch_layers = tuple(layers), tuple(patch_layers)
        self.chosen = None

    def forward(self, inputs, data_samples=None, mode='tensor'):
        """Images -> the tuple of features of the backbone; it has no loss and no prediction."""
        return self.backbone(inputs)

    @torch.no_grad()
    def encode(self, images):
        """(tokens {(layer, kind): (B, D) or (B, L, D)} on the CPU, grid (h, w)) of images."""
        outs = self.backbone(images)
        numbers = list(getattr(self.backbone, 'out_indices', None) or range(len(outs)))
        if len(numbers) != len(outs):
            numbers = list(range(len(outs)))
        found: dict[tuple[int, str], torch.Tensor] = {}
        grid: tuple[int, ...] = ()
        for position in sorted({*self.layers, *self.patch_layers}, key=lambda i: i % len(outs)):
            if not -len(outs) <= position < len(outs):
                raise ValueError(f'model.layers: got {position}, the backbone returns {len(outs)} '
                                 'layers. Set model.layers to some of these, or out_indices of the '
                                 'backbone (patches of WrappedBackbone) to more layers')
            prefix, patches, grid = self.parts(outs[position], images)
            layer = numbers[position]
            if position in self.layers:
                if prefix is not None:
                    found[layer, 'class'] = prefix
                found[layer, 'mean'] = patches.mean(1)
            if position in self.patch_layers:
                found[layer, 'patches'] = patches
        return {key: value.float().cpu().numpy() for key, value in found.items()}, grid

    def parts(self, out, images):
        """(class token (B, D) or None, patch tokens (B, L, D), grid) of a layer's features."""
        backbone = self.backbone
        if out.ndim == 4:
            return None, out.flatten(2).transpose(1, 2), tuple(out.shape[-2:])
        if out.ndim != 3:
            raise ValueError(f'{type(backbone).__name__}: got features of shape '
                             f"{tuple(out.shape)}, expected out_type='raw' or 'featmap'")
        num_prefix = getattr(backbone, 'num_prefix', 0)
        patches, size = out[:, num_prefix:], getattr(backbone, 'patch_size', None)
        grid = getattr(backbone, 'grid', None) or (
            tuple(-(-side // size) for side in images.shape[-2:]) if isinstance(size, int)
            else grid_of(patches.shape[1], images))
        if grid[0] * grid[1] != patches.shape[1]:
            raise ValueError(f'{type(backbone).__name__}: got {patches.shape[1]} patch tokens, '
                             f'expected {grid[0]}x{grid[1]}; num_prefix is {num_prefix}')
        has_class_token = num_prefix and getattr(backbone, 'has_class_token', True)
        return out[:, 0] if has_class_token else None, patches, grid

    def weights_sha256(self):
        """Identifies the weights of the backbone, also random ones."""
        digest = hashlib.sha256()
        for name, value in sorted(self.backbone.state_dict().items()):
            digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()
