"""The pipeline of a config without its random steps."""
from ..datasets.geometry import Role, role_of, view_of


def without_random_steps(cfg):
    """The config's training pipeline without flips and crops, at their resolution.

    A crop is replaced by a resize to its output size; one that resamples part maps keeps its grid.
    Where crops are of the full photo, the view is its centre crop.
    """
    steps = []
    for step in cfg.train_dataloader.dataset.dataset.pipeline:
        role = role_of(step)
        if role is Role.READ_CROP:
            side = step['scale']
            steps.append(dict(type='semmae.LoadCenterCrop',
                              size=side if isinstance(side, int) else side[0]))
        elif role in (Role.PART_CROP, Role.PHOTO_CROP):
            steps = at_side(steps, step)
            if step.get('grid'):
                steps.append(dict(step, crop_ratio_range=(1., 1.), aspect_ratio_range=(1., 1.)))
        elif role is not Role.FLIP:
            steps.append(dict(step, flip_prob=0.) if role is Role.READ_VIEW else step)
    return steps


def at_side(steps, crop):
    """The steps before a random crop, with the same view at the crop's output size.

    Raises ValueError where rounding would change the view.
    """
    side, view = crop['scale'], view_of(steps)
    if not view:  # crops of the full photo
        how = {key: crop[key] for key in ('backend', 'interpolation') if key in crop}
        return [*steps, dict(type='mmpretrain.ResizeEdge', scale=side, edge='short', **how),
                dict(type='mmpretrain.CenterCrop', crop_size=side)]
    if any(role_of(s) is Role.READ_VIEW for s in steps):  # same view at any size
        return [dict(type='semmae.LoadCenterCrop', size=side) if role_of(s) is Role.READ_VIEW else s
                for s in steps]
    larger = next(s['crop_size'] for s in steps if role_of(s) is Role.CENTER_CROP)
    keys: dict = {Role.RESIZE: 'scale', Role.CENTER_CROP: 'crop_size'}
    steps = [dict(s, **{key: round(s[key] * side / larger)}) if (key := keys.get(role_of(s))) else s
             for s in steps]
    if view_of(steps) != view:
        raise ValueError(f'got a view of {larger} pixels ({", ".join(view)}), which is not the '
                         f'same at the {side} pixels of the crops. Choose ResizeEdge and '
                         f'CenterCrop as whole multiples of their values at {side}')
    return steps
