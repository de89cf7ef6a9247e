"""What a check of a data set found, and the checks that several data sets share."""
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from . import image_files

SUFFIXES = ('.jpg', '.jpeg', '.png')


class Check(NamedTuple):
    """A data set of tools/check_data.py. mark: the folder below it without which it is missing."""

    function: Callable
    folder: str
    mark: str = ''


class Report:
    """The findings of a check, and its problems as (found, expected, how to fix it).

    fix: the default fix of the next problems.
    """

    def __init__(self, reads_all=False):
        self.found: list[str] = []
        self.problems: list[tuple[str, str, str]] = []
        self.reads_all, self.fix = reads_all, ''

    def need(self, is_right, found, expected, fix=None):
        """Returns ``is_right``; adds a problem if it is false."""
        if not is_right:
            self.problems.append((found, expected, fix or self.fix))
        return is_right

    def count(self, found, expected, what, other=None):
        """Whether a number is the published one; records it, and a problem if it is not.

        other: a second number that is right as well.
        """
        self.found.append(f'{found:,} {what}')
        also = '' if other is None else f' or {other:,}'
        return self.need(found in (expected, other), f'{found:,} {what}',
                         f'{expected:,}{also} {what}')

    def files(self, folder, names, fix=None):
        """Whether all the named files exist."""
        missing = [n for n in names if not (folder / n).is_file()]
        more = f' and {len(missing) - 1:,} more' if len(missing) > 1 else ''
        return self.need(not missing, f'no {folder}/{missing[0]}{more}' if missing else '',
                         names[0] if len(names) == 1 else f'all {len(names):,} files', fix)

    def some(self, items):
        """About 50 of the items, evenly spaced, or all."""
        return items if self.reads_all else items[::max(1, len(items) // 50)]

    def maps(self, pairs, highest, ignored=None):
        """Checks the label maps of (label map, photo) pairs: about 50 of them, or all.

        highest: the highest label that they may have. ignored: a label that they may have besides.
        """
        besides = '' if ignored is None else f' and {ignored}'
        self.read(pairs, partial(label_fault, highest=highest, ignored=ignored), 'label maps',
                  f'one 8-bit channel of labels 0..{highest}{besides}, of the size of the photo')

    def read(self, pairs, fault, what, expected):
        """Adds a problem if ``fault`` gives a text for some of the (label map, photo) pairs."""
        wrong = []
        for path, photo in self.some(pairs):
            try:
                why = fault(path, photo)
            except (OSError, ValueError) as error:
                why = error
            if why:
                wrong.append(f'{path.name} ({why})')
        self.need(not wrong, f'{len(wrong)} wrong {what}, first {wrong[:1]}', expected)


def label_fault(path, photo, highest, ignored=None):
    """The highest label of a label map if it is too high, else ''. Raises OSError, ValueError."""
    labels = image_files.read_label_header(path.read_bytes(), path)
    require_size(labels.size, path, photo)
    with image_files.decoding(path):
        values = np.asarray(labels)
    top = int((values if ignored is None else values[values != ignored]).max(initial=0))
    return str(top) if top > highest else ''


def require_size(size, path, photo):
    """ValueError unless the photo of a map has its size (W, H) and no EXIF tag that turns it."""
    with image_files.decoding(photo), Image.open(photo) as image:
        turn = image_files.orientation(image)
        image_files.require_beside(size, path, image.size, photo, turn in image_files.TURNED)


def names_in(folder, want_folders=False):
    """Sorted names of the images, or of the folders, directly in ``folder``; [] without it."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries
                      if (e.is_dir() if want_folders else e.name.lower().endswith(SUFFIXES)))


def paths_in(folder, suffix, is_nested=False) -> dict[str, Path]:
    """{path below ``folder`` without its suffix: path} of the files that end with ``suffix``.

    is_nested: whether they are in the folders of ``folder`` instead of directly in it.
    """
    found = sorted(folder.glob(f'*/*{suffix}' if is_nested else f'*{suffix}'))
    return {str(path.relative_to(folder)).removesuffix(suffix): path for path in found}
