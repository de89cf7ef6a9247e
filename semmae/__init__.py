"""SemMAE: semantic-guided masking for masked autoencoders, from images to tables."""
__version__ = '0.1.0'
