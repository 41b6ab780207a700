"""Sparse look-up in a dictionary of keys and values (sparsemax: Martins and Astudillo, ICML 2016)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.alignment.tracing import traced

__all__ = ["look_up", "sparsemax"]

SUPPORT = 64  # largest weights that are looked for first; where more are needed, twice as many, until all are there
BLOCK = 16_000_000  # products that are in memory at once: 64 MB


def sparsemax(logits: Tensor) -> Tensor:
    """The nearest point of the simplex to each row of (..., N): weights of 0 or more that sum to 1, most of them 0."""
    weights, places = _largest_weights(logits)
    return torch.zeros_like(logits).scatter(-1, places, weights)


def _largest_weights(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The weights of sparsemax that are not 0, and some zeros behind them, with their places: (..., n) each."""
    size, whole = logits.shape[-1], traced()
    count = size if whole else SUPPORT  # no value decides how large a graph's tensors are
    while True:
        top = logits.topk(min(count, size), dim=-1)
        below = top.values - top.values[..., :1]  # sparsemax does not change where all logits move; sums stay small
        total, ranks = below.cumsum(dim=-1), torch.arange(1, below.shape[-1] + 1, device=logits.device)
        support = (1 + ranks * below > total).sum(dim=-1, keepdim=True)  # (..., 1), 1 or more
        if count >= size or int(support.max()) < count:
            threshold = (total.gather(-1, support - 1) - 1) / support
            most = size if whole else int(support.max())
            return (below - threshold).clamp(min=0)[..., :most], top.indices[..., :most]
        count *= 2


def look_up(queries: Tensor, keys: Tensor, values: Tensor, block: int = BLOCK) -> Tensor:
    """The values of a dictionary, averaged for each query by the sparsemax of its products with the keys by sqrt(C).

    Beside its arguments and result it holds ``block`` products.

    Args:
        queries: (L, C).
        keys: (N, C).
        values: (N, D).
        block: how many products are computed at once.

    Returns:
        (L, D).
    """
    queries = queries / queries.shape[1] ** 0.5  # not the keys, of which there are many more: a seventh of the time
    if traced():  # a graph takes any number of queries at once
        return sparsemax(queries @ keys.T) @ values
    found = []
    for some in queries.split(max(1, block // len(keys))):
        weights, places = _largest_weights(some @ keys.T)
        found.append(F.embedding_bag(places, values, per_sample_weights=weights, mode="sum"))
    return torch.cat(found)
