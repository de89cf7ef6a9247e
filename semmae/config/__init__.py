"""Configs: reading, looking up, identity and recipe of a training, checks before the first step."""
