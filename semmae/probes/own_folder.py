"""Frozen probes on a labelled folder of the user, DIR/train/CLASS/*.jpg and DIR/val/CLASS/*.jpg."""
import os
from pathlib import Path
from typing import Any

from ..datasets.part_store import SUFFIXES

CONFIG = 'mm_configs/dense/dense_imagenet.py'
LOW_SHOT = dict(linear_10pct=15, linear_1pct=150)  # images of each class that leave two to a probe
LAYOUT = 'expected one folder for each class, as in train/CLASS/*.jpg and val/CLASS/*.jpg'


def count_images(folder) -> dict[str, int]:
    """{class: number of images below its folder}, sorted as mmpretrain numbers the labels.

    Raises ValueError for a folder without folders of classes and for a class without images.
    """
    folder = Path(folder)
    classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    if not classes:
        inside = sum(path.suffix.lower() in SUFFIXES for path in folder.iterdir())
        raise ValueError(f'{folder} holds no folders, but {inside} images; {LAYOUT}')
    counts = {name: sum(file.lower().endswith(SUFFIXES)
                        for *_, files in os.walk(folder / name, followlinks=True)
                        for file in files) for name in classes}
    if empty := [name for name, count in counts.items() if not count]:
        raise ValueError(f'{folder}: no image in {", ".join(empty[:5])}; expected files ending in '
                         f'{", ".join(SUFFIXES)} for each class, and no other folders')
    return counts


def folder_options(train, val, name) -> dict[str, Any]:
    """The overrides of `CONFIG` for two folders with the same classes.

    name: of the data set, in the results. A probe on a share of the labels is left out where a
    class has too few images to fit it and to choose its setting.
    Raises the errors of `count_images`, and ValueError for folders with different classes.
    """
    counts, tested = count_images(train), count_images(val)
    if differing := sorted(set(counts) ^ set(tested)):
        names = {folder: ', '.join(name for name in differing if name in of)
                 for folder, of in ((train, counts), (val, tested))}
        only = [f'only in {folder}: {text[:300]}' for folder, text in names.items() if text]
        raise ValueError('expected the same classes in both folders, because labels are numbers of '
                         f'the sorted names; got {"; ".join(only)}')
    fewest = min(counts.values())
    return {
        'train_dataloader.dataset.data_root': str(train),
        'val_dataloader.dataset.data_root': str(val),
        '+train_dataloader.dataset.extensions': list(SUFFIXES),
        '+val_dataloader.dataset.extensions': list(SUFFIXES),
        'model.task.num_classes': len(counts), 'result.dataset': name,
        'result.full.num_train': sum(counts.values()),
        **{f'model.probes.{probe}': None for probe, least in LOW_SHOT.items() if fewest < least}}
