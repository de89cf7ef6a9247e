"""Compares a copy of a data set with the published one. Imports neither torch nor mm*."""
import os
import re
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from ..progress_bar import track
from . import image_files
from .check_dense import DENSE_CHECKS
from .check_parts import PART_CHECKS
from .check_report import SUFFIXES, Check, Report, names_in
from .layouts import CARS_CHECK, CARS_LABELLED, CUB_LISTS, read_cars, read_inat, without_super
from .toy import ADE_CLASSES, PARTS, read_record


def check_imagenet(folder, report):
    """train/<wnid> and val/<wnid>; the label is the rank of the folder's name."""
    classes = {}
    for split, number, report.fix in (
            ('train', 1_281_167, 'unpack ILSVRC2012_img_train.tar, then each of its 1,000 tar '
                                 'files into train/<its name>/'),
            ('val', 50_000, 'unpack ILSVRC2012_img_val.tar and move each image into the folder '
                            'of its class, val/<wnid>/')):
        names = classes[split] = names_in(folder / split, want_folders=True)
        loose = len(names_in(folder / split))
        report.need(not loose, f'{loose:,} images directly in {split}/', 'images in class folders')
        if report.count(len(names), 1000, f'classes in {split}'):
            strange = [n for n in names if not re.fullmatch(r'n\d{8}', n)]
            report.need(not strange and (names[0], names[-1]) == ('n01440764', 'n15075141'),
                        f'classes {names[0]} .. {names[-1]} in {split}, {len(strange)} are not '
                        'wnids', 'n01440764 (label 0) .. n15075141 (label 999)',
                        'name the folders by WordNet id')
        images = sum(len(names_in(folder / split / n)) for n in names)
        report.count(images, number, f'{split} images')
    report.need(classes['train'] == classes['val'], 'other classes in val than in train',
                'the same folders, so that labels agree', 'move the images of both into <wnid>/')


def check_inat19(folder, report):
    """train2019.json and val2019.json, with the images in either layout."""
    for split, number in (('train', 265_213), ('val', 3_030)):
        path = folder / f'{split}2019.json'
        report.fix = f'unpack {split}2019.tar.gz of iNaturalist 2019 again'
        try:
            rows, categories = read_inat(path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            report.need(False, f'no usable {path.name}: {error}',
                        'images, annotations and categories')
            continue
        report.count(len(rows), number, f'{split} images')
        report.need([*categories] == [*range(1010)],
                    f'{len(categories):,} categories in {path.name}', 'ids 0..1009')
        names = [name for name, _ in rows]
        flat = [without_super(name) for name in names]
        report.files(folder, flat if (folder / flat[0]).is_file() else names,
                     f'unpack train_val2019.tar.gz in {folder} (with or without the folders of the '
                     'super-categories)')


def check_cub(folder, report):
    """The text files of CUB-200-2011 and its images."""
    report.fix = f'unpack CUB_200_2011.tgz again, so that {folder}/images.txt is there'
    if not report.files(folder, CUB_LISTS):
        return
    rows = {name: [line.split(maxsplit=1) for line in
                   (folder / name).read_text(encoding='utf-8').splitlines() if line.strip()]
            for name in CUB_LISTS}
    bad = [name for name, lines in rows.items() if any(len(line) != 2 for line in lines)]
    if not report.need(not bad, f'{bad} damaged', 'two columns or more'):
        return
    images, labels, split = (dict(rows[n]) for n in CUB_LISTS[:3])
    train = sum(v.strip() == '1' for v in split.values())
    report.count(len(rows['classes.txt']), 200, 'classes')
    report.count(train, 5_994, 'training images')
    report.count(len(images) - train, 5_794, 'test images')
    report.need(images.keys() == labels.keys() == split.keys(),
                'other image ids in the label or split file', 'those of images.txt')
    wrong = [n for i, n in images.items()
             if n[:3].isdigit() and int(n[:3]) != int(labels.get(i, 0))]
    report.need(not wrong, f'{len(wrong)} labels that differ from the folder of the image',
                'label NNN for images/NNN.Name/')
    locations, parts = len(rows['parts/part_locs.txt']), len(rows['parts/parts.txt'])
    report.need(locations == parts * len(images), f'{locations:,} rows in parts/part_locs.txt',
                f'{parts} for each of {len(images):,} images')
    report.files(folder / 'images', list(images.values()))


def check_cars(folder, report):
    """cars_annos.mat with car_ims/, or devkit/ with cars_train/ and cars_test/."""
    for split, images, number, report.fix in (
            ('train', 'training images', 8_144, f'unpack car_devkit.tgz in {folder}'),
            ('test', 'test images', 8_041, f'get {CARS_LABELLED}, which was published outside '
                                           'car_devkit.tgz, and put it there')):
        try:
            rows = read_cars(folder, split)
        except (FileNotFoundError, ValueError) as error:
            report.need(False, str(error).removesuffix(f' {CARS_CHECK}'), 'classes of all images')
            continue
        classes = {label for _, label in rows}
        report.need(len(classes) == 196, f'{len(classes)} classes in cars_{split}', '1..196')
        report.fix = 'unpack the images of Stanford Cars there'
        report.count(len(rows), number, f'labelled {images}')
        report.files(folder, [name for name, _ in rows])


def check_toy(folder, report):
    """The set that semmae.datasets.toy writes."""
    report.fix = f'python -m semmae.datasets.toy --out {folder}'
    record = read_record(folder)
    if not report.need(record is not None, f'no complete toy set in {folder}',
                       'toy.json and all files of its lists'):
        return
    report.found += [f"{v['count']:,} {k}" for k, v in record['files'].items()]
    report.fix = f'rm -r {folder} && {report.fix}'
    for maps, photos, suffix, highest in (
            ('imagenet/part_labels', 'imagenet', '.JPEG', len(PARTS) - 1),
            ('ADEChallengeData2016/annotations', 'ADEChallengeData2016/images', '.jpg',
             len(ADE_CLASSES))):
        report.maps([(path, folder / photos / path.relative_to(folder / maps).with_suffix(suffix))
                     for path in sorted((folder / maps).rglob('*.png'))], highest)


def unreadable(folder):
    """A text with path and reason for each image below ``folder`` that cannot be fully read."""
    paths = [Path(at, n) for at, _, names in os.walk(folder) for n in names
             if n.lower().endswith(SUFFIXES)]
    with ProcessPoolExecutor() as pool:
        reasons = list(track(pool.map(unreadable_because, paths, chunksize=16),
                             f'decoding {folder.name}', len(paths)))
    return sorted(filter(None, reasons))


def unreadable_because(path):
    """The reason why an image cannot be used, with its path, or None."""
    try:
        content = path.read_bytes()
        image = image_files.read_header(content, path)
        with image_files.decoding(path):
            if image.format == 'JPEG':  # a warning of libjpeg means wrong pixels
                simplejpeg.decode_jpeg(content, 'BGR', strict=True)
                return None
            image_files.require_checksums(content, path)
            image.load()
            if cv2.imdecode(np.frombuffer(content, np.uint8), 1) is None:
                raise image_files.not_decoded(path, 'OpenCV does not read it')
    except Exception as error:  # from the system or a decoder
        return str(error) if str(path) in str(error) else f'{path} cannot be read: {error!r}'
    return None


CHECKS = dict(imagenet=Check(check_imagenet, 'imagenet'), inat19=Check(check_inat19, 'inat2019'),
              cub=Check(check_cub, 'CUB_200_2011'), cars=Check(check_cars, 'stanford_cars'),
              **DENSE_CHECKS, **PART_CHECKS, toy=Check(check_toy, 'toy'))


def check(name, root, decode=False):
    """(state, row of text) of a data set below ``root``; state is 'ok', 'missing' or 'wrong'.

    decode: also read every image to the end.
    """
    function, place, mark = CHECKS[name]
    folder = root / place
    if name == 'toy' and (root / 'toy.json').exists():
        folder = root
    report = Report(reads_all=decode)
    is_there = (folder / mark).is_dir() and any((folder / mark).iterdir())
    if is_there or name == 'toy':
        function(folder, report)
    else:
        report.need(False, f'no {folder / mark}', f'the data set {name} in it',
                    f'unpack it there, or link it: ln -s DIR {folder / mark}')
    if is_there and decode:
        bad = unreadable(folder)
        report.need(not bad, f'{len(bad):,} unreadable images', 'none', 'unpack these files again:'
                    + ''.join(f'\n    {why}' for why in bad))
    state = 'missing' if not is_there else 'wrong' if report.problems else 'ok'
    if state == 'ok':
        return state, f"found: {', '.join(report.found)}"
    found, expected, fix = ('; '.join(dict.fromkeys(c)) for c in zip(*report.problems))
    return state, f'found: {found} | expected: {expected} | fix: {fix}'


def check_all(names, root, decode=False):
    """Prints a row for each data set, or for all of `CHECKS` without ``names``; returns 0 or 1.

    1: a data set is wrong, a named one is missing, or all are missing.
    """
    states = set()
    for name in dict.fromkeys(names or CHECKS):
        state, row = check(name, root, decode)
        states.add(state)
        print(f'{name:14} {state:8} {row}', flush=True)
    return int('wrong' in states or 'missing' in states and (bool(names) or 'ok' not in states))
