"""SemMAE: semantic-guided masking for masked autoencoders, from images to tables."""
from .api import (
    embed,
    encoder_parts,
    learned_parts,
    load_backbone,
    long_table,
    predict,
    register_models,
    tables,
)

__version__ = '0.1.0'
__all__ = ['embed', 'encoder_parts', 'learned_parts', 'load_backbone', 'long_table', 'predict',
           'register_models', 'tables']
