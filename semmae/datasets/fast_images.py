"""Images read, cropped, resized and mirrored in one step, of which no more is decoded than shows.

``results['img']`` is (size, size, 3) uint8 BGR, as after the steps of mmpretrain that are replaced,
but a view of planar memory (3, size, size): packing it moves no pixel about.

Pixels differ from those of the replaced steps by rounding (torch's bicubic kernel for bytes in
place of Pillow's, equally far from exact arithmetic and several times as fast), and more where
libjpeg shrinks the image while it decodes.
"""
import io
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmpretrain.datasets import RandomResizedCrop
from PIL import Image

from ..registry import TRANSFORMS
from .transforms import MAPS

REDUCED = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4,
           1: cv2.IMREAD_COLOR}


def upright_jpeg_size(content):
    """(height, width) in the header of a JPEG that its EXIF tag leaves as it is, else None.

    Pillow is asked only where there may be such a tag: opening costs as much as drawing a crop.
    """
    at = 2
    while content[:2] == b'\xff\xd8' and content[at:at + 1] == b'\xff':
        marker, body = content[at + 1:at + 2], content[at + 4:at + 9]
        if marker == b'\xe1':  # EXIF or XMP
            return size_if_upright(content)
        if marker in (b'\xc0', b'\xc1', b'\xc2') and len(body) == 5:  # start of frame
            return int.from_bytes(body[1:3], 'big'), int.from_bytes(body[3:], 'big')
        at += 2 + int.from_bytes(content[at + 2:at + 4], 'big')
    return None


def size_if_upright(content):
    try:
        with Image.open(io.BytesIO(content), formats=('JPEG',)) as image:
            return image.size[::-1] if image.getexif().get(0x0112, 1) == 1 else None
    except Exception:  # whatever is wrong with it, the decoder finds it too, and says the file
        return None


def decode(content, path, factor=1):
    """(H, W, 3) uint8 BGR as mmcv decodes it: turned by EXIF, three channels of any colour mode.

    factor: 1, 4 or 8, by which a JPEG is shrunk while it is decoded; sides are rounded up.
    """
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), REDUCED[factor])
    except cv2.error as error:
        reason = f'{len(content)} bytes, {error.err}'
    else:
        reason = reason_of(content) if image is None else None
    if reason:
        raise ValueError(f'{path} cannot be decoded: {reason}. Replace or remove the file')
    return image


def reason_of(content):
    """Why an image cannot be decoded, in Pillow's words."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
    except Image.UnidentifiedImageError:
        return f'{len(content)} bytes that are no image of a known format'
    except Exception as error:
        return str(error)
    return 'OpenCV does not read it'


def draft_factor(height, width, size):
    """The largest of 8, 4, 1 by which a region may shrink and still have ``size`` each way.

    Not 2: what decoding saves then, `resize_reduced` costs more than `resize`.
    """
    return next(f for f in REDUCED if f == 1 or min(height, width) >= f * size)


def resize(image, size):
    """(3, height, width) of image (H, W, 3) uint8, bicubic with antialiasing. size: (height, width)

    An image of that size stays as it is.
    """
    planes = torch.from_numpy(image).permute(2, 0, 1)
    if planes.shape[1:] != size:
        planes = torch.nn.functional.interpolate(planes[None], size, mode='bicubic',
                                                 antialias=True)[0]
    return planes.contiguous()


def resize_reduced(image, box, factor, size):
    """`resize` of a box, in pixels of the file, out of an image that was decoded 1 / factor as big.

    Corners fall between pixels there, which torch's kernel does not know and Pillow's does.
    """
    top, left, height, width = box
    first = top // factor, left // factor
    last = -(-(top + height) // factor), -(-(left + width) // factor)
    part = Image.fromarray(np.ascontiguousarray(image[first[0]:last[0], first[1]:last[1]]))
    x, y = left / factor - first[1], top / factor - first[0]
    part = part.resize(size[::-1], Image.Resampling.BICUBIC,
                       box=(x, y, min(x + width / factor, part.width),
                            min(y + height / factor, part.height)))
    return torch.from_numpy(np.array(part)).permute(2, 0, 1).contiguous()


def mirror(planes, results, prob):
    """Image and part maps mirrored with probability ``prob``; draws as `FlipWithParts` does."""
    results['flip'] = bool(np.random.rand() < prob)
    if not results['flip']:
        return planes
    results['flip_direction'] = 'horizontal'
    for key in MAPS:
        if key in results:
            results[key] = np.ascontiguousarray(results[key][:, ::-1])
    return planes.flip(2)


def as_image(planes):
    """(H, W, 3) view of planes (3, H, W)."""
    return planes.numpy().transpose(1, 2, 0)


@TRANSFORMS.register_module()
class LoadRandomResizedCrop(RandomResizedCrop):
    """LoadImageFromFile, RandomResizedCrop (bicubic, pillow) and RandomFlip in one step.

    The box and the flip are drawn as by those, so that the same seed gives the same crops. It does
    not take part maps along: they cover a view, not the full photo.

    draft: let libjpeg shrink the image by 4 or 8 where the crop keeps ``scale`` pixels each way;
        changes pixels more than rounding does. Images turned by their EXIF tag and those that are
        not JPEG are always decoded in full.

    ``results['crop_box']``: left, top, width and height in pixels of the photo.
    """

    def __init__(self, scale, crop_ratio_range=(0.08, 1.0), aspect_ratio_range=(3 / 4, 4 / 3),
                 flip_prob=0.5, draft=True):
        super().__init__(scale, crop_ratio_range, aspect_ratio_range,
                         interpolation='bicubic', backend='pillow')
        self.scale, self.flip_prob, self.draft = tuple(self.scale), flip_prob, draft

    def transform(self, results):
        path = results['img_path']
        if any(key in results for key in MAPS):
            raise ValueError(f'{path}: found a part map, which covers a view and not the full '
                             'photo. Use semmae.RandomResizedCropWithParts')
        content = Path(path).read_bytes()
        shape, image = upright_jpeg_size(content), None
        if shape is None or not self.draft:
            image = decode(content, path)
            shape = image.shape[:2]
        box = self.rand_crop_params(SimpleNamespace(shape=shape))
        top, left, height, width = box
        factor = draft_factor(height, width, max(self.scale)) if image is None else 1
        if image is None:
            image = decode_as(shape, content, path, factor)
        planes = (resize(image[top:top + height, left:left + width], self.scale) if factor == 1
                  else resize_reduced(image, box, factor, self.scale))
        results.update(crop_box=(left, top, width, height), ori_shape=shape, img_shape=self.scale)
        results['img'] = as_image(mirror(planes, results, self.flip_prob))
        return results


def decode_as(shape, content, path, factor):
    """`decode`, or a ValueError where the image has not the size that its header says."""
    image = decode(content, path, factor)
    wanted = tuple(-(-side // factor) for side in shape)
    if image.shape[:2] != wanted:
        raise ValueError(f'{path}: decoded to {image.shape[1]}x{image.shape[0]} pixels, its header '
                         f'says {wanted[1]}x{wanted[0]} at 1/{factor}. Write the image again')
    return image


@TRANSFORMS.register_module()
class LoadCenterCrop(BaseTransform):
    """LoadImageFromFile, ResizeEdge (short, bicubic, pillow), CenterCrop, FlipWithParts in one.

    size: of both, in pixels: the whole of the short side shows.
    draft: as in `LoadRandomResizedCrop`, of the whole image.
    """

    def __init__(self, size, flip_prob=0., draft=True):
        self.size, self.flip_prob, self.draft = size, flip_prob, draft

    def view(self):
        """What it shows, in words that identify pixels: for caches."""
        return f'short side {self.size}, bicubic, centre crop{", draft" if self.draft else ""}'

    def read(self, path):
        """(planes (3, size, size) uint8 BGR, (height, width) of the file, (height, width))."""
        content = Path(path).read_bytes()
        shape, factor = upright_jpeg_size(content), 1
        if self.draft and shape is not None:
            factor = draft_factor(*shape, self.size)
            image = decode_as(shape, content, path, factor)
        else:
            image = decode(content, path)
            shape = image.shape[:2]
        height, width = shape
        # As mmpretrain rounds: the long side down.
        resized = ((int(self.size * height / width), self.size) if width < height else
                   (self.size, int(self.size * width / height)))
        planes = (resize(image, resized) if factor == 1 else
                  resize_reduced(image, (0, 0, *shape), factor, resized))
        # As mmcv's CenterCrop rounds: a half to the even number.
        top, left = (round((full - self.size) / 2) for full in resized)
        return (planes[:, top:top + self.size, left:left + self.size].contiguous(), shape, resized)

    def transform(self, results):
        planes, (height, width), resized = self.read(results['img_path'])
        results.update(ori_shape=(height, width), img_shape=(self.size, self.size),
                       scale=resized[::-1], scale_factor=(resized[1] / width, resized[0] / height))
        results['img'] = as_image(mirror(planes, results, self.flip_prob))
        return results
