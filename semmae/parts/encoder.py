"""A frozen backbone as the source of parts, without part learning."""
from dataclasses import dataclass
from typing import Any

from ..datasets.photos import Photos, require_count
from ..models.part_sources import SOURCES
from ..registry import MODELS
from .learner import own_device


@dataclass(frozen=True)
class BackboneSource:
    """Parts from the tokens or the attention of a backbone, or from colours.

    backbone: has the backbone's config at ``cfg.model.backbone``, and its weights in ``network``.
    source: a key of `SOURCES`, but not 'learned'. grid: patches a side; None: the backbone's.
    object: config of an `ObjectMap`, or None; see `models.part_sources.ClusteredParts`.
    """

    backbone: Any
    num_parts: int = 6
    source: str = 'kmeans'
    grid: int | None = None
    object: dict | None = None

    def open(self, images):
        """(model, `Photos` of a folder of images, fields on how the parts are made).

        The model is a `PartLearner`, whose own weights are not used. Images are centre crops at the
        resolution of the encoder's input, normalised as for the backbone.
        """
        if self.source not in SOURCES or self.source == 'learned':
            raise ValueError(f'source of parts is {self.source!r}, expected one of '
                             f'{", ".join(name for name in SOURCES if name != "learned")}')
        require_count('num_parts', self.num_parts)
        if self.grid is not None:
            require_count('grid', self.grid)
        if self.object is not None and not isinstance(self.object, dict):
            raise ValueError(f'object is {self.object!r}, expected the config of an ObjectMap, as '
                             "dict(by='border', threshold='otsu')")
        network, cfg = self.backbone.network, self.backbone.cfg.model
        pixels = {key: cfg.data_preprocessor[key] for key in ('mean', 'std')}
        encoder = dict(type='semmae.PartEncoder', backbone=cfg.backbone,
                       grid=self.grid or network.patch_resolution[0])
        model = MODELS.build(dict(
            type='semmae.PartLearner', encoder=encoder, num_parts=self.num_parts,
            decoder=dict(type='semmae.PartDecoder', channels=(1,), num_upsamplings=0),
            parts=dict(type=SOURCES[self.source]), object=self.object,
            data_preprocessor=dict(type='semmae.ImagePreprocessor', **pixels)))
        model.encoder.backbone.load_state_dict(network.state_dict())
        side = model.grid * model.encoder.patch_size
        photos = Photos(images, [dict(type='semmae.LoadCenterCrop', size=side),
                                 dict(type='semmae.PackImage')])
        return model.to(own_device()).eval(), photos, dict(precision='float32')
