"""What transforms do to an image, and which pipelines keep it aligned with its part map.

A transform of ours states its ``role``; `OTHERS` states the roles of transforms of other libraries.
The view is the part of an image that a pipeline shows without its random steps.
"""
from enum import Enum

from ..registry import TRANSFORMS  # first: it leaves out what the forks print on import

# isort: split
from mmcv.transforms import CenterCrop, LoadImageFromFile
from mmpretrain.datasets import PackInputs, RandomResizedCrop, ResizeEdge
from mmseg.datasets import LoadAnnotations, PackSegInputs


class Role(Enum):
    """What a transform does to the image of a sample."""

    READ = 'reads a whole photo or its labels'
    READ_VIEW = 'reads the view of a photo; may mirror it with its part map'
    READ_CROP = 'reads a random crop of a photo'
    RESIZE = 'resizes the photo, the first step of a view'
    CENTER_CROP = 'crops the resized photo, the second step of a view'
    PHOTO_CROP = 'crops the photo at random, without its part map'
    PART_CROP = 'crops the view at random, with its part map'
    FLIP = 'mirrors the view at random, with its part map'
    TRUTH = 'reads the true parts of the view'
    PACK = 'packs the sample'


OTHERS = {LoadImageFromFile: Role.READ, LoadAnnotations: Role.READ, ResizeEdge: Role.RESIZE,
          CenterCrop: Role.CENTER_CROP, RandomResizedCrop: Role.PHOTO_CROP,
          PackInputs: Role.PACK, PackSegInputs: Role.PACK}
RANDOM = (Role.FLIP, Role.PART_CROP)
FULL_VIEW = ('short side resized', 'centre crop of 1.000')
ORDER = ('With a part store or true parts, the steps are semmae.LoadCenterCrop (or '
         'semmae.LoadImage, mmpretrain.ResizeEdge and mmpretrain.CenterCrop), '
         'semmae.RandomResizedCropWithParts (in place of RandomResizedCrop), semmae.FlipWithParts '
         '(in place of RandomFlip) or semmae.LoadPartTruth, and semmae.PackImage, in this order')


def role_of(step) -> Role | None:
    """The role of a step of a config, by its class; None if the class states none.

    A name without a scope is looked up in all libraries, as a runner does.
    """
    kind = step['type']
    if not isinstance(kind, type):
        found = (TRANSFORMS.get(name) for name in (kind, f'mmpretrain.{kind}', f'mmseg.{kind}'))
        kind = next(filter(None, found), None)
    return getattr(kind, 'role', None) or OTHERS.get(kind)


def name_of(step) -> str:
    """The name of a step's class without its library."""
    return getattr(step['type'], '__name__', step['type']).split('.')[-1]


def view_of(pipeline) -> list:
    """Which part of an image a pipeline shows, independent of resolution, for part stores.

    Random steps that also move the part map start from that view and do not count.
    Raises ValueError for a step that would move the image and not its part map.
    """
    view: list[str] = []
    before: dict[Role | None, str] = {}
    scale = 0
    for step in pipeline:
        role, name = role_of(step), name_of(step)
        moved = next((before[r] for r in RANDOM if r in before), None)
        if moved and role in (Role.RESIZE, Role.CENTER_CROP):
            raise ValueError(f'{name} after {moved} would move images away from their part maps. '
                             f'{ORDER}')
        if role is Role.PART_CROP and not {Role.CENTER_CROP, Role.READ_VIEW} & {*before}:
            raise ValueError(f'got {name} without a CenterCrop before it, expected crops of the '
                             f'view that part stores cover. {ORDER}')
        if role is Role.RESIZE:
            scale = step['scale']
            view.append(f'{step.get("edge", "short")} side resized')
        elif role is Role.CENTER_CROP and scale:
            view.append(f'centre crop of {step["crop_size"] / scale:.3f}')
        elif role is Role.READ_VIEW:
            view += FULL_VIEW
        elif role not in (Role.READ, Role.TRUTH, Role.PACK, *RANDOM):
            raise ValueError(f'{name} would move images away from their part maps. {ORDER}')
        before.setdefault(role, name)
    return view


def check_truth_steps(pipeline):
    """ValueError where a pipeline with LoadPartTruth moves the image and not its true parts."""
    steps = [step for step in pipeline if isinstance(step, dict)]
    roles = [role_of(step) for step in steps]
    if Role.TRUTH in roles:
        view_of(steps)
        after = roles[roles.index(Role.TRUTH) + 1:]
        flips = any(step.get('flip_prob') for step in steps)
        if flips or {*roles} & {*RANDOM} or {*after} - {Role.PACK}:
            raise ValueError(f"got the steps {', '.join(map(name_of, steps))}; expected no flip, "
                             'no random crop, and semmae.LoadPartTruth after all others but '
                             'semmae.PackImage. flip_prob=0. is allowed')
