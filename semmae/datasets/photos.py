"""The images of a folder, for commands that read each of them once."""
import os
from pathlib import Path

import torch
from mmengine.dataset import Compose, default_collate
from torch.utils.data import DataLoader, Dataset

from .part_store import list_images


def images_of(images):
    """(root, names) of a folder of images (at any depth), of a file, or of a list of files.

    The names of a folder are relative paths, sorted; the root of files is ''.
    Raises FileNotFoundError for a missing file, and for a folder without images.
    """
    if isinstance(images, (str, Path)) and not Path(images).is_file():
        return images, list_images(images)
    names = [str(path) for path in ([images] if isinstance(images, (str, Path)) else images)]
    if missing := [name for name in names if not Path(name).is_file()]:
        raise FileNotFoundError(f'no image at {missing[0]}')
    if not names:
        raise ValueError('got an empty list of images, expected at least one')
    return '', names


def require_count(name, value, least=1):
    """ValueError unless an argument is a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f'{name} is {value!r}, expected a whole number of at least {least}')


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
