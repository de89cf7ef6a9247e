"""Part tokens, part maps, and the values computed from them (Sec. 3.1).

B images, P parts (the paper's N), D channels (the paper's C), L = H * W patches,
C channels of the part decoder. A part map is soft; part ids are hard.
"""
import torch
import torch.nn.functional as F


def part_tokens(cls_token: torch.Tensor, w1: torch.Tensor, w2: torch.Tensor) -> torch.Tensor:
    """Part tokens F_p (B, P, D): the class token with its channels re-weighted per part (Eq. 1).

    cls_token: (B, D), F_c of the paper; `PartLearner` layer-normalises it first (ours).
    w1, w2: (P, D, D), W_c1 and W_c2, each (out, in) as in ``nn.Linear``.
    Raises ValueError for other shapes.
    """
    d = cls_token.shape[-1]
    if cls_token.ndim != 2 or w1.ndim != 3 or w1.shape[1:] != (d, d) or w1.shape != w2.shape:
        raise ValueError(f'cls_token, w1, w2 have shapes {tuple(cls_token.shape)}, '
                         f'{tuple(w1.shape)}, {tuple(w2.shape)}, expected (B, D), (P, D, D), '
                         '(P, D, D)')
    hidden = torch.einsum('pod,bd->bpo', w1, cls_token).tanh()
    gate = torch.einsum('pod,bpd->bpo', w2, hidden).sigmoid()
    return cls_token[:, None] * gate


def part_attention(part_tokens: torch.Tensor, patch_tokens: torch.Tensor, wp: torch.Tensor,
                   w: torch.Tensor, softmax_over: str = 'parts',
                   return_logits: bool = False) -> torch.Tensor:
    """Part maps M (B, P, L) = softmax(F_p^T W_p^T W F) (Eq. 2).

    part_tokens: (B, P, D). patch_tokens: (B, L, D). wp, w: (D, D), (out, in) as in ``nn.Linear``.
    softmax_over: 'parts' (ours, default): the maps of each patch sum to 1. 'positions': each map
        sums to 1. The paper does not name the axis.
    return_logits: return the argument of the softmax instead.
    No 1 / sqrt(D), as printed: with it the maps stay similar at the usual learning rates.
    Raises ValueError for other shapes and another axis.
    """
    axes = {'parts': 1, 'positions': 2}
    if softmax_over not in axes:
        raise ValueError(f'softmax_over is {softmax_over!r}, expected one of {list(axes)}')
    d = part_tokens.shape[-1]
    if (part_tokens.ndim != 3 or patch_tokens.ndim != 3 or patch_tokens.shape[-1] != d
            or patch_tokens.shape[0] != part_tokens.shape[0] or wp.shape[-1] != d
            or w.shape[-1] != d or wp.shape != w.shape):
        raise ValueError('part_tokens, patch_tokens, wp, w have shapes '
                         f'{tuple(part_tokens.shape)}, {tuple(patch_tokens.shape)}, '
                         f'{tuple(wp.shape)}, {tuple(w.shape)}, '
                         'expected (B, P, D), (B, L, D), (D, D), (D, D)')
    # From the left, as printed: there are fewer parts than patches.
    logits = torch.einsum('bpd,bld->bpl', part_tokens @ wp.T @ w, patch_tokens)
    return logits if return_logits else logits.softmax(axes[softmax_over])


def blur_maps(maps: torch.Tensor, kernel_size: int = 7) -> torch.Tensor:
    """Maps (B, P, H, W) after a Gaussian blur of each map (Sec. 3.1; kernel 7 in Sec. 4.1).

    kernel_size: in patches, odd; 1 changes nothing. The paper says "large-kernel blur"; Gaussian is
        ours. Its sigma follows the kernel as in OpenCV: 1.4 patches for 7.
    At the border the rest of the kernel is scaled to sum to 1. So constant maps stay constant, and
    maps that sum to 1 over the parts still do.
    Raises ValueError for other shapes and an even kernel.
    """
    if maps.ndim != 4:
        raise ValueError(f'maps have shape {tuple(maps.shape)}, expected (B, P, H, W)')
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f'kernel_size is {kernel_size}, expected an odd number')
    sigma = 0.3 * ((kernel_size - 1) * 0.5 - 1) + 0.8
    rows, columns = (_blur_matrix(size, kernel_size, sigma, maps) for size in maps.shape[-2:])
    return rows @ maps @ columns.T


def _blur_matrix(size: int, kernel_size: int, sigma: float, like: torch.Tensor) -> torch.Tensor:
    """(size, size): row i holds the weight of each entry of a line in its blurred entry i."""
    at = torch.arange(size, device=like.device)
    distance = (at[:, None] - at).abs()
    weights = torch.exp(-0.5 * (distance / sigma) ** 2) * (distance <= kernel_size // 2)
    return (weights / weights.sum(1, keepdim=True)).to(like.dtype)


def adain(features: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Features (B, C, H, W), each channel normalised over space, scaled and shifted (Eq. 3).

    scale, shift: (B, C), W_s F_c and W_b F_c. The text calls sigma of Eq. 3 the variance. Here, as
    in AdaIN, the features are divided by the standard deviation (1e-5 is added to the variance).
    Raises ValueError for other shapes.
    """
    if features.ndim != 4 or scale.shape != features.shape[:2] or shift.shape != scale.shape:
        raise ValueError(f'features, scale, shift have shapes {tuple(features.shape)}, '
                         f'{tuple(scale.shape)}, {tuple(shift.shape)}, expected (B, C, H, W), '
                         '(B, C), (B, C)')
    with torch.autocast(features.device.type, enabled=False):  # sums of squares need float32
        features = features.float()
        mean = features.mean((2, 3), keepdim=True)
        var = features.var((2, 3), correction=0, keepdim=True)
        unit = (features - mean) * (var + 1e-5).rsqrt()
        return scale[..., None, None].float() * unit + shift[..., None, None].float()


def part_textures(maps: torch.Tensor, patch_tokens: torch.Tensor) -> torch.Tensor:
    """Mean patch token under each part map, (B, P, D) (ours; in the paper texture is F_c).

    maps: (B, P, L), at least 0, the weights of the mean. patch_tokens: (B, L, D).
    """
    return torch.einsum('bpl,bld->bpd', F.normalize(maps, p=1, dim=-1), patch_tokens)


def part_ids(maps: torch.Tensor) -> torch.Tensor:
    """Part of every patch (B, L) int64: argmax over the parts of maps or logits (B, P, L).

    Sec. 3.2. After a softmax over positions give the logits: every map then sums to 1, so a large
    part has small values and would win no patch. Raises ValueError for other shapes.
    """
    if maps.ndim != 3:
        raise ValueError(f'maps have shape {tuple(maps.shape)}, expected (B, P, L)')
    return maps.argmax(1)


def foreground_scores(maps: torch.Tensor) -> torch.Tensor:
    """Object score of every patch (B, L); larger is more likely object (Sec. 4.2).

    maps: (B, P, L) part maps of either softmax. Each is normalised over positions; the score is the
    maximum over the parts. A part on the background spreads its 1 over many patches, so these get
    low scores. The paper drops patches "most likely to be the background" by the attention maps and
    does not say how: this is our reading. `unlike_border_tokens` ranked better.
    Raises ValueError for other shapes.
    """
    if maps.ndim != 3:
        raise ValueError(f'maps have shape {tuple(maps.shape)}, expected (B, P, L)')
    return F.normalize(maps, p=1, dim=-1).amax(1)


def unlike_border_tokens(patch_tokens: torch.Tensor, grid: int) -> torch.Tensor:
    """Difference of every patch from the border of its image (B, L), larger is more object (ours).

    patch_tokens: (B, L, D) with L = grid * grid. The score is minus the mean cosine with the tokens
    at the border, all relative to the mean token of the image. The border rarely shows the object.
    It ranks better than the part maps on the toy set and on CUB, but on CUB not better than
    `centre_scores` (benchmarks/results/parts).
    """
    with torch.autocast(patch_tokens.device.type, enabled=False):  # many scores would be equal
        tokens = patch_tokens.float()
        unit = F.normalize(tokens - tokens.mean(1, keepdim=True), dim=-1)
        border = unit[:, border_ring(grid, unit.device)].mean(1)
        return -torch.einsum('bld,bd->bl', unit, border)


def unlike_border_parts(maps: torch.Tensor, grid: int) -> torch.Tensor:
    """Minus the share of the border that a patch's part covers, expected over parts (B, L) (ours).

    maps: (B, P, L) with L = grid * grid; the maps of each patch sum to 1.
    """
    return -(maps * border_share(maps, grid)[..., None]).sum(1)


def centre_scores(grid: int, device: torch.device | str | None = None) -> torch.Tensor:
    """Minus the distance of every patch from the middle of the image (L,), in image sides (ours).

    The baseline of all foreground rankings: it does not depend on the image.
    """
    return -(_centres(grid, device) - .5).norm(dim=-1)


def _centres(grid: int, device: torch.device | str | None) -> torch.Tensor:
    """(L, 2) y, x of the centre of every patch, in image sides."""
    line = (torch.arange(grid, device=device) + .5) / grid
    return torch.cartesian_prod(line, line)


def border_share(maps: torch.Tensor, grid: int) -> torch.Tensor:
    """Mean of each map (B, P, L) over the patches at the border of the image, (B, P)."""
    return maps[..., border_ring(grid, maps.device)].mean(-1)


def border_ring(grid: int, device: torch.device | str | None = None) -> torch.Tensor:
    """(4 * grid - 4,) int64: positions of the patches at the border of an image, ascending."""
    rim = (0, grid - 1)
    return torch.tensor([row * grid + column for row in range(grid) for column in range(grid)
                         if row in rim or column in rim], device=device)


def voronoi_ids(points: torch.Tensor, grid: int) -> torch.Tensor:
    """(B, L) int64: the nearest of the points (B, P, 2) to every patch, y, x in image sides."""
    return torch.cdist(_centres(grid, points.device).to(points), points).argmin(-1)


def off_diagonal_cosines(maps: torch.Tensor) -> torch.Tensor:
    """Cosines (B, P, P) of all pairs of part maps (B, P, L), 0 on the diagonal (Eq. 6).

    Computed in float32, also under autocast: similar maps differ in the last digits only.
    Raises ValueError for other shapes.
    """
    if maps.ndim != 3:
        raise ValueError(f'maps have shape {tuple(maps.shape)}, expected (B, P, L)')
    with torch.autocast(maps.device.type, enabled=False):
        unit = F.normalize(maps.float(), dim=-1)
        cosines = torch.einsum('bil,bjl->bij', unit, unit)
    return cosines * (1 - torch.eye(maps.shape[1], device=maps.device))


def otsu_thresholds(scores: torch.Tensor) -> torch.Tensor:
    """(B,): the threshold that parts the scores (B, L) of each image best in two groups.

    It has the largest variance between the groups "above" and "not above" (Otsu 1979), over all
    thresholds at a score but the highest, so neither group is empty unless all scores are equal.
    Raises ValueError for other shapes and for fewer than two patches.
    """
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise ValueError(f'scores have shape {tuple(scores.shape)}, expected (B, L) with L above 1')
    ordered = scores.double().sort(1).values
    below = torch.arange(1, scores.shape[1], device=scores.device)
    above = scores.shape[1] - below
    total = ordered.cumsum(1)
    means = total[:, :-1] / below - (total[:, -1:] - total[:, :-1]) / above
    between = below * above * means.square()
    # A cut between equal scores parts nothing.
    between = between.where(ordered[:, 1:] > ordered[:, :-1], -torch.inf)
    at = between.argmax(1, keepdim=True)
    return scores.sort(1).values.gather(1, at).squeeze(1)


def foreground_ids(scores: torch.Tensor, keep: int) -> torch.Tensor:
    """Positions (B, keep) int64, ascending, of the ``keep`` highest scores (B, L) (Sec. 4.2).

    Of equal scores the lower positions are kept. Raises ValueError for other shapes and for a
    ``keep`` that is not 1 to L.
    """
    if scores.ndim != 2 or not 0 < keep <= scores.shape[1]:
        raise ValueError(f'scores have shape {tuple(scores.shape)} and keep is {keep}, expected '
                         '(B, L) and 1 to L')
    return scores.argsort(dim=1, descending=True, stable=True)[:, :keep].sort(1).values


def signs_of_collapse(coverage: list[float], off_diagonal_cosine: float,
                      largest_share: float, explained: float) -> list[str]:
    """Sentences that say what is wrong with part maps; [] if nothing is (ours, with our limits).

    All are means over a data set. coverage: (P,) share of all patches that each part wins.
    off_diagonal_cosine, largest_share: see `part_health`. explained: share of the variance within
    images that the reconstruction explains. The limit of the cosine is high because maps with a
    cosine of .96 still gave good parts (benchmarks/results/parts/README.md).
    """
    dead = [i for i, share in enumerate(coverage) if share < .001]
    signs = {
        f'the maps are all alike (mean cosine {off_diagonal_cosine:.3f}): which part wins a patch '
        'is chance': off_diagonal_cosine > .99,
        f'one part holds {largest_share:.0%} of an image': largest_share > .95,
        f'{len(dead)} of {len(coverage)} parts are never seen ({dead})':
            2 * len(dead) >= len(coverage),
        f'the reconstruction explains {explained:.0%} of what varies in an image, so the parts '
        'follow nothing in it': not explained > .1}  # NaN explains nothing
    return [sentence for sentence, is_so in signs.items() if is_so]


def part_health(maps: torch.Tensor) -> dict[str, torch.Tensor]:
    """Numbers that show a collapse of part maps (B, P, L) (ours): tensors on their device.

    coverage: (P,) share of all patches that each part wins.
    num_empty: number of parts that win no patch, mean over images.
    largest_share: share of the patches that the largest part wins, mean over images.
    entropy: of the shares of the parts, in nats, mean over images; log(P) for equal parts.
    off_diagonal_cosine: of two different maps, mean over pairs and images; 1 if all are alike.
    """
    parts = maps.shape[1]
    won = part_ids(maps)[:, None] == torch.arange(parts, device=maps.device)[:, None]
    shares = won.float().mean(-1)
    cosines = off_diagonal_cosines(maps)
    return dict(
        coverage=shares.mean(0),
        num_empty=(shares == 0).sum(1).float().mean(),
        largest_share=shares.amax(1).mean(),
        entropy=-torch.xlogy(shares, shares).sum(1).mean(),
        off_diagonal_cosine=cosines.sum((1, 2)).mean() / max(parts * (parts - 1), 1))
