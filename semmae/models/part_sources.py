"""Sources of parts: the learned maps, and the baselines that they are compared with.

B images, L = grid x grid patches, P parts, D channels.

The interface: ``source(learner, images) -> (part_ids (B, L) int64, foreground (B, L) float)`` for a
`PartLearner` and normalised images (B, 3, H, W), where a larger foreground is more object; and
``source.num_parts(learner)``. Part stores, online parts and part quality read parts through it.
"""
import contextlib
import math
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
    foreground_scores,
    part_ids,
    unlike_border_parts,
    voronoi_ids,
)
from ..registry import MODELS
from .foreground import BY, Ranking, object_first

SOURCES = dict(learned='semmae.LearnedParts', heads='semmae.HeadParts', kmeans='semmae.KMeansParts',
               colour='semmae.ColourParts', voronoi='semmae.VoronoiParts', cells='semmae.CellParts')


class PartSource(BaseModule):
    """A source of as many parts as the learner has."""

    def num_parts(self, learner):
        """Number of part ids that the source can give."""
        return learner.num_parts


@MODELS.register_module()
class LearnedParts(PartSource):
    """The argmax of Eq. 2 (Sec. 3.2).

    foreground: how patches are ranked (measured in benchmarks/results/parts): 'parts-border': by
        `unlike_border_parts`. 'parts': by `foreground_scores` (Sec. 4.2). Or ``by`` of a
        `foreground.Ranking`: 'border', 'attention', 'both' or 'centre'.
    layer: of the encoder, for these; None: the tokens that it gives, and its last attention.
    A learner with an object ranks the object's patches above all others.
    Raises ValueError for another ranking, and for a layer of a ranking by the parts.
    """

    def __init__(self, foreground='border', layer=None):
        super().__init__()
        of_parts = 'parts-border', 'parts'
        if foreground not in (*of_parts, *BY) or layer is not None and foreground in of_parts:
            raise ValueError(f'foreground is {foreground!r} with layer {layer}, expected one of '
                             f'{(*of_parts, *BY)}; the first two read no layer')
        self.foreground = foreground
        self.ranking = None if foreground in of_parts else Ranking(foreground, layer)

    def forward(self, learner, images):
        seen = learner.look(images, self.ranking)
        logits = learner.attend(images, seen)[0]
        ids = part_ids(logits)  # of logits, see `part_ids`
        if self.ranking:
            scores = self.ranking.scores(seen, learner.grid)
        elif self.foreground == 'parts-border':
            scores = unlike_border_parts(logits.softmax(1), learner.grid)
        else:
            scores = foreground_scores(learner.normalised(logits))
        return ids, object_first(scores, ids) if learner.object else scores


@MODELS.register_module()
class HeadParts(PartSource):
    """The head with most attention to each patch in the encoder's last layer (Table 4, "iBOT").

    Foreground: the mean attention of the heads.
    """

    foreground = 'attention'

    def num_parts(self, learner):
        return learner.encoder.num_heads

    def forward(self, learner, images):
        attention = learner.encoder.look(images, attention_layers=(-1,)).attention[-1]
        return attention.argmax(1), attention.mean(1)


class ClusteredParts(PartSource):
    """k-means with the learner's number of parts. Foreground: `unlike_border_parts`.

    is_pooled: one set of centres for all images, so a part has one meaning; call `fit`
        first. False: each image has its own clusters, numbered by their share of the border, the
        largest first.
    object: config of an `ObjectMap`; None: that of the learner, if it has one. Part 0 is then the
        background, and the other parts are clusters of the object's patches.
    """

    STARTS = 3  # k-means keeps the best of these
    needs_encoder = True

    def __init__(self, is_pooled=False, seed=0, object=None):
        super().__init__()
        self.is_pooled, self.seed, self.centres = is_pooled, seed, None
        self.own_object = MODELS.build(dict(object, type='semmae.ObjectMap')) if object else None

    def object(self, learner):
        """The `ObjectMap` that the clusters are within, or None."""
        return self.own_object or learner.object

    def read(self, learner, images):
        """(features (B, L, D) float32, patches that are clustered (B, L) bool)."""
        found = self.object(learner)
        seen = learner.encoder.look(images, **(found.ranking.reads if found else {})) if (
            found or self.needs_encoder) else None
        features = self.features(learner, images, seen).float()
        inside = found(seen, learner.grid)[0] > 0 if found else torch.ones(
            features.shape[:2], dtype=torch.bool, device=features.device)
        return features, inside

    def features(self, learner, images, seen):
        """(B, L, D): the features that are clustered. seen: what the encoder saw, if anything."""
        raise NotImplementedError

    def cluster(self, features, learner):
        """k-means of features (n, D); fewer clusters than parts if there are fewer features."""
        wanted = learner.num_parts - bool(self.object(learner))
        return KMeans(min(wanted, len(features)), n_init=self.STARTS,
                      random_state=self.seed).fit(features)

    def fit(self, learner, batches):
        """Find the centres for all images, from batches (B, 3, H, W) of some of them."""
        features = [found[inside].cpu() for found, inside in (
            self.read(learner, images) for images in batches)]
        self.centres = self.cluster(torch.cat(features).numpy(), learner).cluster_centers_

    def forward(self, learner, images):
        features, inside = self.read(learner, images)
        if self.is_pooled:
            if self.centres is None:
                raise ValueError('pooled k-means has no centres: call fit(learner, batches) first')
            ids = torch.cdist(features, features.new_tensor(self.centres)).argmin(-1)
        else:
            ids = torch.zeros_like(inside, dtype=torch.long)
            for own, where, of_image in zip(ids, inside, features):
                labels = self.cluster(of_image[where].cpu().numpy(), learner).labels_
                own[where] = torch.from_numpy(labels).long().to(ids.device)
        is_inside = bool(self.object(learner))
        if is_inside:
            ids = (ids + 1) * inside
        maps = F.one_hot(ids, learner.num_parts).movedim(-1, 1).float()
        if not self.is_pooled and not is_inside:
            order = border_share(maps, learner.grid).argsort(dim=1, descending=True, stable=True)
            ids = order.argsort(dim=1).gather(1, ids)
        scores = unlike_border_parts(maps, learner.grid)
        return ids, object_first(scores, ids) if is_inside else scores


@MODELS.register_module()
class KMeansParts(ClusteredParts):
    """k-means on the encoder's patch tokens."""

    def features(self, learner, images, seen):
        return seen.patches


@MODELS.register_module()
class ColourParts(ClusteredParts):
    """k-means on the mean colour of each patch, without a network."""

    needs_encoder = False

    def features(self, learner, images, seen):
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
class CellParts(PartSource):
    """Fixed cells: a checkerboard of P equal rectangles, the same in all images. The baseline.

    P = rows x columns, as square as possible: 3 x 4 for 12. Foreground: `unlike_border_parts`.
    """

    def forward(self, learner, images):
        rows = next(r for r in range(math.isqrt(learner.num_parts), 0, -1)
                    if learner.num_parts % r == 0)
        columns, grid = learner.num_parts // rows, learner.grid
        at = torch.arange(grid, device=images.device)
        ids = (at * rows // grid)[:, None] * columns + at * columns // grid
        ids = ids.flatten().expand(len(images), -1)
        maps = F.one_hot(ids, learner.num_parts).movedim(-1, 1).float()
        return ids, unlike_border_parts(maps, grid)


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
