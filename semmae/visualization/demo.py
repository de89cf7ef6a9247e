"""First pictures of a few images: parts and masks at once, reconstructions of a small MAE.

Nothing is downloaded. Without images of the user, photographs are taken that come with two
libraries which this package needs anyway.
"""
import hashlib
import shutil
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import ClassVar

import mmcv
from mmengine.hooks import Hook
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..checkpoints.folder import checkpoints
from ..config.options import config_of, read_config
from ..datasets.part_store import list_images
from ..parts.extract import infer
from ..parts.learner import own_device
from ..registry import HOOKS, MODELS, TRANSFORMS
from ..training.run import train
from .pictures import MASK_RATIO, draw_masks, draw_reconstructions, spaced, take

SHIPPED = {'sklearn': ('datasets/images/china.jpg', 'datasets/images/flower.jpg'),
           'matplotlib': ('mpl-data/sample_data/grace_hopper.jpg',)}
NUM = 4  # images at most
MAE, EPOCHS = 'mm_configs/mini/mae_p16_mini.py', 5
NOTE = ('Of a small MAE that was trained on these images alone, so it has seen them: this shows '
        'what MAE predicts, not how well. ')


def shipped_photographs() -> list[Path]:
    """Photographs inside scikit-learn and matplotlib; some distributions leave them out."""
    found = [Path(str(files(package).joinpath(name)))
             for package, names in SHIPPED.items() for name in names]
    return [path for path in found if path.is_file()]


def small_copies(images, out, sizes) -> list[Path]:
    """A folder for each of ``sizes``, the shorter sides of copies of at most `NUM` images.

    A training reads small files faster. images: a folder, whose images are taken evenly spaced by
    name; None: `shipped_photographs`. Raises ValueError for a file that cannot be read,
    FileNotFoundError where there is no image.
    """
    paths = shipped_photographs()
    if images is not None:
        names = list_images(images)
        paths = [Path(images, names[i]) for i in spaced(len(names), NUM)]
    if not paths:
        raise FileNotFoundError('this installation of scikit-learn and matplotlib has no '
                                'photographs; give a folder of images with --images DIR')
    read = TRANSFORMS.build(dict(type='semmae.LoadImage'))
    folders = [Path(out, str(size)) for size in sizes]
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    for i, path in enumerate(paths):
        pixels = read(dict(img_path=str(path)))['img']
        for size, folder in zip(sizes, folders):
            copy = mmcv.imrescale(pixels, size / min(pixels.shape[:2]), interpolation='area')
            mmcv.imwrite(copy, str(folder / f'{i}_{path.stem}.jpg'))
    return folders


@dataclass(frozen=True)
class Clusters:
    """Parts without part learning, as the source of `pictures.draw_masks`.

    encoder: file of a DINOv2 ViT-S/14; parts are then k-means on its patch tokens within the
        object. None: k-means on the mean colours of the patches, without a network.
    """

    encoder: str | Path | None = None

    def load(self, images, num):
        """(batch, part_ids (B, L), P, mask ratio, None, the source in words)."""
        if self.encoder:
            name = f'k-means on the patch tokens of {Path(self.encoder).name}; part 0 is background'
            cfg = read_config('mm_configs/ablations/parts_dinov2.py', {
                'model.encoder.checkpoint': str(self.encoder), 'model.num_parts': 7})
            cfg.model.parts = dict(type='semmae.KMeansParts')
        else:
            name = ('k-means on the colours of the patches of each image, since no encoder was '
                    'given; nothing was learned')
            cfg = read_config('mm_configs/mini/semmae_parts_mini.py', {
                'model.encoder.grid': 14,
                'train_dataloader.dataset.dataset.pipeline.0.size': 224})
            cfg.model.parts = dict(type='semmae.ColourParts')
        model = MODELS.build(cfg.model)
        if self.encoder:
            model.encoder.init_weights()
        batch, _ = take(cfg, images, num)
        ids, _ = infer(model.to(own_device()).eval(), batch)
        return batch, ids.cpu(), model.num_parts, MASK_RATIO, None, name


@HOOKS.register_module()
class DemoBarHook(Hook):
    """Shows the iterations of a training in ``bar``, a rich `Progress` that the caller starts."""

    bar: ClassVar[Progress]

    def before_train(self, runner):
        self.task = self.bar.add_task('MAE', total=runner.max_iters, completed=runner.iter)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.bar.advance(self.task)


def train_small_mae(images, work_dir, epochs=EPOCHS):
    """Path of the checkpoint of a mini MAE on ``images``; continues a training that was stopped."""
    checkpoint = Path(work_dir, f'epoch_{epochs}.pth')
    if checkpoint.is_file():
        return checkpoint
    print('training a small MAE on these images', flush=True)
    with Progress(TextColumn('{task.description}'), BarColumn(), TextColumn(
            'step {task.completed} of {task.total}'), TimeElapsedColumn(), TextColumn('elapsed,'),
            TimeRemainingColumn(), TextColumn('left'), transient=True,
            disable=not (console := Console(stderr=True)).is_terminal, console=console) as bar:
        DemoBarHook.bar = bar
        train(MAE, work_dir=work_dir, resume=bool(checkpoints(work_dir)), options={
            'train_dataloader.dataset.dataset.data_root': str(images),
            'train_cfg.max_epochs': epochs, 'log_level': 'ERROR',
            'custom_hooks': [*config_of(MAE).custom_hooks, dict(type='semmae.DemoBarHook')]})
    return checkpoint


def draw_demo(out, images=None, encoder=None, epochs=EPOCHS):
    """Yields (what, path) of each picture in the folder ``out`` when it is there.

    images: a folder; None: `shipped_photographs`. encoder: see `Clusters`. epochs: of the MAE.
    """
    out = Path(out)
    large, small = small_copies(images, out / 'images', (256, 64))
    draw_masks(Clusters(encoder), large, path := out / 'parts_and_masks.png', num=NUM)
    yield 'parts and masks', path
    content = b''.join(path.read_bytes() for path in sorted(small.iterdir()))
    work_dir = out / f'mae_{hashlib.sha256(content).hexdigest()[:8]}'  # of these images
    checkpoint = train_small_mae(small, work_dir, epochs)
    draw_reconstructions(MAE, checkpoint, small, path := out / 'reconstructions.png', num=NUM,
                         note=NOTE)
    yield 'reconstructions', path
