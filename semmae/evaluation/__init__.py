"""Protocols, result files and metrics. Import the modules by name: this file stays light, so that
table tools can read results without torch or the mm libraries."""
