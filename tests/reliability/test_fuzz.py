"""Files damaged at random are refused or told by name; the whole run: tests/reliability."""
import pytest

from semmae.datasets.part_store import PartStore
from semmae.results import results
from tests.reliability.fuzz import FAILURES, GENERATED, Fuzz, generated

pytestmark = pytest.mark.slow

KINDS = ('part store', 'results.jsonl', 'results.jsonl, other writers', 'predictions',
         'logs of a run', 'scalars.json', 'part_health.jsonl', 'picture of a report')


def failed(cases):
    return [case for case in cases if case['verdict'] in FAILURES]


@pytest.fixture(scope='module')
def fuzz():
    return Fuzz(seed=1, kinds=KINDS)


def test_damage_is_refused_reported_or_without_effect(fuzz):
    cases = [fuzz.case(number) for number in range(12 * len(KINDS))]
    assert failed(cases) == []
    assert {case['verdict'] for case in cases} >= {'refused', 'detected', 'same', 'undetectable'}


def test_generated_lines_are_records_or_reported_and_never_stop_the_tables():
    cases = generated(seed=1, cases=25)
    assert failed(cases) == []
    assert {case['verdict'] for case in cases} >= {'detected', 'undetectable'}
    assert {case['kind'] for case in cases} == {GENERATED}


def test_a_case_is_the_same_damage_every_time(fuzz):
    first, second = fuzz.case(7), Fuzz(seed=1, kinds=KINDS).case(7)
    assert [first[k] for k in ('file', 'damage', 'verdict')] == [
        second[k] for k in ('file', 'damage', 'verdict')]


def test_without_the_hash_damage_of_a_part_store_is_found_silent(monkeypatch):
    monkeypatch.setattr(PartStore, 'verify', lambda self: None)
    fuzz = Fuzz(seed=1, kinds=('part store',))
    assert any(fuzz.case(number)['verdict'] == 'silent' for number in range(40))


def test_without_its_checksum_another_number_in_a_line_is_found_silent(monkeypatch):
    fuzz = Fuzz(seed=1, kinds=('results.jsonl',))
    monkeypatch.setattr(results, 'checksum', lambda record: Anything())
    assert any(fuzz.case(number)['verdict'] == 'silent' for number in range(40))


class Anything:
    """A checksum that every text equals."""

    def __eq__(self, other):
        return True

    def __ne__(self, other):
        return False
