"""Normalises images as the backbone of a config expects them."""
from mmengine.config import Config

from .lookup import Node, at

PREPROCESSOR = 'model.data_preprocessor'


def normalize_for_backbone(cfg: Config, options: Node = ()) -> None:
    """Put mean and std of a timm ViT into ``model.data_preprocessor``.

    The backbone's own ``mean`` and ``std`` come first, then timm's. ``options``: keys of
    --cfg-options; a mean or std among them stays.
    """
    encoder = at(cfg, 'model.encoder.backbone')
    backbone = encoder or at(cfg, 'model.backbone')
    if isinstance(encoder, str):
        backbone = dict(type='semmae.TimmViT', model_name=encoder)
    if not isinstance(backbone, dict) or backbone.get('type') != 'semmae.TimmViT':
        return
    if encoder and not at(cfg, PREPROCESSOR):
        cfg.model.data_preprocessor = dict(type='semmae.ImagePreprocessor')
    if not isinstance(preprocessor := at(cfg, PREPROCESSOR), dict):
        return
    from ..models.timm_vit import normalization  # loads torch
    wanted = normalization(backbone.get('model_name'), backbone.get('mean'), backbone.get('std'))
    for key, value in zip(('mean', 'std'), wanted, strict=True):
        if f'{PREPROCESSOR}.{key}' not in options:
            preprocessor[key] = value
