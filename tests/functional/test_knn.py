"""Nearest neighbours and their votes: cases worked by hand, and the numbers of DINO's code."""
import math

import pytest
import torch
import torch.nn.functional as F

from semmae.functional import knn
from semmae.functional.knn import nearest, vote


def test_the_neighbours_are_the_most_similar_rows_in_order():
    bank = torch.tensor([[1., 0.], [0., 1.], [.6, .8], [-1., 0.]])
    similarity, index = nearest(torch.tensor([[1., 0.], [0., 1.]]), bank, k=3)
    assert index.tolist() == [[0, 2, 1], [1, 2, 0]]
    torch.testing.assert_close(similarity[0], torch.tensor([1., .6, 0.]))
    torch.testing.assert_close(similarity[1, :2], torch.tensor([1., .8]))


@pytest.mark.parametrize('chunk', [1, 7, 50, 1000])
def test_the_size_of_a_chunk_changes_nothing(monkeypatch, chunk):
    monkeypatch.setattr(knn, 'CHUNK', chunk)
    generator = torch.Generator().manual_seed(0)
    bank, queries = (F.normalize(torch.randn(n, 8, generator=generator), dim=1) for n in (50, 6))
    similarity, index = nearest(queries, bank, k=5)
    expected = (queries @ bank.T).sort(1, descending=True)
    assert index.equal(expected.indices[:, :5])
    torch.testing.assert_close(similarity, expected.values[:, :5])


def test_votes_are_worth_exp_of_similarity_over_temperature():
    # Temperature 1/2: votes exp(2), exp(1), exp(1). Class 0 wins, since exp(2) > 2 exp(1).
    similarity, labels = torch.tensor([[1., .5, .5]]), torch.tensor([[0, 2, 2]])
    shares = vote(similarity, labels, num_classes=3, temperature=.5)
    total = math.exp(2) + 2 * math.e
    torch.testing.assert_close(
        shares, torch.tensor([[math.exp(2) / total, 0., 2 * math.e / total]]))
    assert shares.argmax() == 0
    assert vote(similarity, labels, 3, temperature=2.).argmax() == 2, 'e^.5 < 2 e^.25'


def test_votes_at_dinos_temperature_do_not_overflow():
    # Two neighbours at .96 and one at 1: exp(.04 / .07) = 1.77 < 2.
    shares = vote(torch.tensor([[1., .96, .96]]), torch.tensor([[0, 1, 1]]), 2)
    assert shares[0, 0].item() == pytest.approx(1.7708 / 3.7708, abs=1e-4)


def features(count, generator):
    """Rows of length 1 around ten directions, and the number of the direction."""
    labels = torch.randint(10, (count,), generator=generator)
    noisy = torch.eye(10, 16)[labels] + .6 * torch.randn(count, 16, generator=generator)
    return F.normalize(noisy, dim=1), labels


@pytest.mark.parametrize('k, top1', [(10, 36.0), (20, 38.0), (100, 38.5), (200, 38.5)])
def test_accuracies_equal_those_of_dinos_code(k, top1):
    """knn_classifier of eval_knn.py, https://github.com/facebookresearch/dino, commit
    7c446df5b9f45747937fb0d72314eb9f7b66930a, on these features."""
    generator = torch.Generator().manual_seed(0)
    (bank, known), (queries, truth) = features(500, generator), features(200, generator)
    similarity, index = nearest(queries, bank, k)
    found = vote(similarity, known[index], num_classes=10).argmax(1)
    assert 100 * (found == truth).float().mean().item() == pytest.approx(top1)
