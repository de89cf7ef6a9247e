"""iNaturalist 2019, 1,010 species, from its COCO-style annotation files."""
from pathlib import Path

from mmpretrain.datasets import BaseDataset

from ..registry import DATASETS
from .layouts import INAT_CHECK, read_inat, without_super


@DATASETS.register_module()
class INaturalist2019(BaseDataset):
    """Images of train2019.json or val2019.json, labelled in the order of the category ids.

    With the real ids 0..1009, a label is the category id. DeiT and iBOT number the classes by
    first appearance, which differs between the two files.
    Layouts: ``train_val2019/<super category>/<id>/x.jpg`` as published, or
    ``train_val2019/<id>/x.jpg``.
    """

    def __init__(self, data_root='', ann_file='train2019.json', **kwargs):
        super().__init__(ann_file=ann_file, data_root=str(data_root), **kwargs)

    def load_data_list(self):
        rows, names = read_inat(self.ann_file)
        wanted = self._metainfo.setdefault('classes', tuple(names.values()))
        if len(wanted) != len(names):
            raise ValueError(f'{self.ann_file}: got {len(names)} categories, expected the '
                             f'{len(wanted)} of metainfo. Leave classes out of the config')
        folder = Path(self.img_prefix or '.')
        path_in = find_layout(folder, rows[0][0])
        return [dict(img_path=str(folder / path_in(name)), gt_label=label) for name, label in rows]


def find_layout(folder, name):
    """The function that turns a file name of the annotations into its path below ``folder``.

    name: of an image.
    """
    for path_in in (str, without_super):
        if (folder / path_in(name)).is_file():
            return path_in
    raise FileNotFoundError(
        f'{folder}: has neither {name} nor {without_super(name)}, expected the images in one of '
        f'the two layouts. Unpack train_val2019.tar.gz in {folder}. {INAT_CHECK}')
