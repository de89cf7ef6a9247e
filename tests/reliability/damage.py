"""Damage to files, at random and by structure; every function is a function of its generator.

``rng``: a numpy Generator. Each function returns the damaged bytes and, in words, what was done.
"""
import json

import numpy as np


def damaged(content, rng, other):
    """A few bytes flipped, set, inserted, deleted, ...; never ``content`` itself. other: a file."""
    while True:
        name = rng.choice(list(ACTIONS))
        start = int(rng.integers(len(content) + 1))
        length = int(min(2 ** rng.integers(0, 9), len(content)))
        found = ACTIONS[name](content, rng, start, length, other)
        if found != content:
            return found, f'{name} at {start}, {length} bytes'


def _flipped(content, rng, start, length, other):
    changed = bytearray(content)
    for at in rng.integers(len(content), size=rng.integers(1, 4)):
        changed[at] ^= 1 << rng.integers(8)
    return bytes(changed)


def _set(content, rng, start, length, other):
    return content[:start] + rng.bytes(length) + content[start + length:]


ACTIONS = {
    'bits flipped': _flipped,
    'bytes set': _set,
    'inserted': lambda c, rng, start, n, other: c[:start] + rng.bytes(n) + c[start:],
    'deleted': lambda c, rng, start, n, other: c[:start] + c[start + n:],
    'cut off': lambda c, rng, start, n, other: c[:start],
    'repeated': lambda c, rng, start, n, other: c[:start] + c[start:start + n] * 2 + c[start + n:],
    'zeros': lambda c, rng, start, n, other: c[:start] + bytes(n) + c[start + n:],
    'content of another file': lambda c, rng, start, n, other: other,
    'start of another file': lambda c, rng, start, n, other: other[:n] + c[n:],
    'space around': lambda c, rng, start, n, other: b'\n \0'[:n] + c + b'\0\n'[:n]}


# JSON text of values that a field may turn out to have.
ODD_VALUES = [
    'null', 'true', '-1', '0', '1e999', 'NaN', '-Infinity', '9' * 400, '9' * 5000, '1.5', '""',
    '"\\u0000"', '"\\ud800"', '"\\u202e\\u200b"', '"' + 'x' * 1_000_000 + '"', '[]', '{}', '[null]',
    '[[[[1]]]]', '{"a": {"b": [NaN]}}', '"2026-13-99"', '"../../x"', '"<script>|$&%"', '["a", 1]',
    '[' * 100 + ']' * 100, '[' * 2000 + ']' * 2000, '-0.0', '1e308', '"%"', '"percent"']


def damaged_lines(content, rng):
    """One line of JSON with a field that is missing, double or of another kind, or torn apart."""
    lines = content.split(b'\n')
    at = int(rng.choice([i for i, line in enumerate(lines) if line.strip()]))
    fields = {name: json.dumps(value) for name, value in json.loads(lines[at]).items()}
    name, action = str(rng.choice(list(fields))), int(rng.integers(8))
    said = name
    if action < 4:
        odd = ODD_VALUES[rng.integers(len(ODD_VALUES))]
        fields[name], said = odd, f'{name} is {odd[:30]}'
    elif action == 4:
        del fields[name]
        said = f'{name} is missing'
    text = '{' + ', '.join(f'{json.dumps(key)}: {value}' for key, value in fields.items()) + '}'
    if action == 5:
        text, said = text[:-1] + f', {json.dumps(name)}: 7}}', f'{name} is there twice'
    elif action == 6:
        text, said = text + text, 'two lines without an end between them'
    elif action == 7:
        frame = [('\ufeff', ''), ('\0', ''), ('[', ']'), ('[' * 100_000, ''), ('', '\0' * 4096),
                 ('"' + 'x' * 1_000_000, ''), ('\x1e', ''), ('"', '"')][rng.integers(8)]
        text, said = text.join(frame), f'line between {frame[0][:3]!r} and {frame[1][:3]!r}'
    lines[at] = text.encode()
    return b'\n'.join(lines), f'line {at + 1}: {said}'


def generator(seed, case):
    return np.random.default_rng([seed, case])
