"""iNaturalist 2019, 1,010 species, from its COCO-style annotation files."""
import json
from pathlib import Path, PurePosixPath

from mmpretrain.datasets import BaseDataset

from ..registry import DATASETS

KEYS = ('images', 'annotations', 'categories')


@DATASETS.register_module()
class INaturalist2019(BaseDataset):
    """Images of train2019.json or val2019.json, labelled in the order of the category ids.

    DeiT and iBOT number the classes by first appearance, which differs between the two files;
    with the real ids 0..1009 a label here is the category id itself.
    Both layouts in use are read: ``train_val2019/<super category>/<id>/x.jpg`` as published, and
    ``train_val2019/<id>/x.jpg``.
    """

    def __init__(self, data_root='', ann_file='train2019.json', **kwargs):
        super().__init__(ann_file=ann_file, data_root=str(data_root), **kwargs)

    def load_data_list(self):
        content = read_annotations(self.ann_file)
        label_of, names = number_categories(content['categories'])
        label_by_image = {}
        for annotation in content['annotations']:
            image, category = annotation['image_id'], annotation['category_id']
            if category not in label_of:
                raise ValueError(f'{self.ann_file}: found category_id {category} of image {image}, '
                                 f'expected one of its {len(names)} categories. {AGAIN}')
            if label_by_image.setdefault(image, label_of[category]) != label_of[category]:
                raise ValueError(f'{self.ann_file}: found two labels for image {image}, expected '
                                 f'one. {AGAIN}')
        bare = [i['file_name'] for i in content['images'] if i['id'] not in label_by_image]
        if bare:
            raise ValueError(f'{self.ann_file}: found {len(bare)} images without a label, first '
                             f'{bare[0]}, expected one annotation an image. {AGAIN}')
        wanted = self._metainfo.setdefault('classes', names)
        if len(wanted) != len(names):
            raise ValueError(f'{self.ann_file}: found {len(names)} categories, expected the '
                             f'{len(wanted)} of metainfo. Leave classes out of the config')
        folder = Path(self.img_prefix or '.')
        path_in = find_layout(folder, content['images'])
        return [dict(img_path=str(folder / path_in(image['file_name'])),
                     gt_label=label_by_image[image['id']]) for image in content['images']]


AGAIN = 'Download the annotation file again (github.com/visipedia/inat_comp, 2019)'


def read_annotations(path):
    """The content of an annotation file that has images, annotations and categories."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path}: not found, expected train2019.json or val2019.json of '
                                'iNaturalist 2019. Run: python tools/check_data.py inat19')
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except ValueError as error:
        raise ValueError(f'{path}: found no JSON ({error}), expected a COCO-style file. '
                         f'{AGAIN}') from None
    missing = [k for k in KEYS if not (isinstance(content, dict) and content.get(k))]
    if missing:
        raise ValueError(f"{path}: found no {', '.join(missing)}, expected a labelled file. The "
                         'test set has no public labels: use train2019.json or val2019.json')
    return content


def number_categories(categories):
    """({category id: label}, names), in the order of the ids."""
    ordered = sorted(categories, key=lambda category: category['id'])
    return ({category['id']: label for label, category in enumerate(ordered)},
            tuple(str(category.get('name', category['id'])) for category in ordered))


def without_super(name):
    """``train_val2019/Plants/644/x.jpg`` as ``train_val2019/644/x.jpg``."""
    parts = PurePosixPath(name).parts
    return str(PurePosixPath(*parts[:-3], *parts[-2:])) if len(parts) > 3 else name


def find_layout(folder, images):
    """The function from a file name of the annotations to the path below ``folder``."""
    name = images[0]['file_name']
    for path_in in (str, without_super):
        if (folder / path_in(name)).is_file():
            return path_in
    raise FileNotFoundError(
        f'{folder}: found neither {name} nor {without_super(name)}, expected the images in one of '
        f'the two layouts. Unpack train_val2019.tar.gz in {folder}, then run: '
        'python tools/check_data.py inat19')
