"""Predictions of a trained classifier or segmenter for images."""
from typing import Any, NamedTuple

import torch
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.registry import DefaultScope

from ..checkpoints.load import load_whole
from ..config.lookup import kind
from ..config.options import read_config
from ..datasets.photos import Photos, images_of
from ..mmengine_patches import install
from ..progress_bar import track
from ..registry import MODELS


class Prediction(NamedTuple):
    """What a model says of one image; a classification has no label_map, a segmentation only that.

    name: relative path, or the file as given. label: the name of the best class, or its number as a
    text if the checkpoint does not have the names. score: its probability. label_map: (H, W) class
    indices at the size of the photo.
    """

    name: str
    label: str | None
    score: float | None
    label_map: Any


def is_segmentation(config, options=None):
    """Whether a config predicts label maps; ValueError if it predicts no classes at all."""
    cfg = read_config(config, options)
    if not cfg.get('test_dataloader') or not {'head', 'decode_head'} & {*cfg.model}:
        raise ValueError(f'{config} trains a {cfg.model.type} and predicts no classes; expected a '
                         'config of a classification or segmentation, for example '
                         'mm_configs/semmae_finetune.py')
    return 'decode_head' in cfg.model


def predict(config, checkpoint, images, options=None):
    """Yields a `Prediction` for each image.

    images: a folder, a file or a list of files; they go through the test's pipeline one at a time.
    Every tensor of the checkpoint must fit. Raises ValueError for a config without such a test and
    for an image that cannot be read, FileNotFoundError for a folder without images.
    """
    (root, names), cfg = images_of(images), read_config(config, options)
    is_segmentation(config, options)
    install()
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmpretrain')):
        model = MODELS.build(cfg.model)
        photos = Photos(root, [step for step in cfg.test_dataloader.dataset.pipeline
                               if kind(step) != 'LoadAnnotations'])
    classes = (load_whole(model, checkpoint).get('dataset_meta') or {}).get('classes') or ()
    model.to(get_device()).eval()
    for index, name in enumerate(track(names, 'predicting')):
        photo = photos[index, name]
        if isinstance(photo, str):
            raise ValueError(photo)
        with torch.no_grad():
            sample, = model.test_step(pseudo_collate([photo]))
        if 'pred_sem_seg' in sample:
            yield Prediction(name, None, None,
                             sample.pred_sem_seg.data.squeeze(0).cpu().numpy())
        else:
            best = int(sample.pred_score.argmax())
            shown = classes[best] if len(classes) == len(sample.pred_score) else str(best)
            yield Prediction(name, shown, float(sample.pred_score[best]), None)
