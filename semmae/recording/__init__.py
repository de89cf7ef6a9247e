"""From a finished run to its lines in results.jsonl, with what it predicted."""
