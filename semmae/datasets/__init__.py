"""Data sets, part store, transforms.

``image_files``, ``part_store`` and ``toy`` work without mm libraries.
"""
