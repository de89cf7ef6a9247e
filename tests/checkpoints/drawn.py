"""Weights and pixels from fixed streams of numbers, which official code got too."""
import math
from zlib import crc32

import numpy as np
import torch


def drawn(name, *shape):
    """float64 in [-1, 1), the same on every machine: numpy promises never to change this stream."""
    return 2 * np.random.RandomState(crc32(name.encode())).random_sample(shape) - 1


def weight(name, shape):
    """The tensor of this name: no bias is 0, no norm is 1, attention is not uniform."""
    x = drawn(name, *shape)
    if 'table' in name:
        x = 2 * x
    elif len(shape) in (2, 4):  # linear, convolution
        x = x * math.sqrt(3 / math.prod(shape[1:]))
    else:
        x = 0.5 * x + (name.endswith('weight') and len(shape) == 1)
    return torch.from_numpy(np.ascontiguousarray(x)).float()


def image(side, batch=1):
    return 1.7 * torch.from_numpy(drawn(f'image {side}', batch, 3, side, side)).float()


def digest(shapes):
    """CRC-32 of all names and shapes of a state dict, sorted."""
    return crc32('\n'.join(f'{k} {tuple(v)}' for k, v in sorted(shapes.items())).encode())
