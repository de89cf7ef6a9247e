"""Frozen probes on a labelled folder of the user, DIR/train/CLASS/*.jpg and DIR/val/CLASS/*.jpg."""
import json
import os
from pathlib import Path
from typing import Any

from ..datasets.part_store import SUFFIXES
from ..datasets.stored import write_json
from .probe import HELD_OUT

CONFIG = 'mm_configs/dense/dense_imagenet.py'
LOW_SHOT = dict(linear_10pct=15, linear_1pct=150)  # images of each class that leave two to a probe
NEIGHBOURS = (10, 20, 100, 200)  # of `CONFIG`
LAYOUT = 'expected one folder for each class, as in train/CLASS/*.jpg and val/CLASS/*.jpg'


def count_images(folder) -> dict[str, int]:
    """{class: number of images below its folder}, sorted as mmpretrain numbers the labels.

    Raises ValueError for fewer than two folders of classes, for a hidden one, for a class without
    images, and for links that lead nowhere.
    """
    folder = Path(folder)
    classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    if not classes:
        inside = sum(path.suffix.lower() in SUFFIXES for path in folder.iterdir())
        raise ValueError(f'{folder} holds no folders, but {inside} images; {LAYOUT}')
    if hidden := [name for name in classes if name.startswith('.') or name == '__MACOSX']:
        raise ValueError(f'{folder / hidden[0]} would be a class; expected folders of classes only.'
                         f' Remove it, for example: rm -r {folder / hidden[0]}')
    if len(classes) < 2:
        raise ValueError(f'{folder} has one class, {classes[0]}; expected at least two')
    files = {name: images_below(folder / name) for name in classes}
    if empty := [name for name, found in files.items() if not found]:
        raise ValueError(f'{folder}: no image in {", ".join(empty[:5])}; expected files ending in '
                         f'{", ".join(SUFFIXES)} for each class, and no other folders')
    return {name: len(found) for name, found in files.items()}


def images_below(folder) -> list[Path]:
    """The images below a folder; ValueError for a hidden file and for a link that leads nowhere."""
    found = [Path(top, name) for top, _, names in os.walk(folder, followlinks=True)
             for name in names if name.lower().endswith(SUFFIXES)]
    for path in found:
        if path.name.startswith('.') or not path.exists():
            what = 'a hidden file' if path.exists() else 'a link that leads nowhere'
            raise ValueError(f'{path} is {what}; expected images. Remove it')
    return found


def folder_options(root, val, name) -> dict[str, Any]:
    """The overrides of `CONFIG` for the folders ``train`` and ``val`` of ``root``.

    name: of the data set, in the results. A probe on a share of the labels is left out where a
    class has too few images to fit it and to choose its setting; so are numbers of neighbours that
    the training images do not have.
    Raises the errors of `count_images`, and ValueError for folders with different classes and for a
    class with one training image.
    """
    train, tested = Path(root, 'train'), Path(root, val)
    counts, others = count_images(train), count_images(tested)
    if differing := sorted(set(counts) ^ set(others)):
        names = {folder: ', '.join(name for name in differing if name in of)
                 for folder, of in ((train, counts), (tested, others))}
        only = [f'only in {folder}: {text[:300]}' for folder, text in names.items() if text]
        raise ValueError('expected the same classes in both folders, because labels are numbers of '
                         f'the sorted names; got {"; ".join(only)}')
    fewest, number = min(counts.values()), sum(counts.values())
    if fewest < 2:
        raise ValueError(f'{train}: one image in {min(counts, key=lambda n: counts[n])}; expected '
                         'at least two of each class, one to fit and one to choose a setting')
    kept = number - sum(max(1, round(HELD_OUT * count)) for count in counts.values())
    return {
        'train_dataloader.dataset.data_root': str(train),
        'val_dataloader.dataset.data_root': str(tested),
        '+train_dataloader.dataset.extensions': list(SUFFIXES),
        '+val_dataloader.dataset.extensions': list(SUFFIXES),
        'model.task.num_classes': len(counts), 'result.dataset': name, 'result.split': val,
        'result.full.num_train': number,
        'model.probes.knn.k': [k for k in NEIGHBOURS if k <= kept] or [1],
        **{f'model.probes.{probe}': None for probe, least in LOW_SHOT.items() if fewest < least}}


def require_same_folder(work_dir, root):
    """ValueError if the work directory has results of another folder; else notes this one."""
    note, own = Path(work_dir, 'folder.json'), str(Path(root).resolve())
    if not note.is_file():
        write_json(note, dict(folder=own))
    elif (other := json.loads(note.read_text())['folder']) != own:
        raise ValueError(f'{work_dir} has results of {other}; expected those of {own}, because one '
                         'table compares backbones on the same images. Give --name or --work-dir')
