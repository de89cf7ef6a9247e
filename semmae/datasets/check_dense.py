"""Checks of data sets with a label or a depth for each pixel, in the layouts of mmseg's readers."""
from pathlib import Path

from . import image_files
from .check_report import Check, names_in, paths_in, require_size

MMSEG = 'python tools/dataset_converters'  # of a checkout of mmsegmentation


def paired(report, images, maps, split, number):
    """(map, photo) pairs; adds a problem unless there are ``number``, and no file is alone.

    images, maps: {name: path}.
    """
    report.count(len(images), number, f'{split} images')
    alone = sorted(images.keys() ^ maps.keys())
    report.need(not alone, f'{len(maps):,} annotations for {len(images):,} {split} images'
                           + (f', {alone[0]} is alone' if alone else ''),
                'one .png for each image, of the same name')
    return [(path, images[name]) for name, path in maps.items() if name in images]


def check_ade20k(folder, report):
    """images/ and annotations/ of training and validation; one 8-bit label a pixel."""
    report.fix = 'unpack ADEChallengeData2016.zip again'
    for split, number in (('training', 20_210), ('validation', 2_000)):
        images, maps = ({Path(n).stem: folder / kind / split / n
                         for n in names_in(folder / kind / split)}
                        for kind in ('images', 'annotations'))
        report.maps(paired(report, images, maps, split, number), 150)


def check_lists(folder, report, lists, highest):
    """Whether each list of images has the published length, and its images and label maps exist.

    lists: (list below ImageSets, folder of label maps, published lengths).
    """
    for name, kind, *numbers in lists:
        path = folder / f'ImageSets/{name}.txt'
        if not report.files(folder, [f'ImageSets/{name}.txt']):
            continue
        names = [line.strip() for line in path.read_text(encoding='utf-8').splitlines()]
        report.count(len(names), numbers[0], f'images of {path.name}', *numbers[1:])
        if (report.files(folder, [f'JPEGImages/{n}.jpg' for n in names])
                and report.files(folder, [f'{kind}/{n}.png' for n in names])):
            report.maps([(folder / f'{kind}/{n}.png', folder / f'JPEGImages/{n}.jpg')
                         for n in names], highest, ignored=255)


def check_voc2012(folder, report):
    """SegmentationClass of PASCAL VOC 2012 and, if it is there, SegmentationClassAug of SBD."""
    report.fix = 'unpack VOCtrainval_11-May-2012.tar again'
    check_lists(folder, report, [('Segmentation/train', 'SegmentationClass', 1_464),
                                 ('Segmentation/val', 'SegmentationClass', 1_449)], 20)
    if (folder / 'SegmentationClassAug').is_dir():
        report.fix = f'{MMSEG}/voc_aug.py {folder.parent} {folder.parent}/VOCaug'
        check_lists(folder, report, [('Segmentation/trainaug', 'SegmentationClassAug', 10_582),
                                     ('Segmentation/aug', 'SegmentationClassAug', 9_118)], 20)


def check_pascal_context(folder, report):
    """SegmentationClassContext beside PASCAL VOC 2010, 59 classes and background.

    Papers count 4,998 and 5,105 images; mmseg's script finds labels for 4,996 and 5,104 of them.
    """
    report.fix = (f'unpack VOCtrainval_03-May-2010.tar, then run: {MMSEG}/pascal_context.py '
                  f'{folder.parent} trainval_merged.json')
    kind = 'SegmentationClassContext'
    check_lists(folder, report, [('SegmentationContext/train', kind, 4_998, 4_996),
                                 ('SegmentationContext/val', kind, 5_105, 5_104)], 59)


def check_cityscapes(folder, report):
    """leftImg8bit/ and gtFine/ with the label maps of 19 train ids."""
    report.fix = ('unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip, then run: pip '
                  f'install cityscapesscripts && CITYSCAPES_DATASET={folder} '
                  'csCreateTrainIdLabelImgs')
    for split, number in (('train', 2_975), ('val', 500)):
        images = paths_in(folder / 'leftImg8bit' / split, '_leftImg8bit.png', is_nested=True)
        maps = paths_in(folder / 'gtFine' / split, '_gtFine_labelTrainIds.png', is_nested=True)
        report.maps(paired(report, images, maps, split, number), 18, ignored=255)


def check_coco_stuff(folder, report):
    """images/ and annotations/ of COCO-Stuff 164k with the label maps of 171 train ids."""
    report.fix = ('unpack train2017.zip, val2017.zip and stuffthingmaps_trainval2017.zip, then '
                  f'run: {MMSEG}/coco_stuff164k.py {folder}')
    for split, number in (('train2017', 118_287), ('val2017', 5_000)):
        images = paths_in(folder / 'images' / split, '.jpg')
        maps = paths_in(folder / 'annotations' / split, '_labelTrainIds.png')
        report.maps(paired(report, images, maps, split, number), 170, ignored=255)


def check_camvid(folder, report):
    """images/ and annotations/ of CamVid, 11 classes and label 11 for void."""
    report.fix = ('put the photos as .jpg in images/SPLIT and the label maps, 0..10 and 11 for '
                  'void, as .png in annotations/SPLIT')
    for split, number in (('train', 367), ('val', 101)):
        images = paths_in(folder / 'images' / split, '.jpg')
        maps = paths_in(folder / 'annotations' / split, '.png')
        report.maps(paired(report, images, maps, split, number), 11)


def check_nyu(folder, report):
    """images/ and annotations/ of NYU Depth V2, 16-bit depths in millimetres."""
    report.fix = f'{MMSEG}/nyu.py nyu.zip --out_dir {folder}'
    for split, number in (('train', 24_231), ('test', 654)):
        images = paths_in(folder / 'images' / split, '.jpg')
        maps = paths_in(folder / 'annotations' / split, '.png')
        report.read(paired(report, images, maps, split, number), depth_fault, 'depth maps',
                    'one 16-bit channel of millimetres, of the size of the photo')


def depth_fault(path, photo):
    """The mode of a depth map that does not have 16 bits, else ''. Raises OSError, ValueError."""
    content = path.read_bytes()
    depths = image_files.read_header(content, path)
    image_files.require_checksums(content, path)
    require_size(depths.size, path, photo)
    return '' if depths.mode.startswith('I;16') else f'mode {depths.mode}'


DENSE_CHECKS = dict(
    ade20k=Check(check_ade20k, 'ADEChallengeData2016'),
    voc2012=Check(check_voc2012, 'VOCdevkit/VOC2012'),
    pascal_context=Check(check_pascal_context, 'VOCdevkit/VOC2010', 'SegmentationClassContext'),
    cityscapes=Check(check_cityscapes, 'cityscapes'),
    coco_stuff=Check(check_coco_stuff, 'coco_stuff164k'), camvid=Check(check_camvid, 'CamVid'),
    nyu=Check(check_nyu, 'nyu'))
