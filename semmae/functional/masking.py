"""Masks: Algorithm 1, and the masks that it is compared with.

B images, L patches, P parts (the paper's N), V visible, M masked, K rectangles, H W patch grid.
A mask is True where a patch is removed. Every row masks `num_masked` (L, mask_ratio) patches.

Randomness is an argument: a ``generator``, or ``noise``, uniform numbers in [0, 1) that the caller
drew, one row for each image. With neither, numbers are drawn on the device of the tensors. Patches
of small noise are kept, as in MAE. No function reads a tensor on the host, except `split_ids`
without ``num_keep``. All raise ValueError for shapes and values other than the documented ones.
"""
import math

import torch

ONE_PATCH = 2 ** 24  # fixed point of `round_to_budget`: a power of two, so float32 scales exactly
# Constants of `attention_mask`: shares of the patches, the most attended first.
HINT_CANDIDATES = 0.1  # from which hints are drawn (AttMask's default)
SHOWN_HINTS = 0.5  # share of these that is shown (ours; AttMask draws the number)
NOT_MASKED = 0.125  # what 'nonessential' never masks (ours; MST: below a threshold, at random)


def num_masked(length: int, mask_ratio: float) -> int:
    """Number of masked patches of ``length``: MAE's formula, with its float truncation.

    10 patches at 0.9 keep none, because 10 * (1 - 0.9) is 0.9999999999999998.
    """
    if not 0 <= mask_ratio < 1:
        raise ValueError(f'mask_ratio is {mask_ratio}, expected 0 <= mask_ratio < 1')
    return length - int(length * (1 - mask_ratio))


def alpha_at(progress: float, gamma: float = 2.0, start: float = 0.0, end: float = 1.0) -> float:
    """The interpolation weight alpha (Algorithm 1, line 7): from start to end as progress**gamma.

    progress: completed share of the pre-training, in [0, 1]: epoch / total_epoches in the paper,
        (epoch + 1) / 800 in the official code.
    start, end: 0 and 1 in the paper; 1 and 0 for "from parts to patches" in Table 3.
    """
    for name, value in dict(progress=progress, start=start, end=end).items():
        if not 0 <= value <= 1:
            raise ValueError(f'{name} is {value}, expected a number in [0, 1]')
    if gamma <= 0:
        raise ValueError(f'gamma is {gamma}, expected a positive number')
    weight = progress ** gamma
    return (1 - weight) * start + weight * end


def patches_to_mask_per_part(part_sizes: torch.Tensor, mask_ratio: float, alpha: float,
                             part_order: torch.Tensor) -> torch.Tensor:
    """Number of patches to mask in each part (Algorithm 1, lines 1-6 and 8).

    part_sizes: (B, P) patches in each part; each row sums to L.
    alpha: line 7, `alpha_at`: 0 masks ``mask_ratio`` of every part, 1 masks whole parts.
    part_order: (B, P) a permutation for each image; at alpha 1 the first parts are masked first.
    Returns (B, P) floats; each row sums to ``mask_ratio * L``. The paper does not say how to round;
    `round_to_budget` does that.
    """
    if part_sizes.ndim != 2 or part_order.shape != part_sizes.shape:
        raise ValueError(f'part_sizes have shape {tuple(part_sizes.shape)} and part_order '
                         f'{tuple(part_order.shape)}, expected (B, P) for both')
    sizes = part_sizes if part_sizes.is_floating_point() else part_sizes.float()
    total = mask_ratio * sizes.sum(1, keepdim=True)
    counts = _interpolated(sizes.gather(1, part_order), total, alpha)
    return torch.empty_like(counts).scatter(1, part_order, counts)     # line 6


def _interpolated(sizes: torch.Tensor, total: float | torch.Tensor, alpha: float) -> torch.Tensor:
    """Algorithm 1 for ``total`` = mask_ratio * L patches to mask, a number or (B, 1).

    sizes, result: (B, P) floats in ``part_order``.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f'alpha is {alpha}, expected a number in [0, 1]')
    num_mask1 = total / sizes.sum(1, keepdim=True) * sizes             # line 1
    num_mask2 = _fill(total, sizes)                                    # lines 2-5
    return (1 - alpha) * num_mask1 + alpha * num_mask2                 # line 8


def _fill(amount: float | torch.Tensor, room: torch.Tensor) -> torch.Tensor:
    """(B, P): ``amount`` distributed from left to right, to each part up to its ``room``."""
    marks = amount - _sum_before(room)                                 # line 3
    return marks.clamp(min=0).minimum(room)                            # lines 4-5


def _sum_before(x: torch.Tensor) -> torch.Tensor:
    """(B, P): sum of the entries to the left (cumsum of floats is not deterministic on CUDA)."""
    if not x.is_floating_point():
        return x.cumsum(1) - x
    return (x[:, None, :] * x.new_ones(x.shape[1], x.shape[1]).tril(-1)).sum(-1)


def round_to_budget(counts: torch.Tensor, part_sizes: torch.Tensor, budget: int,
                    generator: torch.Generator | None = None,
                    noise: torch.Tensor | None = None) -> torch.Tensor:
    """Whole numbers of patches to mask (B, P) int64: rows sum to ``budget``, 0 <= n <= size.

    counts: (B, P) floats, 0 <= count <= size. part_sizes: (B, P), rows sum to at least ``budget``.
    noise: (B, P).
    Systematic random rounding (ours). The counts are intervals, joined in random order. A part
    masks as many patches as whole numbers, shifted by one random offset, lie in its interval. So n
    is the count rounded up or down, and its mean is the count: a part of one patch is masked with
    this probability, not always. Where a row does not sum to ``budget`` (mask_ratio * L need not be
    whole), the first parts of the random order get the missing patches or lose the extra ones.
    The official code rounds each count, then corrects the total with an unstable sort.
    """
    if counts.ndim != 2 or counts.shape != part_sizes.shape:
        raise ValueError(f'counts have shape {tuple(counts.shape)} and part_sizes '
                         f'{tuple(part_sizes.shape)}, expected (B, P) for both')
    batch, parts = counts.shape
    noise = _noise_or_draw(batch, parts, counts.device, generator, noise)
    order = noise.argsort(dim=1, stable=True)
    rounded = _rounded(counts.gather(1, order), part_sizes.gather(1, order), budget, noise)
    return torch.empty_like(rounded).scatter(1, order, rounded)


def _rounded(counts: torch.Tensor, sizes: torch.Tensor, budget: int,
             noise: torch.Tensor) -> torch.Tensor:
    """`round_to_budget` with counts, sizes and result in the order of the noise."""
    # The offset is the fractional part of the sum of the noise. A sum of independent uniform
    # numbers is uniform modulo 1, and it is the same for every order of these numbers, so the
    # offset is independent of the order. In integers it is exact and the same on every device.
    offset = (noise.float() * ONE_PATCH).long().sum(1, keepdim=True) % ONE_PATCH
    # Integers from here on: a sum of floats could miss the budget or a bound by one patch.
    room = sizes.long() * ONE_PATCH
    length = counts.to(torch.promote_types(counts.dtype, torch.float32))
    length = (length * ONE_PATCH).round().long().clamp(min=0).minimum(room)
    gap = budget * ONE_PATCH - length.sum(1, keepdim=True)
    length = length + _fill(gap, room - length) - _fill(-gap, length)
    left = _sum_before(length) + offset
    return (left + length) // ONE_PATCH - left // ONE_PATCH


def part_guided_mask(part_ids: torch.Tensor, num_parts: int, mask_ratio: float, alpha: float,
                     generator: torch.Generator | None = None,
                     noise: torch.Tensor | None = None) -> torch.Tensor:
    """Mask (B, L) guided by parts (Sec. 3.2, Algorithm 1).

    part_ids: (B, L) int64 in [0, num_parts); the range is not checked, to avoid a wait for the
        device. alpha: 0 masks ``mask_ratio`` of every part, 1 whole parts (at most one is cut).
    noise: (B, L + P). The first L rank the patches inside their part (in a tie, the left patch is
        kept); the last P give the order of the parts and the rounding.
    With one part this is `random_mask`. Ours: Algorithm 1 gets `num_masked` patches to mask. This
    is mask_ratio * L of the paper where that is whole (147 of 196, 588 of 784).
    """
    if part_ids.ndim != 2:
        raise ValueError(f'part_ids have shape {tuple(part_ids.shape)}, expected (B, L)')
    batch, length = part_ids.shape
    budget = num_masked(length, mask_ratio)
    noise = _noise_or_draw(batch, length + num_parts, part_ids.device, generator, noise)
    patch_noise, part_noise = noise[:, :length], noise[:, length:]
    # A key holds part, noise and position, in this order. No two keys are equal, so the sort need
    # not be stable, and of equal noise the left patch is kept. 24 bits hold every float32 of
    # torch.rand.
    small = (patch_noise.float() * ONE_PATCH).int().clamp_(0, ONE_PATCH - 1)
    places = torch.arange(length, device=part_ids.device)
    key = torch.add(places, small, alpha=length).add_(part_ids, alpha=ONE_PATCH * length)
    ordered = key.sort(dim=1).values
    bounds = torch.arange(num_parts + 1, device=part_ids.device) * (ONE_PATCH * length)
    bounds = torch.searchsorted(ordered, bounds.expand(batch, -1).contiguous())
    order = part_noise.argsort(dim=1, stable=True)
    sizes = bounds.diff(dim=1).gather(1, order)
    # The rounding uses the same numbers: it is unbiased for any given order.
    counts = _interpolated(sizes.float(), budget, alpha)
    num_mask = _rounded(counts, sizes, budget, part_noise)
    first_masked = bounds[:, 1:].gather(1, order) - num_mask
    # A part without a masked patch gets a key above all of its own: the first key of the next
    # part, or 1 more than the last key.
    smallest = ordered.gather(1, first_masked.clamp(max=length - 1)) + (first_masked == length)
    smallest = torch.empty_like(smallest).scatter(1, order, smallest)
    return key >= smallest.gather(1, part_ids)


def random_mask(batch: int, length: int, mask_ratio: float,
                generator: torch.Generator | None = None,
                device: torch.device | str | None = None,
                noise: torch.Tensor | None = None) -> torch.Tensor:
    """Mask (B, L), every patch equally likely (MAE): the largest noise is masked.

    noise: (B, L) or wider; the first L columns are used. The mask is on its device.
    """
    masked = num_masked(length, mask_ratio)
    noise = _noise_or_draw(batch, length, device, generator, noise, or_wider=True)
    return _rank(noise) >= length - masked


def blockwise_mask(batch: int, grid: int | tuple[int, int], mask_ratio: float,
                   generator: torch.Generator | None = None,
                   device: torch.device | str | None = None,
                   noise: torch.Tensor | None = None,
                   ids: torch.Tensor | None = None) -> torch.Tensor:
    """Mask (B, L = H * W) made of rectangles (BEiT, SiT), of exact size.

    Rectangles as in BEiT: area from 16/196 of the grid to what is still to be masked, aspect 0.3 to
    1 / 0.3, anywhere in the grid. Ours: each grows from its centre, and patches are masked in
    the order in which they are reached. So the last rectangle is cut on all sides and not on one,
    and if K = min(32, L // 4) rectangles do not suffice, the last grows past its edges.
    noise: (B, 4 * K) or wider; L columns suffice for L >= 4.
    ids: (B, L) grid positions of the patches that can be masked, where these are not the whole
        grid. Rectangles lie anywhere on the grid; only these patches count.
    """
    h, w = (grid, grid) if isinstance(grid, int) else grid
    length = h * w if ids is None else ids.shape[1]
    masked = num_masked(length, mask_ratio)
    num_rectangles = max(1, min(32, length // 4))
    noise = _noise_or_draw(batch, 4 * num_rectangles, device, generator, noise, or_wider=True)
    y, x = (torch.arange(size, device=noise.device) + 0.5 for size in (h, w))
    smallest = 16 / 196 * h * w
    reached = noise.new_full((batch, h, w), torch.inf)

    def patches() -> torch.Tensor:
        """(B, L): when each patch that can be masked was reached."""
        return reached.flatten(1) if ids is None else reached.flatten(1).gather(1, ids)

    for k in range(num_rectangles):
        u = noise[:, 4 * k:4 * k + 4, None]
        left = masked - patches().isfinite().sum(1, keepdim=True).clamp(max=masked)
        area = smallest + u[:, 0] * (left - smallest).clamp(min=0)
        aspect = torch.exp((2 * u[:, 1] - 1) * math.log(1 / 0.3))
        rows, columns = (area * aspect).sqrt().clamp(1, h), (area / aspect).sqrt().clamp(1, w)
        # The last term breaks the tie of mirrored patches.
        centre_y = rows / 2 + u[:, 2] * (h - rows) + (u[:, 2] - 0.5) * 1e-3
        centre_x = columns / 2 + u[:, 3] * (w - columns) + (u[:, 3] - 0.5) * 1e-3
        away = torch.maximum(((y - centre_y).abs() / (rows / 2))[:, :, None],
                             ((x - centre_x).abs() / (columns / 2))[:, None, :])
        grows_to = 1 if k < num_rectangles - 1 else torch.inf
        reached = torch.where(reached.isinf() & (away < grows_to), k + away, reached)
    return _rank(patches()) < masked


def attention_mask(scores: torch.Tensor, mask_ratio: float, mode: str = 'high',
                   generator: torch.Generator | None = None,
                   noise: torch.Tensor | None = None) -> torch.Tensor:
    """Mask (B, L) by attention scores (B, L); of equal scores the lower position is masked first.

    mode: 'high' masks the most attended patches (AttMask-High), 'low' the least attended
        (AttMask-Low). 'hint' masks the most attended except random hints (AttMask-Hint); the next
        most attended are masked instead (ours, for an exact size), so there are at most V hints.
        'nonessential' masks random patches, but none of the most attended eighth (MST).
    noise: (B, L) or wider; 'high' and 'low' do not use it.
    """
    if scores.ndim != 2:
        raise ValueError(f'scores have shape {tuple(scores.shape)}, expected (B, L)')
    if mode not in ('high', 'low', 'hint', 'nonessential'):
        raise ValueError(f"mode is {mode!r}, expected 'high', 'low', 'hint' or 'nonessential'")
    batch, length = scores.shape
    visible = length - num_masked(length, mask_ratio)
    rank = _rank(scores if mode == 'low' else -scores.float())
    if mode in ('high', 'low'):
        return rank < length - visible
    noise = _noise_or_draw(batch, length, scores.device, generator, noise, or_wider=True)
    if mode == 'nonessential':
        spared = round(NOT_MASKED * length)
        if spared > visible:
            raise ValueError(f"mask_ratio is {mask_ratio}, expected at most {1 - NOT_MASKED} for "
                             f"mode 'nonessential', which never masks {NOT_MASKED} of the patches")
        return _rank(noise.masked_fill(rank < spared, -torch.inf)) >= visible
    candidates = round(HINT_CANDIDATES * length)
    num_hints = min(round(SHOWN_HINTS * candidates), visible)
    is_hint = _rank(noise.masked_fill(rank >= candidates, torch.inf)) < num_hints
    return _rank(rank + length * is_hint) < length - visible


def split_ids(mask: torch.Tensor,
              num_keep: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions (ids_keep (B, V), ids_mask (B, M)) of the patches that stay and that are masked.

    Both ascending. num_keep: V. None: counted and checked, which waits for the device, so give it
    inside a training step.
    """
    if mask.ndim != 2:
        raise ValueError(f'mask has shape {tuple(mask.shape)}, expected (B, L)')
    if num_keep is None:
        kept = (~mask.bool()).sum(1)
        num_keep, most = kept.min().item(), kept.max().item()
        if num_keep != most:
            raise ValueError(f'rows of the mask keep {num_keep} to {most} patches, expected one '
                             'number for all')
    # Some devices cannot sort booleans.
    ids = mask.to(torch.uint8).argsort(dim=1, stable=True)
    return ids[:, :num_keep], ids[:, num_keep:]


def _rank(x: torch.Tensor) -> torch.Tensor:
    """(B, L) place of every entry in its row in ascending order, the left one first in a tie."""
    order = x.argsort(dim=1, stable=True)
    places = torch.arange(x.shape[1], device=x.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def _noise_or_draw(batch: int, columns: int, device: torch.device | str | None,
                   generator: torch.Generator | None, noise: torch.Tensor | None,
                   or_wider: bool = False) -> torch.Tensor:
    """(batch, columns) uniform numbers: checked columns of ``noise``, or new ones."""
    if noise is None:
        source = device if generator is None else generator.device
        return torch.rand(batch, columns, generator=generator, device=source).to(device or source)
    if generator is not None:
        raise ValueError('generator and noise are both given, expected at most one')
    found = tuple(noise.shape)
    if len(found) != 2 or found[0] != batch or found[1] < columns or (
            found[1] > columns and not or_wider):
        raise ValueError(f'noise has shape {found}, expected ({batch}, {columns}'
                         f'{" or more" if or_wider else ""})')
    return noise[:, :columns]
