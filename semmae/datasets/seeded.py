"""Every random number of a training sample is a function of (seed, epoch, image index).

The sampler yields (epoch, index) pairs. The data set seeds the generators from (seed, epoch, index)
before it reads a sample. So workers, ranks and restarts do not change the numbers, and
``dataset[epoch, index]`` replays one sample, with its mask noise.
"""
import random
import sys
from itertools import count, islice

import numpy as np
import torch
from mmengine.dataset import DefaultSampler
from mmengine.dist import get_rank
from mmengine.logging import print_log
from torch.utils.data import Dataset

from ..registry import DATA_SAMPLERS, DATASETS
from .image_files import DamagedImage


def seed_everything(*key):
    """Seed python, numpy and torch on all devices from a tuple of non-negative integers."""
    torch.manual_seed(seed_cpu(*key))


def seed_cpu(*key) -> int:
    """Seed python, numpy and torch on the CPU only; returns torch's seed.

    For samples: seeding other devices takes longer than drawing a sample's numbers.
    """
    a, b, c = (int(x) for x in np.random.SeedSequence(key).generate_state(3))
    random.seed(a)
    np.random.seed(b)
    torch.default_generator.manual_seed(c)
    return c


@DATASETS.register_module()
class Seeded(Dataset):
    """A data set that is read as ``self[epoch, index]``.

    min_length: a smaller data set is repeated within an epoch up to this many samples; each
    repetition draws its own random numbers.
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


@DATASETS.register_module()
class SeededOrNext(Seeded):
    """`Seeded`, with the whole sample of the next readable image in place of a damaged one.

    A sample is still a function of (seed, epoch, index). Each process prints path and reason once
    on stderr.

    max_damaged: share of the images that may be damaged, at least one image (ours); more are a
    ValueError. A process counts its own damage, and that of others after `mark` (`DataCheckHook`).
    """

    def __init__(self, dataset, seed=0, min_length=0, max_damaged=0.001):
        super().__init__(dataset, seed, min_length)
        self.max_damaged = max_damaged
        self.rank = get_rank()  # a spawned worker does not know it
        # Shared with the workers. Setting a flag twice changes nothing, so no lock is needed.
        self.is_damaged = torch.zeros(len(self.dataset), dtype=torch.bool).share_memory_()

    @property
    def damaged(self) -> list:
        """Indices of the damaged images."""
        return self.is_damaged.nonzero().flatten().tolist()

    def mark(self, indices):
        """Count images as damaged; indices out of range are ignored."""
        known = [i for i in indices if 0 <= i < len(self.is_damaged)]
        # Only these flags are written, because workers may be setting others.
        self.is_damaged[torch.tensor(known, dtype=torch.long)] = True

    def __getitem__(self, key):
        epoch, index = key
        while True:
            try:
                return super().__getitem__((epoch, index))
            except DamagedImage as error:
                self.note(index % len(self.dataset), error)
            index += 1

    def note(self, image, error):
        """Count a damaged image and print it once; ValueError if there are too many."""
        if not self.is_damaged[image]:
            self.is_damaged[image] = True
            said = f'damaged image, the next one is taken: {error}'
            print_log(said, 'current', 30)
            # print, because the logger prints on the first process only.
            print(f'rank {self.rank}: {said}', file=sys.stderr, flush=True)
        self.require_few(f'the last: {error}')

    def require_few(self, which='their names are on stderr'):
        """ValueError if more images than ``max_damaged`` are damaged."""
        total, found = len(self.dataset), int(self.is_damaged.sum())
        allowed = max(1, int(self.max_damaged * total))
        if found > min(allowed, total - 1):
            raise ValueError(
                f'found {found} damaged images among {total:,}, expected at most {allowed} '
                f'(max_damaged={self.max_damaged}); {which}. To find all: '
                'python tools/check_data.py --decode') from None


@DATA_SAMPLERS.register_module()
class SeededSampler(DefaultSampler):
    """Yields (epoch, index) for a `Seeded` data set, and sets its seed.

    The k-th process of n gets every n-th sample from the k-th on. So a global batch, row by row of
    n samples, does not depend on the number of processes.

    is_infinite: for iteration-based loops; endless epochs, none padded to a multiple of processes.
    """

    def __init__(self, dataset, shuffle=True, seed=None, is_infinite=False, **kwargs):
        super().__init__(dataset, shuffle=shuffle, seed=seed, **kwargs)
        if not isinstance(dataset, Seeded):
            raise ValueError(f'SeededSampler needs a semmae.Seeded data set, got '
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
        """Start the next iteration, and only that, after ``num_samples`` samples of this process.

        Counted from the start of the epoch, or with ``is_infinite`` from the start of the first.
        """
        self.start = num_samples
