"""Classification by nearest neighbours on frozen features, as a head of mmpretrain's classifier.

B images, T images in the bank, D channels, C classes.
"""
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmpretrain.structures import DataSample

from ..functional.knn import nearest, vote
from ..registry import MODELS


@MODELS.register_module()
class KNNHead(BaseModule):
    """Weighted k-NN (DINO): neighbours by cosine similarity, votes exp(similarity / temperature).

    k: number of neighbours that vote for ``pred_score``. also: other numbers of neighbours; their
        top-1 labels go into ``knn_labels`` of the samples, as {k: label}.

    The bank, all training images, is not part of a checkpoint: `semmae.KNNLoop` fills it.
    Raises ValueError for numbers below 1 and a temperature that is not positive.
    """

    def __init__(self, num_classes, k=20, also=(), temperature=0.07):
        super().__init__()
        if not temperature > 0:
            raise ValueError(f'temperature={temperature}, expected a number above 0')
        self.ks = (k, *also)
        if min(self.ks) < 1:
            raise ValueError(f'k={k}, also={also}: expected at least 1 neighbour each')
        self.num_classes, self.temperature = num_classes, temperature
        self.bank = self.labels = None

    def remember(self, features, labels):
        """Set the bank: features (T, D) of length 1, labels (T,) int64 in 0..C-1, or ValueError."""
        if max(self.ks) > len(features):
            raise ValueError(f'k-NN: got {len(features)} training images, expected at least '
                             f'{max(self.ks)}, the largest k; lower model.head.k and '
                             'model.head.also')
        if labels.min() < 0 or labels.max() >= self.num_classes:
            raise ValueError(f'k-NN: got labels from {labels.min()} to {labels.max()}, expected '
                             f'0 to {self.num_classes - 1}; set model.head.num_classes')
        if not features.isfinite().all():
            raise ValueError('k-NN: got NaN or infinite features, expected finite ones. Check '
                             'the checkpoint for NaN')
        self.bank, self.labels = features, labels

    def predict(self, feats, data_samples=None):
        """Data samples with ``pred_score`` (C,), ``pred_label`` and ``knn_labels``.

        feats: a tuple of features (B, D); the last is used. Raises ValueError without a bank.
        """
        if self.bank is None or self.labels is None:
            raise ValueError('k-NN needs training images, which are not in a checkpoint. Run: '
                             'python tools/train.py CONFIG, which stores and evaluates them')
        queries = F.normalize(feats[-1].float(), dim=1)
        similarity, index = nearest(queries, self.bank, max(self.ks))
        labels = self.labels[index]
        shares = {k: vote(similarity[:, :k], labels[:, :k], self.num_classes, self.temperature)
                  for k in self.ks}
        main, *also = self.ks
        others = {k: shares[k].argmax(1).tolist() for k in also}
        samples = data_samples or [DataSample() for _ in queries]
        for i, sample in enumerate(samples):
            score = shares[main][i]
            sample.set_pred_score(score).set_pred_label(score.argmax().unsqueeze(0))
            sample.set_field({k: other[i] for k, other in others.items()}, 'knn_labels')
        return samples
