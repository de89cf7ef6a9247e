"""Data sets, part store, transforms. ``part_store`` and ``toy`` work without mm libraries."""
