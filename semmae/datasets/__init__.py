"""Data sets, part store, transforms.

``check``, ``image_files``, ``layouts``, ``part_store``, ``stored`` and ``toy`` import neither torch
nor mm libraries.
"""
