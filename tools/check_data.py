"""python tools/check_data.py cub ade20k --root data

One row for each data set: what was found, what was expected, how to mend it. Nothing is downloaded.
DATASET: imagenet inat19 cub cars ade20k toy; with none named, all are looked at and an absent one
is no fault. --decode also reads every image to the end, and refuses what a training would. Exit
code 1 where something is missing or wrong. Imports neither torch nor mm*.
"""
import argparse
import json
import os
import re
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from semmae.datasets.image_files import (
    TURNED,
    decoding,
    orientation,
    read_header,
    read_label_header,
    require_beside,
    require_checksums,
)
from semmae.datasets.toy import ADE_CLASSES, CUB_LISTS, PARTS, read_record

SUFFIXES = ('.jpg', '.jpeg', '.png')


class Report:
    """What a check found, and the problems as (found, expected, how to mend)."""

    def __init__(self, reads_all=False):
        self.found, self.problems, self.reads_all = [], [], reads_all

    def need(self, is_right, found, expected, mend):
        """``is_right``, after noting a problem where it is false."""
        if not is_right:
            self.problems.append((found, expected, mend))
        return is_right

    def count(self, found, expected, what, mend):
        """Notes a number, and a problem where it is not the published one."""
        self.found.append(f'{found:,} {what}')
        return self.need(found == expected, f'{found:,} {what}', f'{expected:,} {what}', mend)

    def files(self, folder, names, mend):
        """True where all the named files are there."""
        missing = [n for n in names if not os.path.isfile(f'{folder}/{n}')]
        more = f' and {len(missing) - 1:,} more' if len(missing) > 1 else ''
        return self.need(not missing, f'no {folder}/{missing[0]}{more}' if missing else '',
                         f'all {len(names):,} files' if len(names) > 1 else names[0], mend)

    def maps(self, pairs, highest, mend):
        """Label maps (about 50 of them, or all) are such, lie on their photos and have no other
        label. pairs: (label map, photo)."""
        wrong = []
        for path, photo in pairs if self.reads_all else pairs[::max(1, len(pairs) // 50)]:
            try:
                labels = read_label_header(path.read_bytes(), path)
                with decoding(photo), Image.open(photo) as image:
                    size, is_turned = image.size, orientation(image) in TURNED
                require_beside(labels.size, path, size, photo, is_turned)
                with decoding(path):
                    top = int(np.asarray(labels).max())
                if top > highest:
                    wrong.append(f'{path.name} ({top})')
            except (OSError, ValueError) as error:
                wrong.append(f'{path.name} ({error})')
        self.need(not wrong, f'{len(wrong)} wrong label maps, first {wrong[:1]}',
                  f'one 8-bit channel of labels 0..{highest}, of the size of the photo', mend)


def names_in(folder, want_folders=False):
    """Sorted names of the files, or of the folders, directly in ``folder``; [] without it."""
    if not os.path.isdir(folder):
        return []
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries
                      if (e.is_dir() if want_folders else e.name.lower().endswith(SUFFIXES)))


def check_imagenet(folder, report):
    """train/<wnid> and val/<wnid>; the label is the rank of the folder's name."""
    classes = {}
    for split, number, hint in (
            ('train', 1_281_167, 'unpack ILSVRC2012_img_train.tar, then each of its 1,000 tar '
                                 'files into train/<its name>/'),
            ('val', 50_000, 'unpack ILSVRC2012_img_val.tar and move each image into the folder '
                            'of its class, val/<wnid>/')):
        names = classes[split] = names_in(folder / split, want_folders=True)
        loose = len(names_in(folder / split))
        report.need(not loose, f'{loose:,} images directly in {split}/', 'images in class folders',
                    hint)
        if report.count(len(names), 1000, f'classes in {split}', hint):
            strange = [n for n in names if not re.fullmatch(r'n\d{8}', n)]
            report.need(not strange and (names[0], names[-1]) == ('n01440764', 'n15075141'),
                        f'classes {names[0]} .. {names[-1]} in {split}, {len(strange)} of them no '
                        'wnid', 'n01440764 (label 0) .. n15075141 (label 999)',
                        'name the folders by WordNet id')
        images = sum(len(names_in(folder / split / n)) for n in names)
        report.count(images, number, f'{split} images', hint)
    report.need(classes['train'] == classes['val'], 'other classes in val than in train',
                'the same folders, so that labels agree', 'move the images of both into <wnid>/')


def check_inat19(folder, report):
    """train2019.json and val2019.json, with the images in either layout."""
    categories = {}
    for split, number in (('train', 265_213), ('val', 3_030)):
        path = folder / f'{split}2019.json'
        again = f'unpack {split}2019.tar.gz of iNaturalist 2019 again'
        if not report.files(folder, [path.name], again):
            continue
        try:
            content = json.loads(path.read_text(encoding='utf-8'))
            images = {i['id']: i['file_name'] for i in content['images']}
            labels = {a['image_id']: a['category_id'] for a in content['annotations']}
            categories[split] = {c['id'] for c in content['categories']}
        except (ValueError, KeyError, TypeError) as error:
            report.need(False, f'{path.name} unreadable or without labels '
                               f'({type(error).__name__}: {error})',
                        'images, annotations and categories', again)
            continue
        report.count(len(images), number, f'{split} images', again)
        report.need(images.keys() == labels.keys(), f'{len(labels):,} labels in {path.name}',
                    f'one for each of its {len(images):,} images', again)
        report.need(categories[split] == set(range(1010)),
                    f'{len(categories[split]):,} categories in {path.name}', 'ids 0..1009', again)
        report.need(set(labels.values()) <= categories[split], f'labels in {path.name} that are no '
                    'category', 'ids of its categories', again)
        names = list(images.values())
        flat = [without_super(n) for n in names]
        layout = flat if names and (folder / flat[0]).is_file() else names
        report.files(folder, layout, f'unpack train_val2019.tar.gz in {folder} (with or without '
                                     'the folders of the super-categories)')


def without_super(name):
    parts = PurePosixPath(name).parts
    return '/'.join((*parts[:-3], *parts[-2:])) if len(parts) > 3 else name


def check_cub(folder, report):
    """The text files of CUB-200-2011 and its images."""
    again = f'unpack CUB_200_2011.tgz again, so that {folder}/images.txt is there'
    if not report.files(folder, CUB_LISTS, again):
        return
    rows = {name: [line.split(maxsplit=1) for line in
                   (folder / name).read_text(encoding='utf-8').splitlines() if line.strip()]
            for name in CUB_LISTS}
    bad = [name for name, lines in rows.items() if any(len(line) != 2 for line in lines)]
    if not report.need(not bad, f'{bad} damaged', 'two columns or more', again):
        return
    images, labels, split = (dict(rows[n]) for n in CUB_LISTS[:3])
    train = sum(v.strip() == '1' for v in split.values())
    report.count(len(rows['classes.txt']), 200, 'classes', again)
    report.count(train, 5_994, 'training images', again)
    report.count(len(images) - train, 5_794, 'test images', again)
    report.need(images.keys() == labels.keys() == split.keys(), 'other image ids in the label or '
                'split file', 'those of images.txt', again)
    wrong = [n for i, n in images.items()
             if n[:3].isdigit() and int(n[:3]) != int(labels.get(i, 0))]
    report.need(not wrong, f'{len(wrong)} labels that differ from the folder of the image',
                'label NNN for images/NNN.Name/', again)
    locations, parts = len(rows['parts/part_locs.txt']), len(rows['parts/parts.txt'])
    report.need(locations == parts * len(images), f'{locations:,} rows in parts/part_locs.txt',
                f'{parts} for each of {len(images):,} images', again)
    report.files(folder / 'images', list(images.values()), again)


def check_cars(folder, report):
    """cars_annos.mat with car_ims/, or devkit/ with cars_train/ and cars_test/."""
    from mat4py import loadmat
    labelled = 'cars_test_annos_withlabels.mat'
    images = 'unpack the images of Stanford Cars there'
    if (folder / 'cars_annos.mat').is_file():
        sources = [(folder / 'cars_annos.mat', 'relative_im_path', '')]
    else:
        report.files(folder, ['devkit/cars_train_annos.mat'], f'unpack car_devkit.tgz in {folder}')
        inside, beside = folder / 'devkit' / labelled, folder / labelled
        if not (inside.is_file() or beside.is_file()):
            kept = (folder / 'devkit/cars_test_annos.mat').is_file()
            report.need(
                False, f'no {labelled}'
                + (' (devkit/cars_test_annos.mat has no labels)' if kept else ''),
                f'{inside}, {beside} or cars_annos.mat in {folder}',
                f'get {labelled}, which was published outside car_devkit.tgz, and put it there')
        sources = [(folder / 'devkit/cars_train_annos.mat', 'fname', 'cars_train'),
                   (inside if inside.is_file() else beside, 'fname', 'cars_test')]
    numbers = {'train': 0, 'test': 0}
    for path, column, prefix in sources:
        if not path.is_file():
            continue
        try:
            rows = loadmat(str(path))['annotations']
            names, labels = rows[column], rows['class']
        except Exception as error:      # mat4py has one exception for each way to be damaged
            report.need(False, f'{path} unreadable or without labels ({error!r})', 'annotations '
                        'with a class', 'unpack it again')
            continue
        test = rows.get('test', [int(prefix == 'cars_test')] * len(names))
        numbers['test'] += sum(test)
        numbers['train'] += len(test) - sum(test)
        report.need(set(labels) == set(range(1, 197)), f'{len(set(labels))} classes in {path.name}',
                    '1..196', 'unpack it again')
        report.files(folder / prefix, names, images)
    report.count(numbers['train'], 8_144, 'labelled training images', images)
    if numbers['test'] or len(report.problems) == 0:
        report.count(numbers['test'], 8_041, 'labelled test images', images)


def check_ade20k(folder, report):
    """images/ and annotations/ of training and validation; one 8-bit label a pixel."""
    again = 'unpack ADEChallengeData2016.zip again'
    for split, number in (('training', 20_210), ('validation', 2_000)):
        images = {os.path.splitext(n)[0]: folder / 'images' / split / n
                  for n in names_in(folder / 'images' / split)}
        maps = {os.path.splitext(n)[0]: folder / 'annotations' / split / n
                for n in names_in(folder / 'annotations' / split)}
        report.count(len(images), number, f'{split} images', again)
        report.need(images.keys() == maps.keys(),
                    f'{len(maps):,} annotations for {len(images):,} {split} images',
                    'one .png for each image, of the same name', again)
        report.maps([(path, images[n]) for n, path in maps.items() if n in images], 150, again)


def check_toy(folder, report):
    """The set that semmae.datasets.toy writes."""
    again = f'python -m semmae.datasets.toy --out {folder}'
    record = read_record(folder)
    if not report.need(record is not None, f'no complete toy set in {folder}',
                       'toy.json and all files of its lists', again):
        return
    report.found += [f"{v['count']:,} {k}" for k, v in record['files'].items()]
    for maps, photos, suffix, highest in (
            ('imagenet/part_labels', 'imagenet', '.JPEG', len(PARTS) - 1),
            ('ADEChallengeData2016/annotations', 'ADEChallengeData2016/images', '.jpg',
             len(ADE_CLASSES))):
        report.maps([(path, folder / photos / path.relative_to(folder / maps).with_suffix(suffix))
                     for path in sorted((folder / maps).rglob('*.png'))], highest,
                    f'rm -r {folder} && {again}')


def unreadable(folder):
    """What is wrong with the images below ``folder`` that cannot be read to the end, by name."""
    paths = [Path(at, n) for at, _, names in os.walk(folder) for n in names
             if n.lower().endswith(SUFFIXES)]

    with ProcessPoolExecutor() as pool:
        reasons = list(track(pool.map(unreadable_because, paths, chunksize=16), total=len(paths),
                             description=folder.name, transient=True,
                             console=Console(stderr=True)))
    return sorted(filter(None, reasons))


def unreadable_because(path):
    """Why an image cannot be used, with its path, or None. Redirects stderr: in its own process.

    libjpeg decodes damaged bytes to wrong pixels and says so on the C library's stderr only.
    """
    try:
        content = path.read_bytes()
        image = read_header(content, path)
        if image.format != 'JPEG':
            require_checksums(content, path)
            with decoding(path):
                image.load()
        with tempfile.TemporaryFile() as said:
            before = os.dup(2)
            os.dup2(said.fileno(), 2)
            try:
                is_read = cv2.imdecode(np.frombuffer(content, np.uint8), 1) is not None
            finally:
                os.dup2(before, 2)
                os.close(before)
            said.seek(0)
            warning = ' '.join(said.read().decode(errors='replace').split())
        if 'orrupt' in warning or 'remature' in warning or not is_read:
            with decoding(path):
                image.load()    # which has the better words for most
            return f'{path} cannot be decoded: {warning or "OpenCV does not read it"}'
    except Exception as error:      # of the system, of pillow and libpng
        return str(error) if str(path) in str(error) else f'{path} cannot be read: {error!r}'


CHECKS = dict(imagenet=(check_imagenet, 'imagenet'), inat19=(check_inat19, 'inat2019'),
              cub=(check_cub, 'CUB_200_2011'), cars=(check_cars, 'stanford_cars'),
              ade20k=(check_ade20k, 'ADEChallengeData2016'), toy=(check_toy, 'toy'))


def check(name, root, decode=False):
    """(state, row of text) of one data set; state is 'ok', 'missing' or 'wrong'."""
    function, folder = CHECKS[name][0], root / CHECKS[name][1]
    if name == 'toy' and (root / 'toy.json').exists():
        folder = root
    report = Report(reads_all=decode)
    is_there = folder.is_dir() and any(folder.iterdir())
    if is_there or name == 'toy':
        function(folder, report)
    else:
        report.need(False, f'no {folder}', f'the data set {name} in it',
                    f'unpack it there, or link it: ln -s DIR {folder}')
    if is_there and decode:
        bad = unreadable(folder)
        report.need(not bad, f'{len(bad):,} unreadable images', 'none', 'unpack these files again:'
                    + ''.join(f'\n    {why}' for why in bad))
    state = 'missing' if not is_there else 'wrong' if report.problems else 'ok'
    if state == 'ok':
        return state, f"found: {', '.join(report.found)}"
    found, expected, mend = ('; '.join(dict.fromkeys(c)) for c in zip(*report.problems))
    return state, f'found: {found} | expected: {expected} | mend: {mend}'


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n', 1)[1])
    parser.add_argument('datasets', nargs='*', metavar='DATASET', help=' '.join(CHECKS))
    parser.add_argument('--root', type=Path, default=Path('data'), metavar='DIR')
    parser.add_argument('--decode', action='store_true', help='read every image to the end')
    args = parser.parse_args(argv)
    unknown = [name for name in args.datasets if name not in CHECKS]
    if unknown:
        parser.error(f"unknown DATASET {', '.join(unknown)}; expected {', '.join(CHECKS)}")
    states = []
    for name in dict.fromkeys(args.datasets or CHECKS):
        state, row = check(name, args.root, args.decode)
        states.append(state)
        print(f'{name:9} {state:8} {row}', flush=True)
    faults = {'wrong', 'missing'} if args.datasets or 'ok' not in states else {'wrong'}
    return int(bool(faults & set(states)))


if __name__ == '__main__':
    sys.exit(main())
