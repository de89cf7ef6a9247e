"""Frozen features: encode a data set once into a feature store, then fit every probe on it."""
