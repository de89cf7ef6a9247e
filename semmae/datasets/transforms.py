"""Transforms that keep an image and its part map together.

Images are (H, W, 3) uint8 BGR arrays as mmcv loads them, part maps (grid, grid) arrays.
"""
from pathlib import Path

import numpy as np
import torch
from mmcv.transforms import BaseTransform

from ..registry import TRANSFORMS
from .part_store import PartStore

MAPS = ('part_ids', 'foreground')


def view_of(pipeline) -> list:
    """What part of an image a pipeline shows, independent of resolution, for part stores.

    Raises ValueError for a step that would move the image away from its part map.
    """
    view, scale = [], None
    for step in pipeline:
        kind = str(step['type']).split('.')[-1]
        if kind == 'ResizeEdge':
            scale = step['scale']
            view.append(f'{step.get("edge", "short")} side resized')
        elif kind == 'CenterCrop' and scale:
            view.append(f'centre crop of {step["crop_size"] / scale:.3f}')
        elif kind not in ('LoadImageFromFile', 'FlipWithParts', 'PackImage'):
            raise ValueError(
                f'{kind} would move images away from their part maps. With a part store, the steps '
                'may be LoadImageFromFile, mmpretrain.ResizeEdge, mmpretrain.CenterCrop, '
                'semmae.FlipWithParts and semmae.PackImage, in this order')
    return view


@TRANSFORMS.register_module()
class FlipWithParts(BaseTransform):
    """Mirror image and part map together, with probability ``prob`` (paper, Sec. 4.1)."""

    def __init__(self, prob=0.5):
        self.prob = prob

    def transform(self, results):
        results['flip'] = bool(np.random.rand() < self.prob)
        if results['flip']:
            for key in ('img', *MAPS):
                if key in results:
                    results[key] = np.ascontiguousarray(results[key][:, ::-1])
        return results


@TRANSFORMS.register_module()
class LoadParts(BaseTransform):
    """Look an image up in a part store, for data sets of other libraries (8x8 linear probing).

    store: the part store; root: the folder that its relative paths start from.
    view: what the steps before this one show (`view_of`); a store of another view is refused.
    """

    def __init__(self, store, root, grid=None,
                 view=('short side resized', 'centre crop of 1.000')):
        self.root = Path(root)
        self.store = PartStore(store)
        self.store.require(grid=grid, view=list(view))
        self.index = {name: i for i, name in enumerate(self.store.images())}

    def transform(self, results):
        path = Path(results['img_path'])
        name = path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else None
        if name not in self.index:
            raise ValueError(f'{path} is not among the {len(self.store)} images of the part store '
                             f'{self.store.root}, which start at {self.root}. '
                             f'{self.store.command()}')
        for key, value in zip(MAPS, self.store[self.index[name]]):
            results[key] = value.reshape(self.store.grid, self.store.grid)
        return results


@TRANSFORMS.register_module()
class FlattenParts(BaseTransform):
    """Part maps (grid, grid) -> (L,), the order of the patches of a ViT."""

    def transform(self, results):
        for key in MAPS:
            if key in results:
                results[key] = results[key].reshape(-1)
        return results


@TRANSFORMS.register_module()
class PackImage(BaseTransform):
    """What a pre-training model takes: inputs (3, H, W) uint8 RGB, parts, and mask noise.

    num_noise: uniform numbers for the mask of this sample, L + P (`semmae.models.masking`).
    """

    def __init__(self, num_noise=0):
        self.num_noise = num_noise

    def transform(self, results):
        image = np.ascontiguousarray(results['img'][..., ::-1].transpose(2, 0, 1))
        packed = dict(inputs=torch.from_numpy(image), sample_idx=results['sample_idx'])
        for key in MAPS:
            if key in results:
                packed[key] = torch.from_numpy(np.ascontiguousarray(results[key])).flatten()
        if self.num_noise:
            packed['noise'] = torch.rand(self.num_noise)
        return packed
