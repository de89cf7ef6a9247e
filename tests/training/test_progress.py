"""Random numbers of a step depend on seed, iteration and rank, and on nothing drawn before."""
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from semmae.training import progress


def drawn(monkeypatch, seed=0, iteration=3, rank=0):
    """Numbers that a step draws, as drop path (torch) and mixup (NumPy) do."""
    monkeypatch.setattr(progress, 'get_rank', lambda: rank)
    progress.StepSeedHook().before_train_iter(SimpleNamespace(seed=seed, iter=iteration), 0)
    return [*torch.rand(3).tolist(), *np.random.rand(3)]


@pytest.mark.parametrize('changed', [dict(seed=1), dict(iteration=4), dict(rank=1)])
def test_another_seed_iteration_or_rank_draws_other_numbers(monkeypatch, changed):
    assert drawn(monkeypatch, **changed) != drawn(monkeypatch)


def test_the_same_step_draws_the_same_numbers_whatever_was_drawn_before(monkeypatch):
    first = drawn(monkeypatch)
    torch.rand(7), np.random.rand(7)
    assert drawn(monkeypatch) == first
