"""Files of the published data sets, for the readers and for check.py. Imports no OpenMMLab."""
import json
from pathlib import Path, PurePosixPath

from scipy.io import loadmat

CUB_LISTS = ('images.txt', 'image_class_labels.txt', 'train_test_split.txt', 'bounding_boxes.txt',
             'classes.txt', 'parts/parts.txt', 'parts/part_locs.txt')
CARS_LABELLED = 'cars_test_annos_withlabels.mat'  # published outside car_devkit.tgz
CARS_CHECK = 'Run: python tools/check_data.py cars'
INAT_CHECK = 'Run: python tools/check_data.py inat19'
AGAIN = 'Download the annotation file again (github.com/visipedia/inat_comp, 2019)'


def read_cars(root, split) -> list:
    """(path below ``root``, class 1 to 196) of the images of a split of Stanford Cars, in order.

    Layouts: ``cars_annos.mat`` (all images, those of the test marked) with ``car_ims/``; or
    ``devkit/cars_train_annos.mat`` with ``cars_train/`` and, for the test,
    cars_test_annos_withlabels.mat with ``cars_test/``. The test file is in ``devkit/``
    (mmpretrain) or beside it (the archive, torchvision). Raises FileNotFoundError, ValueError.
    """
    names = (['devkit/cars_train_annos.mat'] if split == 'train' else
             [f'devkit/{CARS_LABELLED}', CARS_LABELLED])
    found = [root / name for name in ('cars_annos.mat', *names) if (root / name).is_file()]
    if not found:
        is_bare = split == 'test' and (root / 'devkit/cars_test_annos.mat').is_file()
        note = ' (devkit/cars_test_annos.mat has no labels)' if is_bare else ''
        raise FileNotFoundError(
            f'no {Path(names[0]).name}{note}, expected '
            f'{" or ".join(f"{root}/{n}" for n in names)}, or {root}/cars_annos.mat. {CARS_CHECK}')
    if found[0].name == 'cars_annos.mat':
        rows = [(str(name), int(label)) for name, label, is_test in read_mat(
            found[0], ['relative_im_path', 'class', 'test']) if bool(is_test) == (split == 'test')]
    else:
        rows = [(f'cars_{split}/{name}', int(label))
                for name, label in read_mat(found[0], ['fname', 'class'])]
    if strange := [label for _, label in rows if not 1 <= label <= 196]:
        raise ValueError(f'{found[0]}: got class {strange[0]}, expected 1 to 196. {CARS_CHECK}')
    return rows


def read_mat(path, fields) -> list:
    """The values of ``fields`` for each image of an annotation file of Stanford Cars."""
    try:
        rows = loadmat(path, squeeze_me=True)['annotations']
        missing = set(fields) - set(rows.dtype.names)
    except (ValueError, TypeError, KeyError, OSError, AttributeError) as error:
        raise ValueError(f'{path}: got no annotations of Stanford Cars ({error}), expected the '
                         f'published .mat file. {CARS_CHECK}') from error
    if missing:
        raise ValueError(f'{path}: got annotations without {", ".join(sorted(missing))}, '
                         f'expected {", ".join(fields)}. cars_test_annos.mat has no labels; take '
                         f'{CARS_LABELLED}. {CARS_CHECK}')
    return [[row[field] for field in fields] for row in rows.reshape(-1)]


def read_inat(path) -> tuple[list, dict]:
    """([(file name, label) of each image], {category id: name}) of an iNaturalist 2019 file.

    Labels number the category ids in ascending order. Raises FileNotFoundError, ValueError.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path}: not found, expected train2019.json or val2019.json of '
                                f'iNaturalist 2019. {INAT_CHECK}')
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise ValueError(f'{path}: is not JSON ({error}), expected a COCO-style file. '
                         f'{AGAIN}') from None
    if missing := [k for k in ('images', 'annotations', 'categories')
                   if not (isinstance(content, dict) and content.get(k))]:
        raise ValueError(f"{path}: has no {', '.join(missing)}, expected a labelled file. The "
                         'test set has no public labels: use train2019.json or val2019.json')
    names = {c['id']: str(c.get('name', c['id']))
             for c in sorted(content['categories'], key=lambda c: c['id'])}
    label_of = {category: label for label, category in enumerate(names)}
    labels: dict[int, int] = {}
    for image, category in ((a['image_id'], a['category_id']) for a in content['annotations']):
        if category not in label_of:
            raise ValueError(f'{path}: got category_id {category} of image {image}, expected one '
                             f'of its {len(names)} categories. {AGAIN}')
        if labels.setdefault(image, label_of[category]) != label_of[category]:
            raise ValueError(f'{path}: got two labels for image {image}, expected one. {AGAIN}')
    if bare := [i['file_name'] for i in content['images'] if i['id'] not in labels]:
        raise ValueError(f'{path}: got {len(bare)} images without a label, first {bare[0]}, '
                         f'expected one annotation an image. {AGAIN}')
    return [(i['file_name'], labels[i['id']]) for i in content['images']], names


def without_super(name) -> str:
    """``train_val2019/Plants/644/x.jpg`` of iNaturalist as ``train_val2019/644/x.jpg``."""
    parts = PurePosixPath(name).parts
    return str(PurePosixPath(*parts[:-3], *parts[-2:])) if len(parts) > 3 else name
