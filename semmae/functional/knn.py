"""Weighted nearest neighbours on features, as DINO evaluates them (Caron et al. 2021, Sec. 3.2;
eval_knn.py of https://github.com/facebookresearch/dino).

B queries, T images in the bank, D channels, K neighbours, C classes.
"""
import torch


def nearest(queries, bank, k, chunk=131072):
    """The ``k`` rows of the bank that are most similar to each query, the most similar first.

    queries: (B, D), bank: (T, D), both of length 1, so that the similarity is the cosine; k <= T.
    chunk: rows of the bank compared at a time; B x chunk similarities are in memory, and it
        changes nothing but which of equal neighbours is taken.
    Returns (similarity (B, K), index (B, K) int64 into the bank).
    """
    best = queries.new_empty(len(queries), 0)
    index = torch.empty(len(queries), 0, dtype=torch.long, device=queries.device)
    for start in range(0, len(bank), chunk):
        similarity = queries @ bank[start:start + chunk].T
        similarity, found = similarity.topk(min(k, similarity.shape[1]), dim=1)
        best, index = torch.cat([best, similarity], 1), torch.cat([index, found + start], 1)
        best, order = best.topk(min(k, best.shape[1]), dim=1)
        index = index.gather(1, order)
    return best, index


def vote(similarity, labels, num_classes, temperature=0.07):
    """Each class's share of the votes: a neighbour votes with exp(similarity / temperature).

    similarity: (B, K), labels: (B, K) int64 in 0..C-1. Returns (B, C) floats; rows sum to 1.
    """
    weights = (similarity.double() / temperature).softmax(1)  # the sum of the votes made 1
    shares = weights.new_zeros(len(weights), num_classes).scatter_add_(1, labels, weights)
    return shares.float()
