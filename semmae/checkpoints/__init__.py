"""Checkpoint files: reading as plain tensors, other projects' layouts, strict loading."""
