"""Commands: each parses its arguments, calls one function, and prints where the result went."""
