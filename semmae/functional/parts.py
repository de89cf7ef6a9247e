"""Part tokens, part maps, and what is read from them (Sec. 3.1).

B images, P parts (the paper's N), D channels (the paper's C), L = H * W patches,
C channels of the part decoder. A part map is soft; part ids are hard.
"""
import torch
import torch.nn.functional as F


def part_tokens(cls_token: torch.Tensor, w1: torch.Tensor, w2: torch.Tensor) -> torch.Tensor:
    """Part tokens F_p (B, P, D): the class token with its channels re-weighted per part (Eq. 1).

    cls_token: (B, D), F_c of the paper. A layer norm on it (ours) is the caller's.
    w1, w2: (P, D, D), W_c1 and W_c2, each laid out (out, in) as in ``nn.Linear``.
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

    part_tokens: (B, P, D). patch_tokens: (B, L, D). wp, w: (D, D), laid out (out, in).
    softmax_over: 'parts' (each patch distributes 1 over the parts) or 'positions' (each part
        distributes 1 over the patches). The paper does not name the axis; default ours.
    return_logits: the argument of the softmax instead of its value.
    No 1 / sqrt(D), as printed: with it the maps stay alike at the usual learning rates.
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
    logits = torch.einsum('bpd,bld->bpl', part_tokens @ wp.T, patch_tokens @ w.T)
    return logits if return_logits else logits.softmax(axes[softmax_over])


def blur_maps(maps: torch.Tensor, kernel_size: int = 7, sigma: float | None = None) -> torch.Tensor:
    """Maps (B, P, H, W) after a Gaussian blur, each by itself (Sec. 3.1; kernel 7 in Sec. 4.1).

    kernel_size: odd; 1 changes nothing. sigma: in patches; by default it follows the kernel as
        in OpenCV, 1.4 for 7. The paper says "large-kernel blur" only: Gaussian is ours.
    At the border the kernel is cut off and what is left of it sums to 1, so that constant maps stay
    constant and a softmax over parts still sums to 1.
    """
    if maps.ndim != 4:
        raise ValueError(f'maps have shape {tuple(maps.shape)}, expected (B, P, H, W)')
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f'kernel_size is {kernel_size}, expected an odd number')
    if sigma is None:
        sigma = 0.3 * ((kernel_size - 1) * 0.5 - 1) + 0.8
    if sigma <= 0:
        raise ValueError(f'sigma is {sigma}, expected a positive number')
    rows, columns = (_blur_matrix(size, kernel_size, sigma, maps) for size in maps.shape[-2:])
    return rows @ maps @ columns.T


def _blur_matrix(size, kernel_size, sigma, like):
    """(size, size): row i holds the weights of a line's entries in the blurred entry i."""
    at = torch.arange(size, device=like.device)
    distance = (at[:, None] - at).abs()
    weights = torch.exp(-0.5 * (distance / sigma) ** 2) * (distance <= kernel_size // 2)
    return (weights / weights.sum(1, keepdim=True)).to(like.dtype)


def adain(features: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor,
          eps: float = 1e-5) -> torch.Tensor:
    """Features (B, C, H, W), each channel normalised over space, scaled and shifted (Eq. 3).

    scale, shift: (B, C), W_s F_c and W_b F_c. The paper calls sigma the variance; dividing by the
    standard deviation is what AdaIN does, and what is done here. eps is added to the variance.
    """
    if features.ndim != 4 or scale.shape != features.shape[:2] or shift.shape != scale.shape:
        raise ValueError(f'features, scale, shift have shapes {tuple(features.shape)}, '
                         f'{tuple(scale.shape)}, {tuple(shift.shape)}, expected (B, C, H, W), '
                         '(B, C), (B, C)')
    with torch.autocast(features.device.type, enabled=False):  # sums of squares need float32
        features = features.float()
        mean = features.mean((2, 3), keepdim=True)
        var = features.var((2, 3), correction=0, keepdim=True)
        unit = (features - mean) * (var + eps).rsqrt()
        return scale[..., None, None].float() * unit + shift[..., None, None].float()


def part_textures(maps: torch.Tensor, patch_tokens: torch.Tensor) -> torch.Tensor:
    """Mean patch token under each part map, (B, P, D) (ours; in the paper texture is F_c).

    maps: (B, P, L), not negative. patch_tokens: (B, L, D). Where a patch lies does not enter.
    """
    return torch.einsum('bpl,bld->bpd', F.normalize(maps, p=1, dim=-1), patch_tokens)


def part_ids(maps: torch.Tensor) -> torch.Tensor:
    """Part of every patch (B, L) int64: argmax over the parts of maps (or logits) (B, P, L).

    Sec. 3.2. After a softmax over positions give the logits: there every map sums to 1, so that a
    large part has small values and loses each argmax.
    """
    if maps.ndim != 3:
        raise ValueError(f'maps have shape {tuple(maps.shape)}, expected (B, P, L)')
    return maps.argmax(1)


def foreground_scores(maps: torch.Tensor, from_logits: bool = False) -> torch.Tensor:
    """How likely every patch belongs to the object (B, L), larger is more.

    maps: (B, P, L) part maps of either softmax, or logits with ``from_logits=True``.
    The paper drops patches "most likely to be the background" by the attention maps (Sec. 4.2).
    This is our reading of it; `unlike_border_tokens` ranked better. The maximum over parts of the
    attention normalised over positions: a part that covers the background spreads its 1 over many
    patches, so these score low although the part is sure there.
    """
    if maps.ndim != 3:
        raise ValueError(f'maps have shape {tuple(maps.shape)}, expected (B, P, L)')
    over_positions = maps.softmax(-1) if from_logits else F.normalize(maps, p=1, dim=-1)
    return over_positions.amax(1)


def unlike_border_tokens(patch_tokens: torch.Tensor, grid: int) -> torch.Tensor:
    """How unlike the patches at the border of its image every patch is (B, L), larger is more.

    patch_tokens: (B, L, D) with L = grid * grid. Minus the mean cosine with the tokens at the
    border, all relative to the image's mean token: what is cut by the border is rarely the object.
    Ours. It was better than the part maps on the toy set and on CUB, and on CUB no better than
    `centre_scores` (benchmarks/results/parts).
    """
    with torch.autocast(patch_tokens.device.type, enabled=False):  # or many scores would be equal
        tokens = patch_tokens.float()
        unit = F.normalize(tokens - tokens.mean(1, keepdim=True), dim=-1)
        border = unit[:, border_ring(grid, unit.device)].mean(1)
        return -torch.einsum('bld,bd->bl', unit, border)


def unlike_border_parts(maps: torch.Tensor, grid: int) -> torch.Tensor:
    """The same (B, L) of part maps (B, P, L) in which each patch distributes 1 over the parts.

    Minus the expected share of the border that the patch's part covers (ours).
    """
    return -(maps * border_share(maps, grid)[..., None]).sum(1)


def centre_scores(grid: int, device=None) -> torch.Tensor:
    """Minus the distance of every patch from the middle of the image (L,), in image sides (ours).

    What a ranking of the foreground is worth that never looks at the image: the floor of all.
    """
    line = (torch.arange(grid, device=device) + .5) / grid - .5
    return -torch.cartesian_prod(line, line).norm(dim=-1)


def border_share(maps: torch.Tensor, grid: int) -> torch.Tensor:
    """How much of the ring of patches at the border each of the maps (B, P, L) covers, (B, P)."""
    return maps[..., border_ring(grid, maps.device)].mean(-1)


def border_ring(grid: int, device=None) -> torch.Tensor:
    """(grid * grid,) bool, true for the patches at the border of an image."""
    at = torch.arange(grid ** 2, device=device)
    row, column = at // grid, at % grid
    return (row == 0) | (row == grid - 1) | (column == 0) | (column == grid - 1)


def voronoi_ids(points: torch.Tensor, grid: int) -> torch.Tensor:
    """Nearest of the points (B, P, 2), y and x in [0, 1], to the centre of every patch (B, L)."""
    line = (torch.arange(grid, device=points.device) + .5) / grid
    centres = torch.stack(torch.meshgrid(line, line, indexing='ij'), -1).flatten(0, 1)
    return torch.cdist(centres.to(points), points).argmin(-1)


def off_diagonal_cosines(maps: torch.Tensor) -> torch.Tensor:
    """Cosines (B, P, P) of all pairs of part maps (B, P, L), 0 on the diagonal (for Eq. 6).

    In float32 under autocast too: maps that are nearly alike differ in the last digits only.
    """
    if maps.ndim != 3:
        raise ValueError(f'maps have shape {tuple(maps.shape)}, expected (B, P, L)')
    with torch.autocast(maps.device.type, enabled=False):
        unit = F.normalize(maps.float(), dim=-1)
        cosines = torch.einsum('bil,bjl->bij', unit, unit)
    return cosines * (1 - torch.eye(maps.shape[1], device=maps.device))


def foreground_ids(scores: torch.Tensor, keep: int) -> torch.Tensor:
    """Positions (B, keep) int64, ascending, of the ``keep`` highest scores (B, L) (Sec. 4.2).

    Of equal scores the one at the lower position is kept first.
    """
    if scores.ndim != 2 or not 0 < keep <= scores.shape[1]:
        raise ValueError(f'scores have shape {tuple(scores.shape)} and keep is {keep}, expected '
                         '(B, L) and 1 to L')
    return scores.argsort(dim=1, descending=True, stable=True)[:, :keep].sort(1).values


def signs_of_collapse(coverage, off_diagonal_cosine, largest_share, explained) -> list:
    """Sentences on what is wrong with part maps whose means over a data set are given; [] if sound.

    coverage: (P,) shares of all patches. explained: share of the variation within images that is
    reconstructed. The limits are ours. That of the cosine is high because maps that were alike to
    .96 still had an argmax as good as others (benchmarks/results/parts/README.md).
    """
    dead = [i for i, share in enumerate(coverage) if share < .001]
    said = []
    if off_diagonal_cosine > .99:
        said.append(f'the maps are all alike (mean cosine {off_diagonal_cosine:.3f}): which part '
                    'wins a patch is chance')
    if largest_share > .95:
        said.append(f'one part holds {largest_share:.0%} of an image')
    if 2 * len(dead) >= len(coverage):
        said.append(f'{len(dead)} of {len(coverage)} parts are never seen ({dead})')
    if not explained > .1:
        said.append(f'the reconstruction explains {explained:.0%} of what varies in an image, so '
                    'the parts follow nothing in it')
    return said


def part_health(maps: torch.Tensor) -> dict[str, torch.Tensor]:
    """Signs of collapse of the part maps (B, P, L), as tensors that need no synchronisation.

    coverage: (P,) share of all patches that each part wins; 0 is a dead part.
    num_empty: parts that win no patch, mean over images.
    largest_share: share of the patches that the biggest part wins, mean over images.
    entropy: of the shares of the parts, in nats, mean over images; log(P) is equal parts.
    off_diagonal_cosine: of two different maps, mean over pairs and images; 1 is all alike.
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
