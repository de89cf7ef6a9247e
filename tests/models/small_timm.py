"""Small networks of timm under their real names."""
import torch

from semmae.registry import MODELS

SMALL = dict(depth=4, embed_dim=24, num_heads=3)
FAMILIES = {  # prefix tokens, whether the first is a class token
    'vit_small_patch14_dinov2': (1, True), 'vit_small_patch14_reg4_dinov2': (5, True),
    'vit_small_patch16_dinov3': (5, True), 'vit_base_patch16_siglip_224': (0, False),
    'deit3_small_patch16_224': (1, True), 'eva02_tiny_patch14_224': (1, True),
    'vit_huge_patch14_gap_224': (0, False), 'vit_base_patch16_224.mae': (1, True),
    'deit_tiny_distilled_patch16_224': (2, True), 'beit_base_patch16_224': (1, True)}
DINOV2 = 'vit_small_patch14_dinov2'


def build(name=DINOV2, **kwargs):
    """A small TimmViT; its weights are random, and no layer scale hides a block."""
    torch.manual_seed(0)
    model = MODELS.build(dict(type='semmae.TimmViT', model_name=name, **SMALL, **kwargs))
    for parameter in model.parameters():
        parameter.data.normal_(std=.2)
    return model.eval()


def images_of(*size, batch=2):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))
