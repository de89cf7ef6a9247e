"""Segmentation by the nearest labelled patches.

S settings, n images, L patches, D channels, C classes, T patches in the memory, K neighbours.
"""
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch.nn import functional as F

from ..functional.knn import nearest
from ..progress_bar import track
from ..registry import MODELS
from .dense import IMAGES, patch_areas, patch_rows, predict_maps, score_layers
from .features import Features, Task
from .grid import Setting, by_key, grid_of, layers_of, require_counts, values_of
from .probe import Probe
from .standard import Standard, chunks

QUERIES = 512  # patches that are searched at a time: 256 MiB of similarities (functional.knn.CHUNK)

PROTOCOLS: dict[str, dict[str, Any]] = dict(
    hummingbird=dict(k=30, temperature=.02, memory_size=10_240_000, standardize=False),
    capi=dict(k=(1, 3, 10, 30), temperature=None, memory_size=None, standardize=True))


class Memory(NamedTuple):
    """The labelled patches to search, read from ``data`` when a prediction needs them.

    kept: (n x L,) bool, T of them true. labels: (T, C) shares, sparse.
    """
    data: Features
    images: np.ndarray
    kept: np.ndarray
    labels: sparse.csr_array
    settings: list[Setting]
    device: str


@MODELS.register_module()
class KNNSegProbe(Probe):
    """A patch gets the weighted mean of the labels of its ``k`` nearest training patches.

    Similarity is the cosine, the search is exact. A neighbour weighs exp(similarity / temperature);
    with temperature None all weigh the same. The label of a training patch is the share of each
    class among its pixels. Shares are upsampled bilinearly.

    protocol: the values of k, temperature, memory_size and standardize, each of which can be given:

    'hummingbird'  k 30, temperature 0.02, a memory of 10,240,000 patches (the size of its README's
        table that stands beside the paper's), as implemented in
        https://github.com/vpariza/open-hummingbird-eval at 5e79da2 (hbird/hbird_eval.py) after
        Balazevic et al. 2023. Each of N images gives memory_size / N patches: those with the
        smallest u * s, where u is uniform and s sums, over the classes in the patch, the patches of
        the image that have the class; so rare classes come first. Different here: an ignored pixel
        has no label (they make it class 0), one pass without augmentation (two with it in their
        table), measured at full resolution (input size there).
    'capi'  k of 1, 3, 10, 30, equal weights, all patches, standardised tokens, after
        https://github.com/facebookresearch/capi at 98b4fa1 (eval_segmentation.py). Different here:
        the mean label of a patch (the most frequent label for each pixel position there), no L2
        distance, measured at full resolution (224 pixels there).

    memory_size: None for all patches. One layer of the memory is in RAM, or on the device, at a
    time: 4 T D bytes (31 GB for hummingbird's size and 768 channels), with the search 300 MB.
    """

    def __init__(self, protocol: str = 'hummingbird', layers: Any = None, **values: Any) -> None:
        if protocol not in PROTOCOLS or not set(values) <= set(PROTOCOLS['capi']):
            raise ValueError(f'got protocol={protocol} with {sorted(values)}, expected one of '
                             f"{sorted(PROTOCOLS)} and any of {sorted(PROTOCOLS['capi'])}")
        values = {**PROTOCOLS[protocol], **values}
        self.layers, self.k = layers, values_of('k', values['k'])
        given = values['temperature']
        self.temperature = (None,) if given is None else values_of('temperature', given)
        self.memory_size, self.standardize = values['memory_size'], values['standardize']
        require_counts(**{f'k[{n}]': k for n, k in enumerate(self.k)})
        if self.memory_size is not None:
            require_counts(memory_size=self.memory_size)

    def settings(self, layers: tuple[int, ...]) -> list[Setting]:
        return grid_of(layer=layers_of(self.layers, layers), k=self.k,
                       temperature=self.temperature, memory_size=(self.memory_size,),
                       standardize=(self.standardize,))

    def fit(self, data: Features, index: np.ndarray, settings: list[Setting], task: Task,
            seed: int, device: str = 'cpu') -> Memory:
        """The patches of the memory are chosen here; their tokens are read by a prediction."""
        areas = patch_areas(data, index, task)
        kept = areas.sum(1) > 0
        if self.memory_size is not None:
            kept = sample(areas, kept, len(index), self.memory_size, seed)
        largest = max(setting['k'] for setting in settings)
        if largest > kept.sum():
            raise ValueError(f'got k={largest}, expected at most the {kept.sum()} labelled patches '
                             'of the memory')
        chosen = areas[kept]
        labels = chosen.multiply(1 / chosen.sum(1)[:, None]).tocsr()
        return Memory(data, index, kept, labels, settings, device)

    def score(self, fitted: Memory, data: Features, index: np.ndarray, task: Task) -> list[float]:
        groups = by_key(fitted.settings, 'layer')
        return score_layers(groups, data, index, task, lambda layer: Search(
            fitted, layer, [fitted.settings[number] for number in groups[layer]]))

    def predict(self, fitted: Memory, number: int, data: Features, index: np.ndarray,
                task: Task) -> Iterator[torch.Tensor]:
        setting = fitted.settings[number]
        search = Search(fitted, setting['layer'], [setting])
        yield from predict_maps(data, setting['layer'], index, lambda tokens: search(tokens)[0])


class Search:
    """Tokens (n, L, D) -> label shares (S, n, L, C) of settings of one layer."""

    def __init__(self, memory: Memory, layer: int, settings: list[Setting]) -> None:
        self.labels, self.settings, self.standard = memory.labels, settings, None
        images = np.arange(len(memory.images))
        read = patch_rows(memory.data, layer, memory.images, memory.kept)
        if settings[0]['standardize']:
            self.standard = Standard.of(read, images, IMAGES, memory.device)
        self.bank, start = torch.empty(0), 0
        for at in track(chunks(images, IMAGES), 'memory', len(images), size=len):
            rows = self.directions(read(at).to(memory.device))
            if not start:  # the whole bank at once: to join parts would take twice the memory
                self.bank = rows.new_empty(self.labels.shape[0], rows.shape[1])
            self.bank[start:start + len(rows)] = rows
            start += len(rows)

    def directions(self, tokens: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.standard(tokens) if self.standard else tokens, dim=-1)

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        k = max(setting['k'] for setting in self.settings)
        parts = []
        for queries in tokens.flatten(0, 1).split(QUERIES):
            similarity, index = nearest(self.directions(queries.to(self.bank)), self.bank, k)
            parts.append(torch.stack([self.vote(similarity.double().cpu(), index.cpu(), **setting)
                                      for setting in self.settings]))
        return torch.cat(parts, 1).unflatten(1, tokens.shape[:2])

    def vote(self, similarity: torch.Tensor, index: torch.Tensor, k: int,
             temperature: float | None, **_: Any) -> torch.Tensor:
        """(Q, C) float32 weighted mean of the labels of the first k of the neighbours (Q, K)."""
        nearest_first = similarity[:, :k] / (temperature or 1)
        weights = (torch.zeros_like(nearest_first) if temperature is None else nearest_first
                   ).softmax(1).numpy()
        ends = np.arange(0, weights.size + 1, k)
        votes = sparse.csr_array((weights.reshape(-1), index[:, :k].reshape(-1).numpy(), ends),
                                 shape=(len(weights), self.labels.shape[0]))
        return torch.from_numpy((votes @ self.labels).toarray().astype(np.float32))


def sample(areas: sparse.csr_array, labelled: np.ndarray, images: int, memory_size: int, seed: int
           ) -> np.ndarray:
    """(n x L,) bool: at most memory_size / n labelled patches of each image, rare classes first.

    areas: (n x L, C) of `patch_areas`. The order is open-hummingbird-eval's, see `KNNSegProbe`.
    """
    random = np.random.default_rng(seed)
    each = max(1, memory_size // images)
    length = len(labelled) // images
    kept = np.zeros_like(labelled)
    for rows in chunks(np.arange(len(labelled)), length):
        present = (areas[rows].toarray() > 0).astype(np.float64)
        order = np.where(labelled[rows], present @ present.sum(0) * random.random(length), np.inf)
        kept[rows[np.argsort(order, kind='stable')[:each]]] = True
    return kept & labelled
