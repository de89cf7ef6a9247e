"""Images and label maps from the wild: what cannot be read is refused with its name and the reason.

Good files give the pixels of mmcv's and mmseg's own steps. What is not refused but decided here:
16-bit gray becomes 8 bits by dropping the low byte, with either decoder, and an image turned by its
EXIF tag is refused where a label map stands beside it, which would not be turned. Damaged EXIF
turns nothing and is no reason to refuse.
"""
import sys
import time
import warnings

import mmcv
import numpy as np
import torch
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio
from mmengine.dist import get_rank
from mmengine.logging import print_log
from mmseg.datasets import LoadAnnotations as MMSegLoadAnnotations

from ..registry import DATASETS, TRANSFORMS
from .image_files import (
    MAX_PIXELS,
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
from .seeded import Seeded

# What is the fault of the one file. Others are of the disk, the network or the process.
OF_THE_FILE = FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError


def read_bytes(path, backend_args=None) -> bytes:
    """A file's content. Raises DamagedImage if it is missing, a folder, not allowed or empty.

    Any other OSError, such as of a network that is away or of too many open files, is raised if
    it comes again after a second (ours).
    """
    for is_last in (False, True):
        try:
            content = fileio.get(path, backend_args=backend_args)
            break
        except OF_THE_FILE as error:
            raise DamagedImage(f'{path} cannot be read: {error.strerror or error}. Replace or '
                               'remove the file') from None
        except OSError as error:
            if is_last:     # reading, unlike opening, does not name the file
                raise OSError(error.errno, error.strerror or str(error), str(path)) from error
            time.sleep(1)
    if not content:
        raise DamagedImage(f'{path} cannot be read: it is empty, 0 bytes. Replace or remove it')
    return content


@TRANSFORMS.register_module()
class LoadImage(LoadImageFromFile):
    """mmcv's LoadImageFromFile, where what is wrong with the file is a DamagedImage that names it.

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
        # Pillow decodes a whole PNG to look for EXIF, if it did not see any before the pixels.
        turn = orientation(header) if 'exif' in header.info or header.format == 'TIFF' else 1
        flag = self.color_type
        if turn is None and flag in ('color', 'grayscale'):
            flag += '_ignore_orientation'       # decoders would guess, or give up
        # Pillow's conversion cuts off all that is above 255 instead of the low byte.
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
        labels = read_label_header(content, path)
        height, width = results.get('ori_shape') or labels.size[::-1]
        require_beside(labels.size, path, (width, height), photo, results.get('is_turned'))
        with decoding(path):
            super()._load_seg_map(results)


@DATASETS.register_module()
class SeededOrNext(Seeded):
    """`Seeded`, where a damaged image is replaced by the next one that can be read.

    The sample is then that of the next index, crop and mask included: still a function of (seed,
    epoch, index) and of no damage elsewhere. Each process prints path and reason once on stderr.

    max_damaged: share of the images that may be damaged, but at least one image (ours); more end
    the run with a ValueError. A process knows what it has met itself, and what others have by
    `mark`, which `DataCheckHook` calls.
    """

    def __init__(self, dataset, seed=0, min_length=0, max_damaged=0.001):
        super().__init__(dataset, seed, min_length)
        self.max_damaged = max_damaged
        self.rank = get_rank()      # a worker that was spawned would not know
        # Shared with the workers. Writing a flag twice changes nothing, so it needs no lock.
        self.is_damaged = torch.zeros(len(self.dataset), dtype=torch.bool).share_memory_()

    @property
    def damaged(self) -> list:
        """Indices of the damaged images."""
        return self.is_damaged.nonzero().flatten().tolist()

    def mark(self, indices):
        """Count images as damaged; those that were never there are passed over."""
        known = [i for i in indices if 0 <= i < len(self.is_damaged)]
        # Only these are written: workers may be setting others.
        self.is_damaged[torch.tensor(known, dtype=torch.long)] = True

    def __getitem__(self, key):
        epoch, index = key
        while True:
            try:
                return super().__getitem__((epoch, index))
            except DamagedImage as error:
                self.note(index % len(self.dataset), error)
            index += 1

    def note(self, image, error):
        """Counts and tells a damaged image; ValueError where there are too many of them."""
        if not self.is_damaged[image]:
            self.is_damaged[image] = True
            said = f'damaged image, the next one is taken: {error}'
            print_log(said, 'current', 30)
            # The logger is silent on all processes but the first.
            print(f'rank {self.rank}: {said}', file=sys.stderr, flush=True)
        self.require_few(f'the last: {error}')

    def require_few(self, which='their names are on stderr'):
        """ValueError where more images are damaged than ``max_damaged``."""
        total, found = len(self.dataset), int(self.is_damaged.sum())
        allowed = max(1, int(self.max_damaged * total))
        if found > min(allowed, total - 1):
            raise ValueError(
                f'found {found} damaged images among {total:,}, expected at most {allowed} '
                f'(max_damaged={self.max_damaged}); {which}. To find all: '
                'python tools/check_data.py --decode') from None
