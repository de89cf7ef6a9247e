"""Headers of image files, checked before decoding, and the reasons why a file cannot be used.

Imports neither torch nor OpenMMLab. `tools/check_data.py` and a training refuse the same files.
"""
import contextlib
import io
import warnings

import cv2
from PIL import Image

MAX_PIXELS = 178_956_970  # Pillow's limit for decompression bombs: 512 MiB of 3 channels
MODES = ('1', 'L', 'LA', 'La', 'P', 'PA', 'RGB', 'RGBA', 'RGBa', 'RGBX', 'CMYK', 'YCbCr', 'LAB',
         'HSV', 'I;16', 'I;16B', 'I;16L', 'I;16N')
TURNED = range(2, 9)  # EXIF orientations that turn or mirror an image


class DamagedImage(ValueError):
    """An image file that cannot be used; the message names it and says why."""


def not_decoded(path, reason):
    """The DamagedImage to raise for ``reason``."""
    return DamagedImage(f'{path} cannot be decoded: {reason}. Replace or remove the file')


@contextlib.contextmanager
def decoding(path):
    """Turns errors of decoders into a DamagedImage of ``path``.

    A lack of memory becomes a MemoryError. An OSError with an errno (system) is raised unchanged.
    """
    try:
        yield
    except DamagedImage:
        raise
    except Exception as error:  # each decoder has its own exceptions
        if isinstance(error, OSError) and error.errno:
            raise
        if isinstance(error, MemoryError) or getattr(error, 'code', 0) == cv2.Error.StsNoMem:
            raise MemoryError(f'{path}: no memory to decode it') from error
        raise not_decoded(path, ' '.join(str(error).split()) or type(error).__name__) from None


def read_header(content, path):
    """Pillow's image of the bytes, not decoded. Raises DamagedImage if it cannot be used."""
    with decoding(path), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # size and EXIF are checked elsewhere
        try:
            image = Image.open(io.BytesIO(content))
        except Image.UnidentifiedImageError:
            raise not_decoded(path, f'{len(content)} bytes that are not an image of a known format'
                              ) from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise not_decoded(path, f'{width}x{height} pixels, expected at most {MAX_PIXELS:,} in all')
    if image.mode not in MODES:
        raise not_decoded(path, f'pixels of mode {image.mode}, expected 8 bits or 16-bit gray')
    if image.format == 'JPEG' and content.rfind(b'\xff\xd9') < content.rfind(b'\xff\xda'):
        raise not_decoded(path, f'a JPEG of {len(content)} bytes that ends before its end marker')
    return image


def require_checksums(content, path):
    """DamagedImage if a checksum inside the file (each block of a PNG has one) is wrong.

    Pillow does not check those of the pixels when it decodes.
    """
    with decoding(path), Image.open(io.BytesIO(content)) as image:
        image.verify()


def why_not(image):
    """Pillow's reason for an image that OpenCV does not decode."""
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:  # Pillow has many exceptions
        return str(error)
    return 'OpenCV does not read it'


def orientation(image):
    """The EXIF orientation of Pillow's image, 1 where it has none, None where EXIF is damaged."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            return image.getexif().get(0x0112, 1)
    except Exception:  # from struct, TIFF tags or XML
        return None


def read_label_header(content, path):
    """Pillow's image of a lossless label map with one channel of 8 bits. ValueError for others."""
    image = read_header(content, path)
    require_checksums(content, path)
    again = 'Write it as a PNG of one 8-bit channel'
    if image.format == 'JPEG':
        raise ValueError(f'{path} is a JPEG, which changes labels; expected a PNG. {again} '
                         'from the original labels')
    if image.mode not in ('L', 'P'):
        raise ValueError(f'{path} is an image of mode {image.mode}, expected a label map with '
                         f'one channel of 8 bits (mode L or P). {again}')
    return image


def require_beside(size, path, photo_size, photo, is_turned):
    """ValueError if the pixels of a label map are not those of its photo.

    size, photo_size: (width, height). is_turned: whether reading turns or mirrors the photo.
    """
    if is_turned:
        raise ValueError(f'{photo} is turned by its EXIF tag, its label map {path} is not. '
                         'Save the image again without the tag, oriented as its label map')
    if size != photo_size:
        raise ValueError('{} has {}x{} pixels, its image {} has {}x{}; expected the same'.format(
            path, *size, photo, *photo_size))
