"""Checks of the data sets with part annotations, by the functions that read them."""
from pathlib import Path

from .check_report import Check
from .part_annotations import (
    list_pascal_part,
    part_image_net_map,
    read_part_image_net,
    read_pascal_part,
)


def check_part_image_net(folder, report):
    """The annotation files and images of train, val and test, of either published version."""
    report.fix = 'unpack PartImageNet_Seg.zip or PartImageNet_OOD.zip again (with its inner zips)'
    total = 0
    for split in ('train', 'val', 'test'):
        try:
            images, parts = read_part_image_net(folder, split)
        except (OSError, ValueError) as error:
            report.need(False, str(error).split(' Run: ')[0], f'annotations and images of {split}')
            continue
        total += len(images)
        annotated = [image for image in images if image['annotations']]
        report.found.append(f'{len(images):,} {split} images, {len(annotated):,} with parts')
        report.need((len(parts), len({name for name, _ in parts})) == (40, 11),
                    f'{len(parts)} parts in {split}', '40 parts of 11 super-categories')
        report.files(folder, [str(Path(image['path']).relative_to(folder)) for image in images])
        decode_some(report, annotated, part_image_net_map)
    report.count(total, 24_095, 'images in all')


def check_pascal_part(folder, report):
    """The .mat file and image of each name of VOC 2010."""
    report.fix = ('unpack VOCtrainval_03-May-2010.tar, then trainval.tar.gz of Pascal-Part (its '
                  f'folder Annotations_Part) in {folder}')
    for split, number in (('train', 4_998), ('val', 5_105)):
        try:
            names = list_pascal_part(folder, split)
        except (OSError, ValueError) as error:
            report.need(False, str(error).split(' Run: ')[0], f'annotations of {split}')
            continue
        report.count(len(names), number, f'{split} images')
        report.files(folder, [f'JPEGImages/{name}.jpg' for name in names])
        decode_some(report, names, lambda name: read_pascal_part(folder, name))


def decode_some(report, items, decode):
    """Adds a problem if the annotations of an image cannot be decoded; of about 50, or all."""
    wrong = []
    for item in report.some(items):
        try:
            decode(item)
        except (OSError, ValueError) as error:
            wrong.append(str(error).split(' Run: ')[0])
    report.need(not wrong, f'{len(wrong)} unusable annotations, first {wrong[:1]}',
                'part annotations of the size of the image')


PART_CHECKS = dict(part_image_net=Check(check_part_image_net, 'PartImageNet'),
                   pascal_part=Check(check_pascal_part, 'VOCdevkit/VOC2010', 'Annotations_Part'))
