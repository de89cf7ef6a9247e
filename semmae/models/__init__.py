"""Registered models, imported in the order in which data pass through them."""
from .adversarial_masking import AdversarialMasking
from .backbone import ViT
from .classifier import KeptPatchClassifier
from .foreground import ObjectMap
from .knn_head import KNNHead
from .linear_seg_head import LinearSegHead
from .mae_decoder import MAEDecoder
from .masking import AttentionMasking, BlockwiseMasking, PartGuidedMasking, RandomMasking
from .part_decoder import PaintDecoder, PartDecoder
from .part_encoder import PartEncoder
from .part_learner import PartLearner
from .part_sources import (
    CellParts,
    ColourParts,
    HeadParts,
    KMeansParts,
    LearnedParts,
    OnlineParts,
    VoronoiParts,
)
from .semmae import ImagePreprocessor, SemMAE
from .simmim_vit import SimMIMViT
from .timm_vit import TimmViT
from .wrapped_backbone import WrappedBackbone

__all__ = ['ViT', 'KeptPatchClassifier', 'KNNHead', 'LinearSegHead', 'MAEDecoder',
           'AdversarialMasking', 'AttentionMasking',
           'BlockwiseMasking', 'PartGuidedMasking', 'RandomMasking',
           'PaintDecoder', 'PartDecoder', 'PartEncoder', 'PartLearner', 'ObjectMap',
           'CellParts', 'ColourParts', 'HeadParts', 'KMeansParts', 'LearnedParts', 'OnlineParts',
           'VoronoiParts', 'ImagePreprocessor', 'SemMAE', 'SimMIMViT', 'TimmViT', 'WrappedBackbone']
