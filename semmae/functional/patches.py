"""Images as patches and back, and positions of patches (MAE).

B images, C colours, H W pixels, h w patches along each side, L = h * w patches in row-major order,
p patch side, D channels, K chosen positions.
"""
import torch
import torch.nn.functional as F


def patchify(images: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Patches (B, L, p * p * C) of images (B, C, H, W), colour fastest (MAE).

    Raises ValueError where H or W is not a multiple of ``patch_size``; they may differ.
    """
    return _cut(images, patch_size).reshape(
        len(images), -1, patch_size ** 2 * images.shape[1])


def patches_at(images: torch.Tensor, patch_size: int, ids: torch.Tensor) -> torch.Tensor:
    """The patches (B, K, p * p * C) of images (B, C, H, W) at positions ids (B, K).

    Equal to `gather_positions` of `patchify`, but does not copy the other patches.
    Raises ValueError as `patchify`, and for other shapes of ``ids``.
    """
    patches = _cut(images, patch_size)
    if ids.ndim != 2 or len(ids) != len(images):
        raise ValueError(f'ids have shape {tuple(ids.shape)} for {len(images)} images, expected '
                         '(B, K)')
    rows = torch.arange(len(ids), device=ids.device)[:, None]
    w = patches.shape[2]
    return patches[rows, ids // w, ids % w].flatten(2)


def _cut(images: torch.Tensor, patch_size: int) -> torch.Tensor:
    """(B, h, w, p, p, C) view of images (B, C, H, W)."""
    if images.ndim != 4 or images.shape[2] % patch_size or images.shape[3] % patch_size:
        raise ValueError(f'images have shape {tuple(images.shape)}, expected (B, C, H, W) with H '
                         f'and W multiples of patch_size={patch_size}')
    b, c, height, width = images.shape
    x = images.reshape(b, c, height // patch_size, patch_size, width // patch_size, patch_size)
    return x.permute(0, 2, 4, 3, 5, 1)


def unpatchify(patches: torch.Tensor, patch_size: int,
               grid: tuple[int, int] | None = None) -> torch.Tensor:
    """Images (B, C, H, W) of patches (B, L, p * p * C): the inverse of `patchify`.

    grid: (h, w); None: square. Raises ValueError where L or the last axis does not fit.
    """
    b, length, size = patches.shape
    h, w = (round(length ** 0.5),) * 2 if grid is None else grid
    if h * w != length:
        raise ValueError(f'{length} patches do not fill a grid of {h}x{w}; pass grid=(h, w)')
    if size % patch_size ** 2:
        raise ValueError(f'patches have {size} values, expected a multiple of '
                         f'patch_size**2 = {patch_size ** 2}')
    x = patches.reshape(b, h, w, patch_size, patch_size, -1)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(b, -1, h * patch_size, w * patch_size)


def normalize_patches(patches: torch.Tensor) -> torch.Tensor:
    """Each patch (..., p * p * C) with mean 0 and variance 1: MAE's ``norm_pix_loss`` target.

    The variance is the unbiased one plus 1e-6, as in MAE (official code).
    """
    # Layer norm is one pass over the pixels. Its variance is the biased one, smaller by `bias`.
    bias = 1 - 1 / patches.shape[-1]
    return F.layer_norm(patches, patches.shape[-1:], eps=1e-6 * bias) * bias ** .5


def gather_positions(x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """The entries (B, K, ...) of x (B, L, ...) at the positions ids (B, K).

    A batch of 1 in x (position embeddings) is used for every row of ``ids``.
    Raises ValueError for other shapes.
    """
    if ids.ndim != 2 or x.ndim < 2 or x.shape[0] not in (1, ids.shape[0]):
        raise ValueError(f'x has shape {tuple(x.shape)} and ids {tuple(ids.shape)}, expected '
                         '(B, L, ...) and (B, K)')
    if len(x) == 1:  # copies whole rows: many times faster on a CPU
        return x[0].index_select(0, ids.flatten()).unflatten(0, ids.shape)
    index = ids.reshape(*ids.shape, *(1,) * (x.ndim - 2)).expand(*ids.shape, *x.shape[2:])
    return x.gather(1, index)


def sincos_position_embedding(embed_dim: int, grid: int | tuple[int, int]) -> torch.Tensor:
    """Fixed 2-D sine-cosine position embedding (1, 1 + L, D); zeros for the class token (MAE).

    grid: (h, w), or the side of a square. The first half of the channels encodes the row, the
    second half the column, each as sines, then cosines. This is mmpretrain's order, so checkpoints
    of both agree; the official MAE code has the two halves in the other order. Unlike in
    mmpretrain, positions on a grid that is not square are in row-major order.
    Raises ValueError where ``embed_dim`` is not a multiple of 4.
    """
    if embed_dim % 4:
        raise ValueError(f'embed_dim is {embed_dim}, expected a multiple of 4: sine and cosine of '
                         'rows and of columns')
    h, w = (grid, grid) if isinstance(grid, int) else grid
    quarter = embed_dim // 4
    omega = 1. / 10000. ** (torch.arange(quarter, dtype=torch.float32) / quarter)
    rows = torch.arange(h, dtype=torch.float32).repeat_interleave(w)[:, None] * omega
    columns = torch.arange(w, dtype=torch.float32).repeat(h)[:, None] * omega
    patches = torch.cat([rows.sin(), rows.cos(), columns.sin(), columns.cos()], 1)
    return torch.cat([torch.zeros(1, embed_dim), patches])[None]
