"""mmpretrain's classifier on the most foreground patches only (linear probing at 8x8, Sec. 4.2).

B images, L patches, D channels.
"""
import torch
from mmpretrain.models import ImageClassifier

from ..functional.parts import foreground_ids
from ..registry import MODELS


@MODELS.register_module()
class KeptPatchClassifier(ImageClassifier):
    """Uses only the ``num_candidates`` most foreground patches of each image.

    The data samples carry the scores (`semmae.LoadParts`), (L,) each.
    """

    def __init__(self, num_candidates, **kwargs):
        super().__init__(**kwargs)
        self.num_candidates = num_candidates

    def loss(self, inputs, data_samples):
        return self.head.loss(self.kept_features(inputs, data_samples), data_samples)

    def predict(self, inputs, data_samples=None, **kwargs):
        return self.head.predict(self.kept_features(inputs, data_samples), data_samples, **kwargs)

    def kept_features(self, inputs, data_samples):
        """The neck's output for the kept patches; ValueError for samples without scores."""
        if not data_samples or 'foreground' not in data_samples[0]:
            raise ValueError('KeptPatchClassifier: the samples carry no foreground scores; add '
                             "dict(type='semmae.LoadParts', store=...) to the pipeline and "
                             "'foreground' to the algorithm_keys of PackInputs")
        scores = torch.stack([torch.as_tensor(s.get('foreground')) for s in data_samples])
        x = self.backbone(inputs, foreground_ids(scores.to(inputs.device), self.num_candidates))
        return self.neck(x) if self.with_neck else x
