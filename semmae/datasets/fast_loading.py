"""Transforms that read, crop, resize and mirror an image in one step.

``results['img']`` is (size, size, 3) uint8 BGR, as after the steps of mmpretrain that they replace.
It is a view of planar RGB memory (3, size, size), so packing copies nothing.

Pixels differ from those of the replaced steps by rounding only: torch's bicubic kernel for bytes is
as far from exact arithmetic as Pillow's and several times as fast. simplejpeg decodes plain JPEGs
bit-identically to OpenCV, a little faster, and stops below a crop. The decoders of torchvision and
Pillow, and shrinking in libjpeg, are not faster at ImageNet's sizes.
"""
import contextlib
from types import SimpleNamespace

import cv2
import numpy as np
import simplejpeg
import torch
from mmcv.transforms import BaseTransform
from mmpretrain.datasets import RandomResizedCrop

from ..registry import TRANSFORMS
from .geometry import Role
from .image_files import MAX_PIXELS, decoding, not_decoded, orientation, read_header, why_not
from .image_reading import read_bytes
from .transforms import MAPS, mirror

PLAIN = {0xe0, 0xe2, 0xed, 0xee, 0xdb, 0xc4, 0xfe}  # JFIF, ICC, Photoshop, Adobe, tables, comments


def content_of(path):
    """A file as a writable (N,) uint8 array. Raises DamagedImage as `read_bytes` does."""
    return np.frombuffer(bytearray(read_bytes(path)), np.uint8)


def decode(content, path):
    """(H, W, 3) uint8 BGR as mmcv decodes it: turned by EXIF, three channels for any colour mode.

    Raises DamagedImage for files that `LoadImage` refuses.
    """
    header, flag = None, cv2.IMREAD_COLOR
    if plain_frame(content):  # size and mode are checked; there is no EXIF to turn it
        image = decode_plain(content)
        if image is not None:
            return image
    else:
        header = read_header(content.tobytes(), path)
        if 'exif' in header.info and orientation(header) is None:
            flag |= cv2.IMREAD_IGNORE_ORIENTATION  # OpenCV guesses with damaged EXIF
    with decoding(path):
        image = cv2.imdecode(content, flag)
    if image is None:
        raise not_decoded(path, why_not(header or read_header(content.tobytes(), path)))
    return image


def decode_plain(content, strict=True):
    """(H, W, 3) uint8 BGR of a JPEG with a `plain_frame`, or None if libjpeg reports an error.

    strict: a warning of libjpeg counts as an error.
    """
    with contextlib.suppress(ValueError):
        return simplejpeg.decode_jpeg(content, 'BGR', strict=strict)
    return None


def plain_frame(content):
    """(offset of the height in the file, height, width) of a plain JPEG, else None.

    Plain: complete, grey or of three colours, one scan without restart markers, at most MAX_PIXELS,
    and no EXIF. content: (N,) uint8.
    """
    head, at, frame = content[:4096].tobytes(), 2, None
    if head[:2] != b'\xff\xd8' or content[-2:].tobytes() != b'\xff\xd9':
        return None
    while at + 10 < len(head) and head[at] == 0xff:
        marker, length = head[at + 1], head[at + 2] << 8 | head[at + 3]
        if marker == 0xc0:  # baseline frame, with the sampling of each component
            count, height = head[at + 9], head[at + 5] << 8 | head[at + 6]
            width = head[at + 7] << 8 | head[at + 8]
            if (count in (1, 3) and 0 < height * width <= MAX_PIXELS
                    and max(head[at + 11:at + 11 + 3 * count:3], default=3) & 15 <= 2):
                frame = at + 5, height, width
        elif marker == 0xda:  # scan
            return frame if frame and head[at + 4] == count else None
        elif marker not in PLAIN:
            return None
        at += 2 + length
    return None


def decode_above(content, path, bottom, frame):
    """The rows of `decode` above ``bottom``, or more, for a JPEG with this `plain_frame`.

    libjpeg stops at a smaller height in the header; without an end marker it ignores the rest.
    """
    at, height, width = frame
    # For the last row libjpeg needs the colour of two more; it decodes 8 or 16 rows at a time.
    rows = -(-(bottom + 2) // 16) * 16
    if rows < height:
        content[at:at + 2] = rows >> 8, rows & 255
        image = decode_plain(content[:-2], strict=False)
        if image is not None and image.shape[:2] == (rows, width):
            return image
        content[at:at + 2] = height >> 8, height & 255
    return decode(content, path)


def resize(image, size):
    """Image (H, W, 3) uint8 at ``size`` (height, width), bicubic with antialiasing."""
    if image.shape[:2] == size:
        return image
    batch = torch.from_numpy(image)[None].permute(0, 3, 1, 2)  # strides of channels last
    resized = torch.nn.functional.interpolate(batch, size, mode='bicubic', antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


def planar(image):
    """The same image (H, W, 3) BGR as a view of planar RGB memory (3, H, W)."""
    planes = np.empty((3, *image.shape[:2]), np.uint8)[::-1]
    cv2.split(image, list(planes))
    return planes.transpose(1, 2, 0)


@TRANSFORMS.register_module()
class LoadRandomResizedCrop(RandomResizedCrop):
    """LoadImageFromFile, RandomResizedCrop (bicubic, pillow) and RandomFlip in one step.

    Box and flip are drawn as in those steps, so the same seed gives the same crops. Part maps raise
    an error because they cover a view, not the full photo.

    ``results['crop_box']``: left, top, width and height in pixels of the photo.
    """

    role = Role.READ_CROP

    def __init__(self, scale, crop_ratio_range=(0.08, 1.0), flip_prob=0.5):
        super().__init__(scale, crop_ratio_range, interpolation='bicubic', backend='pillow')
        self.size = (scale, scale) if isinstance(scale, int) else tuple(scale)
        self.flip_prob = flip_prob

    def transform(self, results):
        path = results['img_path']
        if any(key in results for key in MAPS):
            raise ValueError(f'{path}: got a part map, which covers a view and not the full '
                             'photo. Use semmae.RandomResizedCropWithParts')
        content = content_of(path)
        frame = plain_frame(content)
        whole = None if frame else decode(content, path)
        shape = frame[1:] if whole is None else whole.shape[:2]
        top, left, height, width = self.rand_crop_params(SimpleNamespace(shape=shape))
        image = decode_above(content, path, top + height, frame) if whole is None else whole
        image = resize(image[top:top + height, left:left + width], self.size)
        results.update(crop_box=(left, top, width, height), ori_shape=shape, img_shape=self.size)
        results['img'] = planar(mirror(image, results, self.flip_prob))
        return results


@TRANSFORMS.register_module()
class LoadCenterCrop(BaseTransform):
    """LoadImageFromFile, ResizeEdge (short, bicubic, pillow), CenterCrop, FlipWithParts in one.

    size: pixels of the short side after resizing, and of a side of the crop.
    """

    role = Role.READ_VIEW

    def __init__(self, size, flip_prob=0.):
        self.size, self.flip_prob = size, flip_prob

    def view(self):
        """A text that identifies the pixels of the view, for caches."""
        return f'short side {self.size}, bicubic, centre crop'

    def read(self, path):
        """(view (size, size, 3) uint8 BGR, (height, width) of the file, (height, width))."""
        image = decode(content_of(path), path)
        height, width = image.shape[:2]
        # mmpretrain rounds the long side down.
        resized = ((int(self.size * height / width), self.size) if width < height else
                   (self.size, int(self.size * width / height)))
        # mmcv's CenterCrop rounds a half to the even number.
        top, left = (round((full - self.size) / 2) for full in resized)
        view = resize(image, resized)[top:top + self.size, left:left + self.size]
        return view, (height, width), resized

    def transform(self, results):
        image, (height, width), resized = self.read(results['img_path'])
        results.update(ori_shape=(height, width), img_shape=(self.size, self.size),
                       scale=resized[::-1], scale_factor=(resized[1] / width, resized[0] / height))
        results['img'] = planar(mirror(image, results, self.flip_prob))
        return results
