"""The simulation of a suite on a cluster, on graphs whose length is known."""
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.makespan import chains, simulate


def run(name, needs=(), processes=1):
    return SimpleNamespace(id=name, product=Path(name), needs=[Path(n) for n in needs],
                           processes=processes)


# a -> b, and c beside them; d needs two GPUs
RUNS = [run('a'), run('b', ['a']), run('c'), run('d', processes=2)]
SECONDS = {Path('a'): 2., Path('b'): 3., Path('c'): 4., Path('d'): 1.}


@pytest.mark.parametrize('gpus, length', [(2, 6.), (3, 5.), (4, 5.)])
def test_the_length_is_that_of_the_schedule(gpus, length):
    found, used = simulate(RUNS, SECONDS, gpus)
    assert (found, used) == (length, 2 + 3 + 4 + 2)


def test_the_longest_chain_bounds_the_length():
    assert chains(RUNS, SECONDS)[Path('a')] == (5., ('a', 'b'))


def test_rows_that_were_done_before_are_not_waited_for():
    assert simulate([run('b', ['a'])], SECONDS, 1) == (3., 3.)
