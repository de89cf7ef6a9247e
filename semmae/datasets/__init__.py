"""Data sets, part store, transforms. ``part_store`` and ``toy`` can be used without mm libraries."""
