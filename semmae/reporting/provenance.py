"""Sentences on results that no commit leads back to the code of, for tables and the report."""
import re
from collections import Counter, defaultdict

COMMIT = re.compile(r'(.*?)(\b[0-9a-f]{7}\b|$)(.*)', re.DOTALL)  # a text before, at and after one
DIRTY = '-dirty'  # ends the `git_commit` of a result that was measured with uncommitted changes


def origin_of(record) -> str:
    """'' or what a result says of its code: its ``provenance``, or that of a fresh dirty run."""
    commit = record.get('git_commit') or ''
    return record.get('provenance') or (
        f'measured with uncommitted changes on {commit[:7]}' if commit.endswith(DIRTY) else '')


def origins(records) -> list:
    """A text for each kind of `origin_of`; with how many where it is not that of all records.

    'measured with uncommitted changes on 29be5f8, 38c78b1': the most frequent commit first.
    """
    counts = Counter(text for text in map(origin_of, records) if text)
    kinds = defaultdict(list)
    for text, number in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        before, commit, after = COMMIT.match(text).groups()
        kinds[before, after].append((commit, number))
    texts = []
    for (before, after), found in kinds.items():
        text = before + ', '.join(commit for commit, _ in found) + after
        number = sum(number for _, number in found)
        texts.append(text if number == len(records) else
                     f'{number} of {len(records)} results {text}')
    return texts
