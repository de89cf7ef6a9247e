"""Notes of tables and reports on results whose code is in no commit of the history."""
import re
from collections import Counter, defaultdict

COMMIT = re.compile(r'\b([0-9a-f]{7})\b')
DIRTY = '-dirty'  # end of the `git_commit` of a result measured with uncommitted changes


def origin_of(record) -> str:
    """A note on the code of a result (its ``provenance``, or that it is uncommitted), or ''."""
    commit = record.get('git_commit') or ''
    return record.get('provenance') or (
        f'measured with uncommitted changes on {commit[:7]}' if commit.endswith(DIRTY) else '')


def origins(records) -> list:
    """A text for each kind of `origin_of`, with a count unless it holds for all records.

    Example: 'measured with uncommitted changes on 29be5f8, 38c78b1', the most frequent first.
    """
    counts = Counter(text for text in map(origin_of, records) if text)
    kinds = defaultdict(list)
    for text, number in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        before, commit, after = [*COMMIT.split(text, maxsplit=1), '', ''][:3]
        kinds[before, after].append((commit, number))
    texts = []
    for (before, after), found in kinds.items():
        text = before + ', '.join(commit for commit, _ in found) + after
        number = sum(number for _, number in found)
        texts.append(text if number == len(records) else
                     f'{number} of {len(records)} results {text}')
    return texts
