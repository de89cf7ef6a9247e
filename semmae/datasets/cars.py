"""Stanford Cars, 196 models, from either layout of its annotation files."""
from pathlib import Path

import mmpretrain.datasets
from mmpretrain.datasets import BaseDataset
from scipy.io import loadmat

from ..registry import DATASETS

LABELLED = 'cars_test_annos_withlabels.mat'
CHECK = 'Run: python tools/check_data.py cars'


@DATASETS.register_module()
class StanfordCars(BaseDataset):
    """The 8,144 training or 8,041 test images with labels 0 to 195, in the order of the file.

    Two layouts: ``cars_annos.mat`` with ``car_ims/``, all images and a mark for those of the test;
    or ``devkit/cars_train_annos.mat`` with ``cars_train/``, and for the test
    cars_test_annos_withlabels.mat, in ``devkit/`` (mmpretrain) or beside it (the archive's own
    place, torchvision), with ``cars_test/``. mmpretrain's reader knows the first place only.

    split: 'train' or 'test'.
    """

    METAINFO = mmpretrain.datasets.StanfordCars.METAINFO

    def __init__(self, data_root, split='train', **kwargs):
        if split not in ('train', 'test'):
            raise ValueError(f"split is {split!r}, expected 'train' or 'test'")
        self.split = split
        super().__init__(ann_file='', data_root=str(data_root), test_mode=split == 'test', **kwargs)

    def load_data_list(self):
        root, is_test = Path(self.data_root), self.split == 'test'
        if (root / 'cars_annos.mat').is_file():
            path, folder, name = root / 'cars_annos.mat', root, 'relative_im_path'
            rows = [row for row in read(path, (name, 'class', 'test'))
                    if bool(row['test']) == is_test]
        else:
            path, folder, name = self.devkit_file(root), root / f'cars_{self.split}', 'fname'
            rows = read(path, (name, 'class'))
        number = len(self.metainfo['classes'])
        strange = [row['class'] for row in rows if not 1 <= row['class'] <= number]
        if strange:
            raise ValueError(f'{path}: found class {strange[0]}, expected 1 to {number}. {CHECK}')
        return [dict(img_path=str(folder / str(row[name])), gt_label=int(row['class']) - 1)
                for row in rows]

    def devkit_file(self, root):
        """The annotations of the split in the layout with a devkit."""
        if self.split == 'train':
            places = [root / 'devkit' / 'cars_train_annos.mat']
        else:
            places = [root / 'devkit' / LABELLED, root / LABELLED]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            bare = root / 'devkit' / 'cars_test_annos.mat'
            raise FileNotFoundError(
                f'{root}: found neither cars_annos.mat nor {" nor ".join(map(str, places))}' + (
                    f'; {bare} has no labels, so nothing can be measured with it'
                    if self.split == 'test' and bare.is_file() else '')
                + f', expected one of them. {CHECK}')
        return found


def read(path, fields):
    """A dict of ``fields`` for each image of an annotation file."""
    try:
        rows = loadmat(path, squeeze_me=True)['annotations']
        missing = set(fields) - set(rows.dtype.names)
    except (ValueError, TypeError, KeyError, OSError, AttributeError) as error:
        raise ValueError(f'{path}: found no annotations of Stanford Cars ({error}), expected the '
                         f'published .mat file. {CHECK}') from error
    if missing:
        raise ValueError(f'{path}: found annotations without {", ".join(sorted(missing))}, '
                         f'expected {", ".join(fields)}. The file without labels is '
                         f'cars_test_annos.mat; take {LABELLED}. {CHECK}')
    return [{field: row[field] for field in fields} for row in rows.reshape(-1)]
