"""Suites of runs: rows, their order, what they cost."""
