"""What an image file says of itself before it is used, and why it cannot be.

Without torch and the OpenMMLab libraries: `tools/check_data.py` refuses here what a training would.
"""
import contextlib
import io
import warnings

import cv2
from PIL import Image

MAX_PIXELS = 178_956_970  # where Pillow calls it an attack: 512 MiB of 3 channels
MODES = ('1', 'L', 'LA', 'La', 'P', 'PA', 'RGB', 'RGBA', 'RGBa', 'RGBX', 'CMYK', 'YCbCr', 'LAB',
         'HSV', 'I;16', 'I;16B', 'I;16L', 'I;16N')
TURNED = range(2, 9)  # EXIF orientations by which an image is turned or mirrored


class DamagedImage(ValueError):
    """An image file that cannot be used; the message names it and says why."""


def not_decoded(path, reason):
    """The error to raise."""
    return DamagedImage(f'{path} cannot be decoded: {reason}. Replace or remove the file')


@contextlib.contextmanager
def decoding(path):
    """What decoders raise inside becomes a DamagedImage of ``path``, as far as it is the file's.

    Raises MemoryError for a lack of memory; an OSError of the system, which has an errno, passes.
    """
    try:
        yield
    except DamagedImage:
        raise
    except Exception as error:      # each decoder has its own
        if isinstance(error, OSError) and error.errno:
            raise
        if isinstance(error, MemoryError) or getattr(error, 'code', 0) == cv2.Error.StsNoMem:
            raise MemoryError(f'{path}: no memory to decode it') from error
        raise not_decoded(path, ' '.join(str(error).split()) or type(error).__name__) from None


def read_header(content, path, max_pixels=MAX_PIXELS):
    """Pillow's image of the bytes, not decoded. Raises DamagedImage for what should not be."""
    with decoding(path), warnings.catch_warnings():
        warnings.simplefilter('ignore')     # of size and EXIF, which have answers of their own
        try:
            image = Image.open(io.BytesIO(content))
        except Image.UnidentifiedImageError:
            raise not_decoded(path, f'{len(content)} bytes that are no image of a known format'
                              ) from None
    width, height = image.size
    if width * height > max_pixels:
        raise not_decoded(path, f'{width}x{height} pixels, expected at most {max_pixels:,} in all')
    if image.mode not in MODES:
        raise not_decoded(path, f'pixels of mode {image.mode}, expected 8 bits or 16-bit gray')
    if image.format == 'JPEG' and content.rfind(b'\xff\xd9') < content.rfind(b'\xff\xda'):
        raise not_decoded(path, f'a JPEG of {len(content)} bytes that ends before its end marker')
    return image


def require_checksums(content, path):
    """DamagedImage where a checksum inside the file, as each block of a PNG has, does not fit.

    Pillow decodes without looking at those of the pixels.
    """
    with decoding(path), Image.open(io.BytesIO(content)) as image:
        image.verify()


def why_not(image):
    """Pillow's reason for what OpenCV returns nothing for."""
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:      # pillow raises what it likes
        return str(error)
    return 'OpenCV does not read it'


def orientation(image):
    """The EXIF orientation of Pillow's image, 1 where it has none, None where EXIF is damaged."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            return image.getexif().get(0x0112, 1)
    except Exception:       # of struct, of TIFF tags, of XML
        return None


def read_label_header(content, path):
    """Pillow's image of a label map: one channel of 8 bits, without loss. ValueError for others."""
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
    """ValueError where a label map does not lie on its photo pixel by pixel.

    size, photo_size: (width, height). is_turned: whether reading the photo turns or mirrors it.
    """
    if is_turned:
        raise ValueError(f'{photo} is turned by its EXIF tag, its label map {path} is not. '
                         'Write the image again without the tag, as its labels show it')
    if size != photo_size:
        raise ValueError('{} has {}x{} pixels, its image {} has {}x{}; expected the same'.format(
            path, *size, photo, *photo_size))
