"""Registered models. Import order follows the way of the data."""
from .backbone import ViT
from .classifier import KeptPatchClassifier
from .mae_decoder import MAEDecoder
from .masking import PartGuidedMasking, RandomMasking
from .part_decoder import PaintDecoder, PartDecoder
from .part_encoder import PartEncoder
from .part_learner import PartLearner
from .part_sources import (
    ColourParts,
    HeadParts,
    KMeansParts,
    LearnedParts,
    OnlineParts,
    VoronoiParts,
)
from .semmae import ImagePreprocessor, SemMAE

__all__ = ['ViT', 'KeptPatchClassifier', 'MAEDecoder', 'PartGuidedMasking', 'RandomMasking',
           'PaintDecoder', 'PartDecoder', 'PartEncoder', 'PartLearner', 'ColourParts', 'HeadParts',
           'KMeansParts', 'LearnedParts', 'OnlineParts', 'VoronoiParts', 'ImagePreprocessor',
           'SemMAE']
