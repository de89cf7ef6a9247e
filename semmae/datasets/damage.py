"""Images and label maps from the wild: what cannot be read is refused with its name and the reason.

Good files give the pixels of mmcv's and mmseg's own steps. What is not refused but decided here:
16-bit gray becomes 8 bits by dropping the low byte, with either decoder, and an image turned by its
EXIF tag is refused where a label map stands beside it, which would not be turned.
"""
import io
import warnings

import mmcv
import numpy as np
import torch
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio
from mmengine.logging import print_log
from mmseg.datasets import LoadAnnotations as MMSegLoadAnnotations
from PIL import Image

from ..registry import DATASETS, TRANSFORMS
from .seeded import Seeded

MAX_PIXELS = 178_956_970  # where Pillow calls it an attack: 512 MiB of 3 channels
MODES = ('1', 'L', 'LA', 'La', 'P', 'PA', 'RGB', 'RGBA', 'RGBa', 'RGBX', 'CMYK', 'YCbCr', 'LAB',
         'HSV', 'I;16', 'I;16B', 'I;16L', 'I;16N')


class DamagedImage(ValueError):
    """An image file that cannot be used; the message names it and says why."""


def read_bytes(path, backend_args=None) -> bytes:
    """A file's content. Raises DamagedImage if it is missing, a folder, unreadable or empty."""
    try:
        content = fileio.get(path, backend_args=backend_args)
    except OSError as error:
        raise DamagedImage(f'{path} cannot be read: {error.strerror or error}. Replace or '
                           'remove the file') from None
    if not content:
        raise DamagedImage(f'{path} cannot be read: it is empty, 0 bytes. Replace or remove it')
    return content


def read_header(content, path, max_pixels=MAX_PIXELS):
    """Pillow's image of the bytes, not decoded. Raises DamagedImage for what should not be."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content))
    except Image.UnidentifiedImageError:
        reason = f'{len(content)} bytes that are no image of a known format'
    except Exception as error:      # pillow raises what it likes
        reason = str(error) or type(error).__name__
    else:
        width, height = image.size
        if width * height > max_pixels:
            reason = f'{width}x{height} pixels, expected at most {max_pixels:,} in all'
        elif image.mode not in MODES:
            reason = f'pixels of mode {image.mode}, expected 8 bits or 16-bit gray'
        elif image.format == 'JPEG' and content.rfind(b'\xff\xd9') < content.rfind(b'\xff\xda'):
            reason = f'a JPEG of {len(content)} bytes that ends before its end marker'
        else:
            return image
    raise DamagedImage(f'{path} cannot be decoded: {reason}. Replace or remove the file')


@TRANSFORMS.register_module()
class LoadImage(LoadImageFromFile):
    """mmcv's LoadImageFromFile whose every error is a DamagedImage that names the file.

    ``results['img']``: (H, W, 3) uint8 BGR of any colour mode, turned by EXIF, with
    ``results['is_turned']`` where it was. max_pixels: of a file; a larger one is not decoded
    (ours). A JPEG whose bytes are wrong in the middle but that ends well decodes to wrong pixels
    without an error. `tools/check_data.py --decode` finds those of which libjpeg can tell: of 300
    with 1 to 64 random bytes 111. JPEG has no checksum, so the others look like images.
    """

    def __init__(self, *args, max_pixels=MAX_PIXELS, **kwargs):
        super().__init__(*args, **kwargs)
        self.max_pixels = max_pixels

    def transform(self, results):
        path = results['img_path']
        content = read_bytes(path, self.backend_args)
        header = read_header(content, path, self.max_pixels)
        # Pillow's conversion cuts off all that is above 255 instead of the low byte.
        backend = 'cv2' if header.mode.startswith('I;16') else self.imdecode_backend
        try:
            image = mmcv.imfrombytes(content, flag=self.color_type, backend=backend)
            reason = None if image is not None else why_not(header)
        except Exception as error:      # each decoder has its own
            reason = ' '.join(str(error).split()) or type(error).__name__
        if reason:
            raise DamagedImage(f'{path} cannot be decoded: {reason}. Replace or remove the file')
        results['img'] = image.astype(np.float32) if self.to_float32 else image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        # Pillow decodes a whole PNG to look for EXIF, if it did not see any before the pixels.
        if ('exif' in header.info or header.format == 'TIFF') \
                and header.getexif().get(0x0112, 1) != 1:
            results['is_turned'] = True
        return results


def require_checksums(content, path):
    """DamagedImage where a checksum inside the file, as each block of a PNG has, does not fit.

    Pillow decodes without looking at those of the pixels.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.verify()
    except Exception as error:      # pillow raises what it likes
        raise DamagedImage(f'{path} cannot be decoded: {error}. Replace or remove the file'
                           ) from None


def why_not(image):
    """Pillow's reason for what OpenCV returns nothing for."""
    try:
        image.load()
    except Exception as error:
        return str(error)
    return 'OpenCV does not read it'


@TRANSFORMS.register_module()
class LoadAnnotations(MMSegLoadAnnotations):
    """mmseg's label maps; what it would wrap, blur or shift against the image is a ValueError.

    Expects one channel of 8 bits (palettes give their indices), without loss, of the size of the
    image. Values are checked where the number of classes is known: `DataCheckHook`, `IoUMetric`.
    """

    def __init__(self, *args, **kwargs):
        with warnings.catch_warnings():     # reduce_zero_label is how the recipes say it
            warnings.simplefilter('ignore')
            super().__init__(*args, **kwargs)

    def _load_seg_map(self, results):
        path, photo = results['seg_map_path'], results.get('img_path')
        content = read_bytes(path, self.backend_args)
        image = read_header(content, path)
        require_checksums(content, path)
        again = 'Write it as a PNG of one 8-bit channel'
        if image.format == 'JPEG':
            raise ValueError(f'{path} is a JPEG, which changes labels; expected a PNG. {again} '
                             'from the original labels')
        if image.mode not in ('L', 'P'):
            raise ValueError(f'{path} is an image of mode {image.mode}, expected a label map with '
                             f'one channel of 8 bits (mode L or P). {again}')
        height, width = results.get('ori_shape') or image.size[::-1]
        if image.size != (width, height):
            raise ValueError(f'{path} has {image.width}x{image.height} pixels, its image {photo} '
                             f'has {width}x{height}; expected the same')
        if results.get('is_turned'):
            raise ValueError(f'{photo} is turned by its EXIF tag, its label map {path} is not. '
                             'Write the image again without the tag, as its labels show it')
        try:
            super()._load_seg_map(results)
        except (OSError, SyntaxError) as error:
            raise DamagedImage(f'{path} cannot be decoded: {error}. Replace the file') from None


@DATASETS.register_module()
class SeededOrNext(Seeded):
    """`Seeded`, where a damaged image is replaced by the next one that can be read.

    The sample is then that of the next index, crop and mask included: still a function of (seed,
    epoch, index) and of no damage elsewhere. Path and reason are logged once for each worker pool.

    max_damaged: share of the images that may be damaged, but at least one image (ours); more end
    the run with a ValueError. Each process counts the damaged images that it has met.
    """

    def __init__(self, dataset, seed=0, min_length=0, max_damaged=0.001):
        super().__init__(dataset, seed, min_length)
        self.max_damaged = max_damaged
        # Shared with the workers. Writing a flag twice changes nothing, so it needs no lock.
        self.is_damaged = torch.zeros(len(self.dataset), dtype=torch.bool).share_memory_()

    @property
    def num_damaged(self) -> int:
        return int(self.is_damaged.sum())

    def __getitem__(self, key):
        epoch, index = key
        while True:
            try:
                return super().__getitem__((epoch, index))
            except DamagedImage as error:
                self.note(index % len(self.dataset), error)
            index += 1

    def note(self, image, error):
        """Counts and logs a damaged image; ValueError where there are too many of them."""
        if not self.is_damaged[image]:
            self.is_damaged[image] = True
            print_log(f'damaged image {self.num_damaged}, the next one is taken: {error}',
                      'current', 30)
        total, allowed = len(self.dataset), max(1, int(self.max_damaged * len(self.dataset)))
        if self.num_damaged > min(allowed, total - 1):
            raise ValueError(
                f'found {self.num_damaged} damaged images among {total:,}, expected at most '
                f'{allowed} (max_damaged={self.max_damaged}); the last: {error}. To find all: '
                'python tools/check_data.py --decode') from None
