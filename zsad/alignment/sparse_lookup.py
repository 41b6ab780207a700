"""Sparse look-up in a dictionary of keys and values (sparsemax: Martins and Astudillo, ICML 2016)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.alignment.blocks import is_exporting

__all__ = ["look_up", "sparsemax"]

SUPPORT = 64  # largest weights that are looked for first; where more are needed, twice as many, until all are there
GROUP = 16  # values of which only the largest is looked at first
BLOCK = 16_000_000  # products that are in memory at once: 64 MB


def sparsemax(logits: Tensor) -> Tensor:
    """The nearest point of the simplex to each row of (..., N): weights of 0 or more that sum to 1, most of them 0."""
    weights, places = _largest_weights(logits)
    return torch.zeros_like(logits).scatter(-1, places, weights)


def _largest_weights(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The weights of sparsemax that are not 0, and some zeros behind them, with their places: (..., n) each."""
    size, whole = logits.shape[-1], is_exporting()
    count = size if whole else SUPPORT  # no value decides how large a graph's tensors are
    while True:
        values, places = _highest(logits, min(count, size))
        below = values - values[..., :1]  # sparsemax does not change where all logits move; sums stay small
        total, ranks = below.cumsum(dim=-1), torch.arange(1, below.shape[-1] + 1, device=logits.device)
        support = (1 + ranks * below > total).sum(dim=-1, keepdim=True)  # (..., 1), 1 or more
        if count >= size or int(support.max()) < count:
            threshold = (total.gather(-1, support - 1) - 1) / support
            most = size if whole else int(support.max())
            return (below - threshold).clamp(min=0)[..., :most], places[..., :most]
        count *= 2


def _highest(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """``topk`` of (..., N) in half of its time: the highest values lie in the groups whose own highest are the highest."""
    groups, rest = divmod(logits.shape[-1], GROUP)
    if groups < 2 * count:
        return logits.topk(count, dim=-1)
    grouped = logits[..., : groups * GROUP].unflatten(-1, (GROUP, groups))  # a group's values lie ``groups`` apart: faster
    chosen = grouped.amax(dim=-2).topk(count, dim=-1, sorted=False).indices[..., None, :]  # (..., 1, count)
    some = grouped.gather(-1, chosen.expand(*chosen.shape[:-2], GROUP, count)).flatten(-2)
    places = (chosen + groups * torch.arange(GROUP, device=logits.device)[:, None]).flatten(-2)
    if rest:
        behind = torch.arange(groups * GROUP, logits.shape[-1], device=logits.device)
        some = torch.cat([some, logits[..., groups * GROUP :]], dim=-1)
        places = torch.cat([places, behind.expand(*places.shape[:-1], -1)], dim=-1)
    values, own = some.topk(count, dim=-1)
    return values, places.gather(-1, own)


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
    if is_exporting():  # a graph takes any number of queries at once
        return sparsemax(queries @ keys.T) @ values
    found = []
    for some in queries.split(max(1, block // len(keys))):
        weights, places = _largest_weights(some @ keys.T)
        found.append(F.embedding_bag(places, values, per_sample_weights=weights, mode="sum"))
    return torch.cat(found)
