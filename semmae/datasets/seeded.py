"""Every random number of a training sample is a function of (seed, epoch, image index).

The sampler yields (epoch, index) pairs, the wrapper seeds the generators from (seed, epoch, index)
before it reads a sample. So neither the number of workers, nor the ranks, nor a restart changes
what is drawn, and ``dataset[epoch, index]`` replays one sample by hand, mask noise included.
"""
import random
from itertools import count, islice

import numpy as np
import torch
from mmengine.dataset import DefaultSampler
from torch.utils.data import Dataset

from ..registry import DATA_SAMPLERS, DATASETS


def seed_everything(*key):
    """Seed python, numpy and torch on all devices from a tuple of non-negative integers."""
    torch.manual_seed(seed_cpu(*key))


def seed_cpu(*key) -> int:
    """The same without the other devices, for samples: those cost more to seed than to draw from.

    Returns the seed that torch got.
    """
    a, b, c = (int(x) for x in np.random.SeedSequence(key).generate_state(3))
    random.seed(a)
    np.random.seed(b)
    torch.default_generator.manual_seed(c)
    return c


@DATASETS.register_module()
class Seeded(Dataset):
    """A data set whose samples are asked for as ``self[epoch, index]``.

    min_length: a smaller data set is repeated within an epoch until it has this many samples, each
    repetition with random numbers of its own.
    """

    def __init__(self, dataset, seed=0, min_length=0):
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        self.seed, self.min_length = seed, min_length
        self.metainfo = getattr(self.dataset, 'metainfo', {})

    def full_init(self):
        self.dataset.full_init()

    def __len__(self):
        return len(self.dataset) * max(1, -(-self.min_length // len(self.dataset)))

    def __getitem__(self, key):
        epoch, index = key
        seed_cpu(self.seed, epoch, index)
        return self.dataset[index % len(self.dataset)]


@DATA_SAMPLERS.register_module()
class SeededSampler(DefaultSampler):
    """Yields (epoch, index) for a `Seeded` data set, whose seed it hands over.

    The k-th process of n gets every n-th sample from the k-th on, so that a global batch, in the
    order of processes within each row of n, does not depend on how many share it.

    is_infinite: for iteration-based loops; epochs follow each other without end, and none is
    filled up to a multiple of the processes.
    """

    def __init__(self, dataset, shuffle=True, seed=None, is_infinite=False, **kwargs):
        super().__init__(dataset, shuffle=shuffle, seed=seed, **kwargs)
        if not isinstance(dataset, Seeded):
            raise ValueError(f'SeededSampler needs a semmae.Seeded data set, found '
                             f"{type(dataset).__name__}; wrap it: dict(type='semmae.Seeded', "
                             'dataset=dict(...))')
        dataset.seed = self.seed
        self.is_infinite, self.start = is_infinite, 0

    def __iter__(self):
        start, self.start = self.start, 0
        if self.is_infinite:
            return self._endless(self.rank + start * self.world_size)
        epoch = self.epoch
        return ((epoch, i) for i in islice(super().__iter__(), start, None))

    def _endless(self, position):
        """Every ``world_size``-th sample of all epochs from ``position`` on."""
        length = len(self.dataset)
        first, position = divmod(position, length)
        for epoch in count(first):
            order = self._order(epoch)
            while position < length:
                yield epoch, order[position]
                position += self.world_size
            position -= length

    def _order(self, epoch):
        if not self.shuffle:
            return range(len(self.dataset))
        generator = torch.Generator().manual_seed(self.seed + epoch)
        return torch.randperm(len(self.dataset), generator=generator).tolist()

    def skip(self, num_samples):
        """Start after ``num_samples`` samples of this process, the next time only.

        Counted from the beginning of the epoch, or with ``is_infinite`` from the very first one.
        """
        self.start = num_samples
