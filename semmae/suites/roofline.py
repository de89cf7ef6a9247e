"""The roofline of a device: how fast it computes and moves bytes, given or measured."""
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Device:
    """The rates of one device: operations per second, and bytes per second to and from memory."""
    flops: float
    bandwidth: float = math.inf

    def lower_bound(self, flops, moved) -> float:
        """Lower bound in seconds: the longer of computing and moving, which may overlap."""
        return max(flops / self.flops, moved / self.bandwidth)

    def __str__(self):
        moves = f' and {self.bandwidth / 1e9:.4g} GB/s' if math.isfinite(self.bandwidth) else ''
        return f'{self.flops / 1e12:.4g} TFLOP/s{moves}'


def probe(where='cpu', dtype='float32', seconds=1.) -> Device:
    """The `Device` of this machine: the fastest of many matrix products, and of many copies.

    The fastest, because it gives a lower bound. seconds: for each of the two. A copy counts as one
    read and one write. float32 is computed as torch is set (TF32 or not).
    """
    side, size = (8192, 2 ** 29) if where == 'cuda' else (1536, 2 ** 26)
    a, b = (torch.rand(side, side, device=where).to(getattr(torch, dtype)) for _ in range(2))
    out = torch.empty_like(a)
    rate = 2 * side ** 3 / fastest(lambda: torch.mm(a, b, out=out), where, seconds)
    source = torch.zeros(size, device=where)
    target = torch.zeros_like(source)
    return Device(rate, 2 * source.nbytes / fastest(lambda: target.copy_(source), where, seconds))


def fastest(action: Callable, where, seconds) -> float:
    """Seconds of the fastest of all calls that fit into ``seconds``, at least three."""
    found: list[float] = []
    started = time.perf_counter()
    while len(found) < 3 or time.perf_counter() - started < seconds:
        before = time.perf_counter()
        action()
        if where == 'cuda':
            torch.cuda.synchronize()
        found.append(time.perf_counter() - before)
    return min(found)
