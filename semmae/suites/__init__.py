"""Suites of runs: rows, their order, their costs."""
