"""Hooks, optimiser groups and checkpoints for mmengine's runner."""
