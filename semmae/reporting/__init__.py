"""Tables, figures and reports from ``results.jsonl``; imports neither torch nor mm*."""
