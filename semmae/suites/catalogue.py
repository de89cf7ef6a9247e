"""Every suite by its name (tools/run_suite.py NAME).

A row named ``task/recipe`` fills the table cells of that name.
"""
from .paper import DENSE, PAPER
from .small import (
    MINI,
    MINI_TABLES,
    PARTS,
    PARTS_CUB,
    QUICK,
    TABLE3_LEARNED,
    TABLE3_TRUE,
    TINY_IMAGENET,
    TRANSFER,
)

SUITES = {'dense': DENSE, 'mini': MINI, 'mini_tables': MINI_TABLES, 'paper': PAPER, 'parts': PARTS,
          'parts_cub': PARTS_CUB, 'quick': QUICK, 'table3_true': TABLE3_TRUE,
          'table3_learned': TABLE3_LEARNED, 'tiny_imagenet': TINY_IMAGENET, 'transfer': TRANSFER}
