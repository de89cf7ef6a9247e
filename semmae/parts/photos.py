"""The images of a folder in the plain view of a config, without its random steps."""
import os
from pathlib import Path

import torch
from mmengine.dataset import Compose, default_collate
from torch.utils.data import DataLoader, Dataset

from ..datasets.geometry import Role, role_of, view_of


def without_random_steps(cfg):
    """The config's training pipeline without flips and crops, at their resolution.

    A crop is replaced by a resize to its output size; one that resamples part maps keeps its grid.
    Where crops are of the full photo, the view is its centre crop.
    """
    steps = []
    for step in cfg.train_dataloader.dataset.dataset.pipeline:
        role = role_of(step)
        if role is Role.READ_CROP:
            side = step['scale']
            steps.append(dict(type='semmae.LoadCenterCrop',
                              size=side if isinstance(side, int) else side[0]))
        elif role in (Role.PART_CROP, Role.PHOTO_CROP):
            steps = at_side(steps, step)
            if step.get('grid'):
                steps.append(dict(step, crop_ratio_range=(1., 1.), aspect_ratio_range=(1., 1.)))
        elif role is not Role.FLIP:
            steps.append(dict(step, flip_prob=0.) if role is Role.READ_VIEW else step)
    return steps


def at_side(steps, crop):
    """The steps before a random crop, with the same view at the crop's output size.

    Raises ValueError where rounding would change the view.
    """
    side, view = crop['scale'], view_of(steps)
    if not view:  # crops of the full photo
        how = {key: crop[key] for key in ('backend', 'interpolation') if key in crop}
        return [*steps, dict(type='mmpretrain.ResizeEdge', scale=side, edge='short', **how),
                dict(type='mmpretrain.CenterCrop', crop_size=side)]
    if any(role_of(s) is Role.READ_VIEW for s in steps):  # same view at any size
        return [dict(type='semmae.LoadCenterCrop', size=side) if role_of(s) is Role.READ_VIEW else s
                for s in steps]
    larger = next(s['crop_size'] for s in steps if role_of(s) is Role.CENTER_CROP)
    keys: dict = {Role.RESIZE: 'scale', Role.CENTER_CROP: 'crop_size'}
    steps = [dict(s, **{key: round(s[key] * side / larger)}) if (key := keys.get(role_of(s))) else s
             for s in steps]
    if view_of(steps) != view:
        raise ValueError(f'got a view of {larger} pixels ({", ".join(view)}), which is not the '
                         f'same at the {side} pixels of the crops. Choose ResizeEdge and '
                         f'CenterCrop as whole multiples of their values at {side}')
    return steps


class Photos(Dataset):
    """``photos[index, name]``: an image of ``root`` through a pipeline.

    An image that cannot be read gives a text with the file and the reason. An exception in a worker
    would be a traceback of the decoder without a file name.
    """

    def __init__(self, root, pipeline):
        self.root, self.transform = Path(root), Compose(pipeline)

    def __getitem__(self, key):
        index, name = key
        try:
            return self.transform(dict(img_path=str(self.root / name), sample_idx=index))
        except Exception as error:
            why = ' '.join(f'{type(error).__name__}: {error}'.split())  # on one line
            return f'{self.root / name} cannot be read: {why}'

    @staticmethod
    def collate(samples):
        return next((s for s in samples if isinstance(s, str)), None) or default_collate(samples)

    def loader(self, batches, num_workers):
        """Batches of samples for an iterable of lists of keys, which is iterated in this process.

        num_workers: processes that decode; None: none below 4 cores a process, else up to 8.
        """
        if num_workers is None:
            mine = getattr(os, 'sched_getaffinity', None)  # not on every system
            cores = len(mine(0)) if mine else os.cpu_count() or 1
            cores //= int(os.environ.get('LOCAL_WORLD_SIZE', 1))
            num_workers = min(8, cores) if cores >= 4 else 0
        return DataLoader(self, batch_sampler=batches, num_workers=num_workers,
                          collate_fn=self.collate, persistent_workers=num_workers > 0,
                          pin_memory=torch.cuda.is_available())
