"""Sources of parts: the learned maps, and the baselines that they are compared with.

B images, L = grid x grid patches, P parts, D channels.

The interface: ``source(learner, images) -> (part_ids (B, L) int64, foreground (B, L) float)`` for a
`PartLearner` and normalised images (B, 3, H, W), where a larger foreground is more object; and
``source.num_parts(learner)``. Part stores, online parts and part quality read parts through it.
"""
import contextlib
import zlib

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.model import BaseModule
from sklearn.cluster import KMeans

from ..checkpoints.load import load_whole
from ..files import sha256
from ..functional.parts import (
    border_share,
    centre_scores,
    foreground_scores,
    part_ids,
    unlike_border_parts,
    unlike_border_tokens,
    voronoi_ids,
)
from ..registry import MODELS

SOURCES = dict(learned='semmae.LearnedParts', heads='semmae.HeadParts', kmeans='semmae.KMeansParts',
               colour='semmae.ColourParts', voronoi='semmae.VoronoiParts')


class PartSource(BaseModule):
    """A source of as many parts as the learner has."""

    def num_parts(self, learner):
        """Number of part ids that the source can give."""
        return learner.num_parts


@MODELS.register_module()
class LearnedParts(PartSource):
    """The argmax of Eq. 2 (Sec. 3.2).

    foreground: how patches are ranked (measured in benchmarks/results/parts). 'border': by
        `unlike_border_tokens`. 'parts-border': by `unlike_border_parts`. 'parts': by
        `foreground_scores` (Sec. 4.2). 'attention': by the attention of the encoder's class token.
        'centre': by the distance from the centre of the image, the baseline.
    Raises ValueError for another ranking.
    """

    def __init__(self, foreground='border'):
        super().__init__()
        choices = 'border', 'parts-border', 'parts', 'attention', 'centre'
        if foreground not in choices:
            raise ValueError(f'foreground is {foreground!r}, expected one of {choices}')
        self.foreground = foreground

    def forward(self, learner, images):
        logits, _, patches = learner.attend(images)
        ids = part_ids(logits)  # of logits, see `part_ids`
        if self.foreground == 'border':
            return ids, unlike_border_tokens(patches, learner.grid)
        if self.foreground == 'centre':
            return ids, centre_scores(learner.grid, ids.device).expand(len(ids), -1)
        if self.foreground == 'parts-border':
            return ids, unlike_border_parts(logits.softmax(1), learner.grid)
        if self.foreground == 'parts':
            return ids, foreground_scores(learner.normalised(logits))
        return ids, learner.encoder(images, return_heads=True)[2].mean(1)


@MODELS.register_module()
class HeadParts(PartSource):
    """The head with most attention to each patch in the encoder's last layer (Table 4, "iBOT").

    Foreground: the mean attention of the heads.
    """

    foreground = 'attention'

    def num_parts(self, learner):
        return learner.encoder.num_heads

    def forward(self, learner, images):
        attention = learner.encoder(images, return_heads=True)[2]
        return attention.argmax(1), attention.mean(1)


class ClusteredParts(PartSource):
    """k-means with the learner's number of parts. Foreground: `unlike_border_parts`.

    is_pooled: one set of centres for all images, so a part has one meaning; call `fit`
        first. False: each image has its own clusters, numbered by their share of the border, the
        largest first.
    """

    STARTS = 3  # k-means keeps the best of these

    def __init__(self, is_pooled=False, seed=0):
        super().__init__()
        self.is_pooled, self.seed, self.centres = is_pooled, seed, None

    def features(self, learner, images):
        """(B, L, D): the features that are clustered."""
        raise NotImplementedError

    def cluster(self, features, learner):
        return KMeans(learner.num_parts, n_init=self.STARTS, random_state=self.seed).fit(features)

    def fit(self, learner, batches):
        """Find the centres for all images, from batches (B, 3, H, W) of some of them."""
        features = [self.features(learner, images).flatten(0, 1).float().cpu().numpy()
                    for images in batches]
        self.centres = self.cluster(np.concatenate(features), learner).cluster_centers_

    def forward(self, learner, images):
        features = self.features(learner, images).float()
        if self.is_pooled:
            if self.centres is None:
                raise ValueError('pooled k-means has no centres: call fit(learner, batches) first')
            ids = torch.cdist(features, features.new_tensor(self.centres)).argmin(-1)
        else:
            ids = [self.cluster(f, learner).labels_ for f in features.cpu().numpy()]
            ids = torch.from_numpy(np.stack(ids)).long().to(features.device)
        maps = F.one_hot(ids, learner.num_parts).movedim(-1, 1).float()
        if not self.is_pooled:
            order = border_share(maps, learner.grid).argsort(dim=1, descending=True, stable=True)
            ids = order.argsort(dim=1).gather(1, ids)
        return ids, unlike_border_parts(maps, learner.grid)


@MODELS.register_module()
class KMeansParts(ClusteredParts):
    """k-means on the encoder's patch tokens."""

    def features(self, learner, images):
        return learner.encoder(images)[1]


@MODELS.register_module()
class ColourParts(ClusteredParts):
    """k-means on the mean colour of each patch, without a network."""

    def features(self, learner, images):
        return F.adaptive_avg_pool2d(images, learner.grid).flatten(2).transpose(1, 2)


@MODELS.register_module()
class VoronoiParts(PartSource):
    """Random cells: each patch belongs to the nearest of P random points. The baseline.

    The points depend on the image and the seed only, so a store can be made again. With
    ``is_fixed`` they are the same in all images, which measures the effect of position alone.
    Foreground: `unlike_border_parts`.
    """

    def __init__(self, is_fixed=False, seed=0):
        super().__init__()
        self.is_fixed, self.seed = is_fixed, seed

    def forward(self, learner, images):
        seeds = [0 if self.is_fixed else zlib.crc32(image.tobytes())
                 for image in images.float().cpu().numpy()]
        points = np.stack([np.random.default_rng((self.seed, s)).random((learner.num_parts, 2))
                           for s in seeds])
        ids = voronoi_ids(images.new_tensor(points), learner.grid)
        maps = F.one_hot(ids, learner.num_parts).movedim(-1, 1).float()
        return ids, unlike_border_parts(maps, learner.grid)


@MODELS.register_module()
class OnlineParts(BaseModule):
    """Parts computed in the training loop instead of read from a part store.

    learner: a config file of part learning, or the config of a `PartLearner`, whose ``parts`` name
        the source. checkpoint: its weights. grid: patches a side of the masks.
    The learner gets the image of the training step: flipped, cropped and at its resolution. (An
    extraction reads the file at ``grid * patch_size`` pixels.) Every step costs the encoder's
    forward pass. The learner is frozen and not in the checkpoints of the model.
    """

    def __init__(self, learner, checkpoint, grid=None):
        super().__init__()
        learner = dict(Config.fromfile(learner).model if isinstance(learner, str) else learner)
        if grid:
            learner['encoder'] = dict(learner['encoder'], grid=grid)
        learner = MODELS.build(learner)
        meta = load_whole(learner, checkpoint)
        self.kept_apart = [learner.requires_grad_(False).eval()]  # in a list: not a submodule
        self.num_parts, self.grid = learner.num_parts_out, learner.grid
        self.identity = dict(learner_sha256=sha256(checkpoint), grid=self.grid,
                             num_parts=self.num_parts,
                             learner=(meta.get('semmae') or {}).get('identity'))
        # As in an extraction: only learned parts were trained in mixed precision.
        self.is_mixed = isinstance(learner.parts, LearnedParts)

    @torch.no_grad()
    def forward(self, images):
        """Normalised (B, 3, H, W) -> (part_ids (B, L) int64, foreground (B, L))."""
        learner = self.kept_apart[0] = self.kept_apart[0].to(images.device)
        with contextlib.nullcontext() if self.is_mixed else torch.autocast(
                images.device.type, enabled=False):
            return learner.segment(images)
