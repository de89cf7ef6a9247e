"""Weighted nearest neighbours on features (DINO: Caron et al. 2021, Sec. 3.2; eval_knn.py of
https://github.com/facebookresearch/dino).

B queries, T images in the bank, D channels, K neighbours, C classes.
"""
import torch

CHUNK = 131072  # rows of the bank that are compared at a time: bounds the memory to B x CHUNK


def nearest(queries: torch.Tensor, bank: torch.Tensor,
            k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(similarity (B, K), index (B, K) int64) of the ``k`` nearest rows of the bank, nearest first.

    queries: (B, D), bank: (T, D), rows of length 1, so the similarity is the cosine. k: at most T.
    """
    best = queries.new_empty(len(queries), 0)
    index = torch.empty(len(queries), 0, dtype=torch.long, device=queries.device)
    for start in range(0, len(bank), CHUNK):
        similarity = queries @ bank[start:start + CHUNK].T
        similarity, found = similarity.topk(min(k, similarity.shape[1]), dim=1)
        best, index = torch.cat([best, similarity], 1), torch.cat([index, found + start], 1)
        best, order = best.topk(min(k, best.shape[1]), dim=1)
        index = index.gather(1, order)
    return best, index


def vote(similarity: torch.Tensor, labels: torch.Tensor, num_classes: int,
         temperature: float = 0.07) -> torch.Tensor:
    """Share of the votes of each class (B, C); rows sum to 1.

    A neighbour votes with exp(similarity / temperature).
    similarity: (B, K). labels: (B, K) int64 in 0..C-1.
    """
    weights = (similarity.double() / temperature).softmax(1)  # divided by the sum of the votes
    shares = weights.new_zeros(len(weights), num_classes).scatter_add_(1, labels, weights)
    return shares.float()
