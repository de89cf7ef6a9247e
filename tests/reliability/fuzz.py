"""Damage at random to every file that this project reads: is it told, or does it pass in silence?

python tests/reliability/fuzz.py --cases 2500 --seed 0 --out fuzz.json

Case N of a seed is always the same damage; --case N runs it alone and shows its traceback.
Verdicts:

    refused       ValueError or FileNotFoundError that names the file
    detected      something was read, and the damage was told with the file's name
    same          what was read is that of the whole file, to the bit
    undetectable  something else was read, from a format without a checksum
    silent        something else was read, and nothing was said: a failure
    traceback     any other error, or one that does not name the file: a failure

Exit status: 0, or 1 if a case failed.
"""
import argparse
import json
import os
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as hypothesis_seed
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.speed.record import write
from semmae.results.protocol import fingerprint
from tests.reliability.damage import damaged, damaged_lines, generator
from tests.reliability.readers import KINDS, NO_CRC, Kind, a_result, plain, read_tables, sample_of

VERDICTS = ('refused', 'detected', 'same', 'undetectable', 'silent', 'traceback')
FAILURES = ('silent', 'traceback')
GENERATED = 'results.jsonl, generated'


def verdict_of(kind, files, name, whole):
    """(verdict, what was said) of reading ``files`` {name: bytes}, of which ``name`` is damaged."""
    with tempfile.TemporaryDirectory() as folder:
        for relative, content in files.items():
            path = Path(folder, relative)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        try:
            found = kind.read(Path(folder))
        except (ValueError, FileNotFoundError) as error:
            is_named = Path(name).name in str(error)
            if is_named:
                return 'refused', str(error).replace(f'{folder}/', '')
            return 'traceback', traceback.format_exc().replace(f'{folder}/', '')
        except Exception:
            return 'traceback', traceback.format_exc().replace(f'{folder}/', '')
    found, problems = found if kind.tells else (found, [])
    told = [text for text in problems if Path(name).name in text]
    if told:
        return 'detected', '; '.join(told)
    if plain(found) == whole:
        return 'same', ''
    return ('undetectable', kind.unchecked) if kind.unchecked else ('silent', plain(found)[:300])


def whole_of(kind, files):
    """What reading an undamaged sample gives; nothing may be told of it."""
    name = kind.damaged[0]
    with tempfile.TemporaryDirectory() as folder:
        for relative, content in files.items():
            Path(folder, relative).parent.mkdir(parents=True, exist_ok=True)
            Path(folder, relative).write_bytes(content)
        found = kind.read(Path(folder))
    if kind.tells:
        found, problems = found
        assert not problems, (name, problems)
    return plain(found)


class Fuzz:
    """The samples of ``kinds``, what reading them gives, and cases by their number."""

    def __init__(self, seed=0, kinds=tuple(KINDS)):
        self.seed, self.kinds = seed, list(kinds)
        self.files = {name: sample_of(KINDS[name]) for name in self.kinds}
        self.whole = {name: whole_of(KINDS[name], self.files[name]) for name in self.kinds}

    def case(self, number):
        """dict: case, kind, file, damage, verdict, said."""
        name, rng = self.kinds[number % len(self.kinds)], generator(self.seed, number)
        kind, files = KINDS[name], dict(self.files[name])
        target = str(rng.choice(kind.damaged))
        if kind.lines and rng.random() < .6:
            files[target], damage = damaged_lines(files[target], rng)
        else:
            other = self.files[self.kinds[rng.integers(len(self.kinds))]]
            files[target], damage = damaged(files[target], rng, next(iter(other.values())))
            if target == 'x.png' and damage.startswith('content of another'):
                kind = kind._replace(unchecked='another whole picture')
        verdict, said = verdict_of(kind, files, target, self.whole[name])
        return dict(case=number, kind=name, file=target, damage=damage, verdict=verdict, said=said)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.text(max_size=8), inner, max_size=3), max_leaves=6)
WORDS = st.sampled_from(['linprobe/mae_p16', 'run/x', 'parts', 'top1', 'mIoU', 'val', '%', '', 'ok',
                         'failed', 'ARI', 'images/mIoU', '../x', '2026-01-01T00:00:00+99:00'])


def whole_line(**changes):
    record = a_result(status='ok', time='2026-01-01T00:00:00', **changes)
    return dict(record, fingerprint=fingerprint(record['protocol']))


@st.composite
def lines(draw):
    """A line of results.jsonl as no writer of ours leaves it: fields of any kind, or not JSON."""
    base = whole_line()
    for name in draw(st.lists(st.sampled_from(list(base)), max_size=5)):
        base[name] = draw(WORDS | JSON)
    base |= draw(st.dictionaries(st.text(max_size=8) | st.just('why'), JSON, max_size=2))
    for name in draw(st.lists(st.sampled_from(list(base)), max_size=1)):
        base.pop(name)
    text = json.dumps(base, ensure_ascii=draw(st.booleans())).encode(errors='surrogatepass')
    return text if draw(st.booleans()) else draw(st.just(text) | st.binary(max_size=60))


def read_line(folder):
    """`read_tables`; the good line has to be there, and the other one there or told."""
    records, problems = read_tables(folder)
    lines = [line for line in (folder / 'results.jsonl').read_bytes().split(b'\n') if line.strip()]
    assert [r['value'] for r in records if r['row'] == 'linprobe/good'] == [65.]
    assert problems or len(records) == len(lines), 'a line vanished'
    return records, problems


def generated(seed, cases):
    """Cases of lines that hypothesis draws, beside a good line that has to stay as it is."""
    good = json.dumps(whole_line(row='linprobe/good', checkpoint_sha256='good')).encode()
    kind = Kind(None, read_line, ('results.jsonl',), NO_CRC, True, True)
    whole, found = whole_of(kind, {'results.jsonl': good}), []

    @hypothesis_seed(seed)
    @settings(max_examples=cases, database=None, deadline=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))
    @given(lines())
    def draw(line):
        files = {'results.jsonl': good + b'\n' + line + b'\n'}
        verdict, said = verdict_of(kind, files, 'results.jsonl', whole)
        found.append(dict(case=f'generated {len(found)}', kind=GENERATED, file='results.jsonl',
                          damage=repr(line)[:2000], verdict=verdict, said=said))

    draw()
    return found


def run(cases, seed):
    """All cases, a tenth of them `generated`."""
    fuzz = Fuzz(seed)
    share = cases // 10
    return [fuzz.case(number) for number in range(cases - share)] + generated(seed, share)


def table(record):
    """Markdown: kinds by verdicts, and every failure."""
    counts = record['counts']
    text = ['| read | ' + ' | '.join(VERDICTS) + ' |', '|---|' + '---|' * len(VERDICTS)]
    total = {verdict: sum(row.get(verdict, 0) for row in counts.values()) for verdict in VERDICTS}
    text += [f'| {kind} | ' + ' | '.join(str(row.get(verdict, 0)) for verdict in VERDICTS) + ' |'
             for kind, row in [*counts.items(), ('all', total)]]
    text += ['', f'{record["cases"]} cases of seed {record["seed"]} in {record["seconds"]:.0f} s.']
    text += [f'- {case["case"]}, {case["kind"]}, {case["file"]}: {case["verdict"]} after '
             f'{case["damage"][:80]}: {case["said"].strip().splitlines()[-1][:160]}'
             for case in record['failures']]
    return '\n'.join(text) + '\n'


@contextmanager
def without_decoders_warnings():
    """libjpeg and libpng write to the file behind stderr; nothing of Python's is lost."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('--cases', type=int, default=2500)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--case', type=int, help='only this one')
    parser.add_argument('--out', type=Path, help='a .json file; a table goes beside it')
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.case is not None:
        found = Fuzz(args.seed).case(args.case)
        print(json.dumps({**found, 'said': ''}), found['said'], sep='\n')
        return int(found['verdict'] in FAILURES)
    start = time.perf_counter()
    with without_decoders_warnings():
        found = run(args.cases, args.seed)
    counts = {kind: dict(Counter(case['verdict'] for case in found if case['kind'] == kind))
              for kind in (*KINDS, GENERATED)}
    failures = [case for case in found if case['verdict'] in FAILURES]
    content = dict(cases=len(found), seed=args.seed, seconds=time.perf_counter() - start,
                   counts=counts, failures=failures)
    if args.out:
        write(args.out, sys.argv, table, **content)
    else:
        print(table(content))
    return int(bool(failures))


if __name__ == '__main__':
    sys.exit(main())
