"""Registered models. Import order follows the way of the data."""
from .backbone import ViT
from .classifier import KeptPatchClassifier
from .mae_decoder import MAEDecoder
from .masking import PartGuidedMasking, RandomMasking
from .part_decoder import PartDecoder
from .part_encoder import PartEncoder
from .part_learner import PartLearner
from .semmae import ImagePreprocessor, SemMAE

__all__ = ['ViT', 'KeptPatchClassifier', 'MAEDecoder', 'PartGuidedMasking', 'RandomMasking',
           'PartDecoder', 'PartEncoder', 'PartLearner', 'ImagePreprocessor', 'SemMAE']
