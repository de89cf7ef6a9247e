"""Predictions of a trained classifier or segmenter for a folder of images."""
import torch
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.registry import init_default_scope

from ..checkpoints.load import load_whole
from ..config.lookup import kind
from ..config.options import read_config
from ..datasets.part_store import list_images
from ..datasets.photos import Photos
from ..mmengine_patches import install
from ..progress_bar import track
from ..registry import MODELS


def predict(config, checkpoint, images, options=None):
    """Yields (relative path, class, score, None) or (path, None, None, label map) of each image.

    The first for a classification: the name of the best class, its number if the checkpoint does
    not have the names, and its probability. The second for a segmentation: an (H, W) array of class
    indices at the size of the photo. Images are below the folder ``images`` and go through the
    test's pipeline one at a time. Every tensor of the checkpoint must fit. Raises ValueError for a
    config without such a test and for an image that cannot be read, FileNotFoundError for a folder
    without images.
    """
    names, cfg = list_images(images), read_config(config, options)
    if not cfg.get('test_dataloader') or not {'head', 'decode_head'} & {*cfg.model}:
        raise ValueError(f'{config} trains a {cfg.model.type} and predicts no classes; expected a '
                         'config of a classification or segmentation, for example '
                         'mm_configs/semmae_finetune.py')
    install()
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    model = MODELS.build(cfg.model)
    classes = (load_whole(model, checkpoint).get('dataset_meta') or {}).get('classes') or ()
    model.to(get_device()).eval()
    photos = Photos(images, [step for step in cfg.test_dataloader.dataset.pipeline
                             if kind(step) != 'LoadAnnotations'])
    for index, name in enumerate(track(names, 'predicting')):
        photo = photos[index, name]
        if isinstance(photo, str):
            raise ValueError(photo)
        with torch.no_grad():
            sample, = model.test_step(pseudo_collate([photo]))
        if 'pred_sem_seg' in sample:
            yield name, None, None, sample.pred_sem_seg.data.squeeze(0).cpu().numpy()
        else:
            best = int(sample.pred_score.argmax())
            shown = classes[best] if len(classes) == len(sample.pred_score) else str(best)
            yield name, shown, float(sample.pred_score[best]), None
