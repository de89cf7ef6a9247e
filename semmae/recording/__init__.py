"""Writes the lines of a finished run to results.jsonl, and its predictions."""
