"""Data sets, part store, transforms.

``check`` and its parts (``check_*``), ``coco_masks``, ``image_files``, ``layouts``,
``part_annotations``, ``part_store``, ``stored`` and ``toy`` import neither torch nor mm libraries.
"""
