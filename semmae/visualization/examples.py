"""Images of test sets for a report, small and inside the page, if they can still be found."""
import base64
import io
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from mmengine.registry import DefaultScope
from PIL import Image
from torchvision.utils import draw_segmentation_masks

from ..config.dumped_config import dataset_of, kind, read_config
from ..registry import DATASETS
from ..reporting.figures import DROPPED, part_colours
from ..reporting.runs import folder_of

SIDE = 144  # pixels of the longer side
WIDE = 560  # pixels of a stored sheet
MOST_PICTURES = 400  # of a report
OPACITY = .7
IGNORED = 255


class Examples:
    """Draws the images of a report, at most ``MOST_PICTURES``; ``why`` says what is missing."""

    def __init__(self):
        self.left, self.why = MOST_PICTURES, ''
        self.sheets = {}

    def photos(self, work, names):
        """{name: data URI} of images of the test set of a work directory (`runs.WorkDir`)."""
        root, self.why = (None, 'No images: the run has no config.py.') if work is None else (
            image_root(work.config, names))
        return {} if root is None else self.drawn(names, lambda name: opened(root, name))

    def maps(self, work, record, names):
        """{name: data URI} of the stored label maps of a segmentation over the images."""
        root = image_root(work.config, names)[0] if work is not None else None
        folder = Path(record['source']).parent / Path(record['predictions']).with_suffix('')
        return {} if root is None else self.drawn(names, lambda name: overlay(
            opened(root, name), opened(folder, Path(name).with_suffix('.png'), is_map=True)))

    def true_maps(self, work, names):
        """{name: data URI} of the true label maps over the images, read as the test reads them."""
        root = image_root(work.config, names)[0] if work is not None else None
        if root is None:
            return {}
        try:
            true = true_labels(work.config, root, names)
        except Exception as error:  # of the data set's own code
            self.why = f'The true label maps cannot be read: {error}'
            return {}
        return self.drawn(true, lambda name: overlay(opened(root, name), true[name]))

    def stored(self, path, by_path, group):
        """[[title, data URI]] of the last masks and reconstructions of a pre-training.

        A run with results shows those of the pre-training that its load report names.
        """
        report = (group[0].get('load_report') if group else None) or {}
        if group:
            path = Path(str(report.get('path') or '')).parent
            path = path if path.resolve() in by_path else None
        if path is None:
            return []
        found = []
        for name in ('masks', 'reconstructions'):
            files = sorted(path.glob(f'*/vis_data/vis_image/{name}_*.png'), key=lambda file: (
                file.parts[-4], int(file.stem.rpartition('_')[2])
                if file.stem.rpartition('_')[2].isdigit() else 0))
            if files and files[-1] not in self.sheets and self.left > 0:
                self.sheets[files[-1]] = sheet_at(files[-1])
                self.left -= 1
            if files and (data := self.sheets.get(files[-1])):
                found.append([f'{name} of {path.name}', data])
        return found

    def drawn(self, names, draw):
        """{name: data URI} of those images that can be read."""
        found = {}
        for name in names:
            if self.left <= 0:
                self.why = f'The report shows at most {MOST_PICTURES} images.'
                break
            try:
                found[name] = as_data(draw(name))
            except (OSError, ValueError, Image.DecompressionBombError) as error:
                self.why = f'{len(names) - len(found)} images cannot be read, {name}: {error}'
                continue
            self.left -= 1
        return found


def image_root(config, names):
    """(the folder of a test set or None, a text on why it is None)."""
    loader = config.get('test_dataloader') or config.get('val_dataloader')
    data = dataset_of(loader or {})
    prefix = data.get('data_prefix') or ''
    prefix = prefix.get('img_path', '') if isinstance(prefix, dict) else prefix
    root = data.get('data_root')
    if not isinstance(root, str) or not isinstance(prefix, str):
        return None, 'No images: the config names no data_root of the test set.'
    # The defaults of the data sets of mmpretrain: CUB has its images in images, ImageNet in val.
    for below in (prefix, 'images', str(data.get('split', ''))):
        if names and Path(root, below, names[0]).is_file():
            return Path(root, below), ''
    return None, f'No images: {Path(root, prefix)} does not have {names[0] if names else "them"}.'


def opened(root, name, is_map=False):
    """An image below a folder: RGB, or the numbers of a label map."""
    path = Path(root, name)
    if not path.resolve().is_relative_to(Path(root).resolve()):
        raise ValueError(f'outside {root}')
    with Image.open(path) as image:
        return np.array(image) if is_map else image.convert('RGB')


def true_labels(config, root, names):
    """{name: (h, w) true label map} as the test set reads it, with its own steps."""
    bare = config.get('test_dataloader') or config.get('val_dataloader')
    with DefaultScope.overwrite_default_scope(config.get('default_scope', 'mmseg')):
        dataset = DATASETS.build(dict(bare['dataset']))
        places = {Path(dataset.get_data_info(position)['img_path']): position
                  for position in range(len(dataset))}
        samples = {name: dataset[places[root / name]]['data_samples']
                   for name in names if root / name in places}
    return {name: sample.gt_sem_seg.data.squeeze(0).numpy() for name, sample in samples.items()}


def overlay(image, labels):
    """An image with the colours of a label map (h, w) over it; ignored pixels are pale."""
    size = image.size
    labels = np.array(Image.fromarray(labels.astype(np.int32)).resize(
        size, Image.Resampling.NEAREST))
    classes = [int(k) for k in np.unique(labels) if k != IGNORED]
    colours = [tuple(map(int, colour)) for colour in part_colours(max(classes, default=0) + 1)]
    masks = torch.from_numpy(np.stack([*(labels == k for k in classes), labels == IGNORED]))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    shown = draw_segmentation_masks(pixels, masks, alpha=OPACITY, colors=[
        *(colours[k] for k in classes), (DROPPED,) * 3])
    return Image.fromarray(shown.permute(1, 2, 0).numpy())


def as_data(image, side=SIDE):
    """An RGB image as a data URI, at most ``side`` pixels wide and high."""
    image.thumbnail((side, side))
    content = io.BytesIO()
    image.save(content, 'JPEG', quality=80)
    return 'data:image/jpeg;base64,' + base64.b64encode(content.getvalue()).decode()


def sheet_at(path):
    """A stored sheet as a data URI; None if it cannot be read."""
    try:
        with Image.open(path) as image:
            return as_data(image.convert('RGB'), WIDE)
    except (OSError, ValueError, Image.DecompressionBombError):
        return None


def class_names(record):
    """The class names of a record's test set, from its protocol or config; [] if not known."""
    for name in ('test_dataloader', 'val_dataloader'):
        named = record['protocol'].get(f'{name}.dataset.metainfo.classes')
        if isinstance(named, list):
            return named
    return classes_at(folder_of(record))


@lru_cache(maxsize=64)
def classes_at(folder):
    """The class names of the test set of a work directory, [] if its config does not say them."""
    config = read_config(Path(folder, 'config.py'), [])
    data = dataset_of(config.get('test_dataloader') or config.get('val_dataloader') or {})
    metainfo = data.get('metainfo')
    named = metainfo.get('classes') if isinstance(metainfo, dict) else None
    if named is None:
        for scope in ('mmseg', 'mmpretrain'):
            found = DATASETS.get(str(data.get('type'))) or DATASETS.get(f'{scope}.{kind(data)}')
            named = named or (getattr(found, 'METAINFO', None) or {}).get('classes')
    return [str(name) for name in named] if isinstance(named, (list, tuple)) else []
