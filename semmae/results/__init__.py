"""Lines of results.jsonl: reading, protocol, predictions, statistics, logs of other tools.

Imports neither torch nor the mm libraries, nor does `semmae.reporting`.
"""
