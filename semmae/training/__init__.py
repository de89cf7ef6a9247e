"""From a config to a finished training: run, resume, checkpoints, stopping, hooks."""
