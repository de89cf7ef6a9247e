"""Training from a config: runs, resuming, checkpoints, stopping, hooks."""
