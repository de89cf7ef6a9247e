"""Transforms that read images and label maps; the error for an unusable file names it.

Good files give the pixels of mmcv's and mmseg's own steps. 16-bit gray becomes 8 bits by dropping
the low byte, with either decoder. Damaged EXIF is ignored. An image with a label map must not be
turned by its EXIF tag, since the label map is not turned.
"""
import time
import warnings

import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio
from mmseg.datasets import LoadAnnotations as MMSegLoadAnnotations

from ..registry import TRANSFORMS
from .geometry import Role
from .image_files import (
    TURNED,
    DamagedImage,
    decoding,
    not_decoded,
    orientation,
    read_header,
    read_label_header,
    require_beside,
    why_not,
)

# Errors of a single file. Others come from the disk, the network or the process.
OF_THE_FILE = FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError


def read_bytes(path, backend_args=None) -> bytes:
    """A file's content. Raises DamagedImage if it is missing, a folder, not allowed or empty.

    After any other OSError (network, too many open files) it reads again a second later (ours).
    """
    for is_last in (False, True):
        try:
            content = fileio.get(path, backend_args=backend_args)
            break
        except OF_THE_FILE as error:
            cure = ('Add the file, or leave its image out of the data set'
                    if isinstance(error, FileNotFoundError) else 'Replace or remove the file')
            raise DamagedImage(
                f'{path} cannot be read: {error.strerror or error}. {cure}') from None
        except OSError as error:
            if is_last:  # an error while reading, unlike while opening, names no file
                raise OSError(error.errno, error.strerror or str(error), str(path)) from error
            time.sleep(1)
    if not content:
        raise DamagedImage(f'{path} cannot be read: it is empty, 0 bytes. Replace or remove it')
    return content


@TRANSFORMS.register_module()
class LoadImage(LoadImageFromFile):
    """mmcv's LoadImageFromFile, with a DamagedImage that names the file if it cannot be used.

    ``results['img']``: (H, W, 3) uint8 BGR of any colour mode, turned by EXIF; then also
    ``results['is_turned']``. A file of more than MAX_PIXELS pixels is not decoded (ours). A JPEG
    with wrong bytes in the middle and a good end decodes to wrong pixels without an error, since
    JPEG has no checksum. `tools/check_data.py --decode` finds those that libjpeg notices: 111 of
    300 with 1 to 64 random bytes.
    """

    role = Role.READ

    def transform(self, results):
        path = results['img_path']
        content = read_bytes(path, self.backend_args)
        header = read_header(content, path)
        # Pillow decodes a whole PNG to look for EXIF unless it saw EXIF before the pixels.
        turn = orientation(header) if 'exif' in header.info or header.format == 'TIFF' else 1
        flag = self.color_type
        if turn is None and flag in ('color', 'grayscale'):
            flag += '_ignore_orientation'  # with damaged EXIF, decoders guess or fail
        # Pillow's conversion clips at 255 instead of dropping the low byte.
        backend = 'cv2' if header.mode.startswith('I;16') else self.imdecode_backend
        with decoding(path):
            image = mmcv.imfrombytes(content, flag=flag, backend=backend)
        if image is None:
            raise not_decoded(path, why_not(header))
        results['img'] = image.astype(np.float32) if self.to_float32 else image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        if turn in TURNED:
            results['is_turned'] = True
        return results


@TRANSFORMS.register_module()
class LoadAnnotations(MMSegLoadAnnotations):
    """mmseg's LoadAnnotations; ValueError for label maps whose labels would change or shift.

    Expects a lossless file with one channel of 8 bits (of a palette, the indices) and the size of
    the image. `DataCheckHook` and `IoUMetric` check the labels against the number of classes.
    """

    role = Role.READ

    def __init__(self, *args, **kwargs):
        with warnings.catch_warnings():  # mmseg warns of reduce_zero_label, which our configs use
            warnings.simplefilter('ignore')
            super().__init__(*args, **kwargs)

    def _load_seg_map(self, results):
        path, photo = results['seg_map_path'], results.get('img_path')
        content = read_bytes(path, self.backend_args)
        labels = read_label_header(content, path)
        height, width = results.get('ori_shape') or labels.size[::-1]
        require_beside(labels.size, path, (width, height), photo, results.get('is_turned'))
        with decoding(path):
            super()._load_seg_map(results)
