"""The contract of a backbone, and the forms of its features.

B images, L = h x w patches, X prefix tokens (class token, then registers), D channels.

A backbone is called with images (B, 3, H, W) and returns a tuple of features, one for each layer of
``out_indices``, in the form ``out_type``:

    'cls_token'    (B, D), the class token
    'avg_featmap'  (B, D), the mean of the patch tokens
    'featmap'      (B, D, h, w), the patch tokens at their places
    'raw'          (B, X + L, D), all tokens, prefix first

It has the attributes ``embed_dims`` (D), ``patch_size``, ``patch_resolution`` ((h, w) at
``img_size``), ``out_type``, ``num_prefix`` (X), ``load_report`` (None for random weights) and
``get_layer_depth``, by which layer decay finds the layer of a parameter. `ViT` and `TimmViT` keep
this contract. `WrappedBackbone` gives any network the call, ``num_prefix``, ``load_report`` and
``get_layer_depth``; its sizes may be None. Models of mmpretrain and mmseg need only the call.
"""
OUT_TYPES = ('cls_token', 'avg_featmap', 'featmap', 'raw')


def require_out_type(out_type, has_class_token, name):
    """Raises ValueError for an unknown form, and for a class token that the network lacks."""
    if out_type not in OUT_TYPES:
        raise ValueError(f'{name}: got out_type={out_type!r}, expected one of {OUT_TYPES}')
    if out_type == 'cls_token' and not has_class_token:
        raise ValueError(f"{name} has no class token, got out_type='cls_token'. Expected "
                         "out_type='avg_featmap' (mean of the patch tokens), 'featmap' or 'raw'")


def formatted(tokens, num_prefix, grid, out_type):
    """Tokens (B, X + L, D) of a layer in the form ``out_type``; grid: (h, w)."""
    if out_type == 'raw':
        return tokens
    if out_type == 'cls_token':
        return tokens[:, 0]
    patches = tokens[:, num_prefix:]
    if out_type == 'avg_featmap':
        return patches.mean(1)
    return patches.unflatten(1, grid).permute(0, 3, 1, 2).contiguous()


def grid_of(num_patches, images):
    """(h, w) of L square patches of images (B, 3, H, W); ValueError if there is no such grid."""
    height, width = images.shape[-2:]
    h = round((num_patches * height / width) ** .5)
    if h < 1 or num_patches % h or abs(height / h - width / (num_patches // h)) > 1e-6 * height:
        raise ValueError(f'{num_patches} patch tokens are no grid of square patches in images of '
                         f'{height}x{width} pixels. Expected num_prefix of the backbone to be the '
                         'number of tokens before the patches. For patches that are not square, '
                         'set grid of semmae.WrappedBackbone')
    return h, num_patches // h
