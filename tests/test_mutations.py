"""The deliberate faults of `tests.mutations` still fit the code."""
import pytest

from .mutations import FAULTS, REPO


@pytest.mark.parametrize('name', FAULTS)
def test_a_fault_replaces_one_text_of_its_file(name):
    fault = FAULTS[name]
    assert (REPO / fault.file).read_text().count(fault.old) == 1 and fault.new != fault.old
    for word in fault.tests.split(' -k ')[0].split():
        assert (REPO / word).exists()


def test_there_are_at_least_twenty():
    assert len(FAULTS) >= 20
