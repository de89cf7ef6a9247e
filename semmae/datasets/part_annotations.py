"""Part annotations of PartImageNet and Pascal-Part, as published. Imports no OpenMMLab.

H, W: height and width of the image file. A label map is (H, W) uint8, 0 is the background, parts
count from 1. No label means "ignored".
"""
import json
import re
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image
from scipy.io import loadmat

from .coco_masks import mask_of

PART_IMAGE_NET_CHECK = 'Run: python tools/check_data.py part_image_net'
PASCAL_PART_CHECK = 'Run: python tools/check_data.py pascal_part'

_BUS = ('frontside leftside rightside backside roofside leftmirror rightmirror fliplate bliplate '
        'door wheel headlight window')
_CAT = ('head leye reye lear rear nose torso neck lfleg lfpa rfleg rfpa lbleg lbpa rbleg rbpa '
        'tail')
_FACE = 'head leye reye lear rear muzzle'
_BODY = 'torso neck lfuleg lflleg rfuleg rflleg lbuleg lblleg rbuleg rblleg tail'
# The classes of VOC in their order and the parts of part2ind.m of Pascal-Part. A number at the end
# of a published name (wheel_2) counts parts of one kind, so it is left out.
PASCAL_PARTS = {name: tuple(parts.split()) for name, parts in dict(
    aeroplane='body stern lwing rwing tail engine wheel',
    bicycle='fwheel bwheel saddle handlebar chainwheel headlight',
    bird='head leye reye beak torso neck lwing rwing lleg lfoot rleg rfoot tail', boat='',
    bottle='cap body', bus=_BUS, car=_BUS, cat=_CAT, chair='', cow=f'{_FACE} lhorn rhorn {_BODY}',
    diningtable='', dog=f'{_CAT} muzzle', horse=f'{_FACE} {_BODY} lfho rfho lbho rbho',
    motorbike='fwheel bwheel handlebar saddle headlight',
    person='head leye reye lear rear lebrow rebrow nose mouth hair torso neck llarm luarm lhand '
           'rlarm ruarm rhand llleg luleg lfoot rlleg ruleg rfoot',
    pottedplant='pot plant', sheep=f'{_FACE} lhorn rhorn {_BODY}', sofa='',
    train='head hfrontside hleftside hrightside hbackside hroofside headlight coach cfrontside '
          'cleftside crightside cbackside croofside',
    tvmonitor='screen').items()}
PASCAL_CLASSES = tuple(PASCAL_PARTS)
# Label i + 1 of a map. A class without a part stands for its pixels outside all parts.
PASCAL_LABELS = tuple((name, part) for name, parts in PASCAL_PARTS.items() for part in ('', *parts))


def size_of(path, check) -> tuple[int, int]:
    """(W, H) of an image file, from its header. Raises FileNotFoundError.

    check: the command for the message.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'{path}: not found, expected an image with part annotations. '
                                f'{check}')
    with Image.open(path) as image:
        return image.size


def box_of(mask) -> np.ndarray:
    """(4,) float32 x, y, width, height around the True pixels of a mask (H, W), which has some."""
    y, x = np.nonzero(mask)
    return np.array([x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1], np.float32)


# PartImageNet

def read_part_image_net(root, split) -> tuple[list, list]:
    """(images, parts) of a split of PartImageNet; of the layouts, the one that ``root`` has.

    images: dicts of ``path``, ``size`` (W, H) and ``annotations``. Annotations of a crowd or
        without area are left out, so an image may have none.
    parts: (super-category, part) of label i + 1, in the order of the category ids.
    Layouts: annotations/SPLIT/SPLIT.json with images/SPLIT/ (PartImageNet_Seg), or SPLIT.json with
    SPLIT/<wnid>/ (PartImageNet_OOD), or a mixture. Raises FileNotFoundError, ValueError.
    """
    root = Path(root)
    names = [f'annotations/{split}/{split}.json', f'annotations/{split}.json', f'{split}.json']
    path = next((root / name for name in names if (root / name).is_file()), None)
    if path is None:
        raise FileNotFoundError(f'{root}: has no {" nor ".join(names)}, expected the annotations '
                                f'of PartImageNet. {PART_IMAGE_NET_CHECK}')
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
        categories = sorted(content['categories'], key=lambda c: c['id'])
        label_of = {c['id']: number for number, c in enumerate(categories, 1)}
        images = {image['id']: dict(path=image['file_name'], annotations=[],
                                    size=(image['width'], image['height']))
                  for image in content['images']}
        for annotation in content['annotations']:
            add_annotation(annotation, images, label_of, path)
        parts = [(c['supercategory'], c['name']) for c in categories]
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError, UnicodeError) as error:
        raise ValueError(f'{path}: got {type(error).__name__}: {error}, expected a COCO-style file '
                         'with images (file_name, width, height), categories (name, supercategory) '
                         'and annotations (segmentation, bbox). The label maps of PartImageNet_Seg '
                         'are read by tools/part_quality.py --masks IMAGES LABELS --background 40. '
                         f'{PART_IMAGE_NET_CHECK}') from None
    repeated = (len(content['images']) - len(images)) + (len(categories) - len(label_of))
    if repeated or not images or not 0 < len(parts) < 255:
        raise ValueError(f'{path}: got {len(images)} images and {len(parts)} categories, '
                         f'{repeated} ids more than once; expected some images and 1 to 254 '
                         f'categories, each with its own id. {PART_IMAGE_NET_CHECK}')
    place = find_images(root, split, next(iter(images.values()))['path'])
    for image in images.values():
        image['path'] = str(root / place(image['path']))
    return list(images.values()), parts


def add_annotation(annotation, images, label_of, path):
    """Add an annotation to its image, unless it has no area or is a crowd. Raises ValueError."""
    image, category = annotation['image_id'], annotation['category_id']
    if image not in images:
        raise ValueError(f'{path}: got an annotation of image {image}, expected one of its '
                         f'{len(images)} images. {PART_IMAGE_NET_CHECK}')
    if category not in label_of:
        raise ValueError(f'{path}: got category_id {category} of image {image}, expected one of '
                         f'its {len(label_of)} categories. {PART_IMAGE_NET_CHECK}')
    if annotation.get('area', 1) > 0 and not annotation.get('iscrowd'):
        images[image]['annotations'].append(dict(
            label=label_of[category], bbox=annotation.get('bbox'),
            segmentation=annotation['segmentation']))


def find_images(root, split, name):
    """The function that turns a file_name into its path below ``root``. name: one file_name.

    Raises FileNotFoundError.
    """
    def path_in(folder):
        def place(file_name):
            base = PurePosixPath(file_name.replace('\\', '/')).name
            return folder.format(split=split, wnid=base.split('_')[0]) + base
        return place
    places = [path_in(folder) for folder in (
        'images/{split}/', 'images/{split}/{wnid}/', '{split}/', '{split}/{wnid}/')]
    for place in places:
        if (root / place(name)).is_file():
            return place
    raise FileNotFoundError(f'{root}: has no {", ".join(place(name) for place in places)}, '
                            'expected the images of PartImageNet in one of these folders. '
                            f'{PART_IMAGE_NET_CHECK}')


def part_image_net_map(image) -> np.ndarray:
    """The label map of an image of `read_part_image_net`. A later annotation covers earlier ones.

    Raises FileNotFoundError, ValueError.
    """
    path, size = image['path'], tuple(image['size'])
    if (found := size_of(path, PART_IMAGE_NET_CHECK)) != size:
        raise ValueError('{}: has {}x{} pixels, its annotations are for {}x{}; expected the same. '
                         '{}'.format(path, *found, *size, PART_IMAGE_NET_CHECK))
    labels = np.zeros(found[::-1], np.uint8)
    for annotation in image['annotations']:
        try:
            labels[mask_of(annotation, labels.shape)] = annotation['label']
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ValueError(f'{path}: got an unusable segmentation ({error}), expected polygons '
                             f'or run lengths as in COCO. {PART_IMAGE_NET_CHECK}') from None
    if not labels.any():
        raise ValueError(f'{path}: got annotations that cover no pixel, expected at least one. '
                         f'{PART_IMAGE_NET_CHECK}')
    return labels


# Pascal-Part

def list_pascal_part(root, split) -> list:
    """Names of the images of a split of Pascal-Part, in the order of VOC 2010.

    Raises FileNotFoundError for a missing list or annotation.
    """
    root = Path(root)
    path = root / f'ImageSets/Main/{split}.txt'
    if not path.is_file():
        raise FileNotFoundError(f'{path}: not found, expected VOCdevkit/VOC2010 as published. '
                                f'{PASCAL_PART_CHECK}')
    names = [line.split()[0] for line in path.read_text(encoding='utf-8').splitlines()
             if line.strip()]
    missing = [name for name in names if not (root / f'Annotations_Part/{name}.mat').is_file()]
    if missing or not names:
        raise FileNotFoundError(
            f'{len(missing)} of {len(names)} images of {path} have no annotation, expected '
            f'{root}/Annotations_Part/{(missing or ["NAME"])[0]}.mat. Unpack trainval.tar.gz of '
            f'Pascal-Part there. {PASCAL_PART_CHECK}')
    return names


def read_pascal_part(root, name) -> dict:
    """``labels`` (H, W), ``label`` and ``bbox`` of an image of Pascal-Part.

    labels: `PASCAL_LABELS`; objects and their parts in the order of the file, a later one covers
        earlier ones. label: the VOC class of the largest object, 0 to 19. bbox: of this object.
    Raises FileNotFoundError, ValueError.
    """
    path, photo = Path(root) / f'Annotations_Part/{name}.mat', Path(root) / f'JPEGImages/{name}.jpg'
    shape = size_of(photo, PASCAL_PART_CHECK)[::-1]
    try:
        objects = loadmat(path)['anno'][0, 0]['objects'].ravel()
        found = [(int(o['class_ind'].item()), o['mask'] > 0, [
            (str(part['part_name'].item()), part['mask'] > 0) for part in o['parts'].ravel()])
            for o in objects]
    except Exception as error:  # scipy has many exceptions for damaged files
        raise ValueError(f'{path}: got no annotation of Pascal-Part ({error!r}), expected anno.'
                         f'objects with class_ind, mask, parts. {PASCAL_PART_CHECK}') from None
    labels = np.zeros(shape, np.uint8)
    for number, mask, parts in found:
        if not 1 <= number <= len(PASCAL_CLASSES):
            raise ValueError(f'{path}: got class_ind {number}, expected 1 to '
                             f'{len(PASCAL_CLASSES)}. {PASCAL_PART_CHECK}')
        for part, pixels in (('', mask), *parts):
            key = PASCAL_CLASSES[number - 1], re.sub(r'_\d+$', '', part)
            if key not in PASCAL_LABELS:
                raise ValueError(f'{path}: got part {part!r} of class {key[0]}, expected one of '
                                 f'{PASCAL_PARTS[key[0]]}. {PASCAL_PART_CHECK}')
            if pixels.shape != shape:
                raise ValueError('{}: got a mask of {}x{} pixels, its image {} has {}x{}; expected '
                                 'the same. {}'.format(path, *pixels.shape[::-1], photo,
                                                       *shape[::-1], PASCAL_PART_CHECK))
            labels[pixels] = PASCAL_LABELS.index(key) + 1
    number, mask = max(((n, m) for n, m, _ in found), key=lambda o: o[1].sum(),
                       default=(0, np.zeros(1)))
    if not mask.any():
        raise ValueError(f'{path}: got no object with pixels, expected one or more. '
                         f'{PASCAL_PART_CHECK}')
    return dict(labels=labels, label=number - 1, bbox=box_of(mask))
