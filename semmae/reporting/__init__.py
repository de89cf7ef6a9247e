"""Tables, figures and reports out of ``results.jsonl``; imports neither torch nor mm*."""
