"""Batch mode against a pool: what ``folder.py`` takes from all pictures of a folder is taken from a pool, once.

Principal components, the pictures that every picture is compared with, and the scale of distances are the pool's. So the map of
a picture depends on the pool and on nothing else. A picture of the pool, or an exact copy of one, is not compared with itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from zsad.errors import UsageError
from zsad.methods.compact.folder import (
    LAST,
    PAIRS,
    POOL,
    SMALL,
    Outside,
    on_scale,
    outside_components,
    robust_scale,
    three_distances,
)
from zsad.methods.compact.pool import drawn
from zsad.methods.compact.second import POOLED
from zsad.types import Bank, Tap

__all__ = ["banks_of", "distances", "without_pool"]

SAME = 0.999  # cosine of every patch with its like in an exact copy, whose halves round alike


def banks_of(pool: Sequence[Mapping[int, Tap]], others: int | None, seed: int) -> dict[str, Bank]:
    """The banks of a pool.

    Args:
        pool: ``unit_blocks`` of its pictures.
        others: with how many of them a picture is compared; None: ``POOL``.
        seed: of which ones.

    Raises:
        UsageError: there are too few, so that a picture of the pool would bend the components towards itself.
    """
    if len(pool) < SMALL:
        raise UsageError(f"compact compares pictures with a pool of {SMALL} or more that can be read; got {len(pool)}.")
    bases, chosen = outside_components(pool, seed)[0], drawn(len(pool), (POOL if others is None else others) + 1, seed)
    kept = torch.stack([pool[place][LAST].patches[0] for place in chosen]).float()  # (N, L, C)
    own = [three_distances(taps, bases, kept, _itself(taps, kept)) for taps in pool]
    median, spread = robust_scale(torch.stack(own, 1).cpu())
    found = {f"{POOLED}others": kept.flatten(0, 1).half(), f"{POOLED}scale": torch.cat([median, spread], 1)[..., 0]}
    for pair in PAIRS:
        mean, beyond = bases[pair]
        found[_name(pair)] = torch.cat([mean[None], beyond.T])  # (1 + C - k, C)
    return {key: Bank(rows.contiguous(), torch.zeros(len(rows), dtype=torch.int64)) for key, rows in found.items()}


def distances(taps: Mapping[int, Tap], banks: Mapping[str, Bank]) -> Tensor:
    """The maps of B pictures, (B, h, w), on the scale of ``folder.departures``."""
    patches, grid = taps[LAST].patches, taps[LAST].grid
    kept = banks[f"{POOLED}others"].rows.float().unflatten(0, (-1, patches.shape[1]))
    bases: Outside = {pair: (banks[_name(pair)].rows[0], banks[_name(pair)].rows[1:].T) for pair in PAIRS}
    median, spread = banks[f"{POOLED}scale"].rows[:, :, None, None].unbind(1)
    singles = [{block: Tap(tap.patches[row : row + 1], tap.grid) for block, tap in taps.items()} for row in range(len(patches))]
    parts = [three_distances(one, bases, kept, _itself(one, kept)) for one in singles]
    return on_scale(torch.stack(parts, 1), median, spread).unflatten(1, grid)


def without_pool(banks: Mapping[str, Bank]) -> dict[str, Bank]:
    """The banks that are not a pool's."""
    return {key: bank for key, bank in banks.items() if not key.startswith(POOLED)}


def _itself(taps: Mapping[int, Tap], kept: Tensor) -> int:
    """The number of the picture itself among the others, else of the last one, so that all are compared with as many."""
    alike = (taps[LAST].patches.float() * kept).sum(2).amin(1) > SAME
    return int(alike.nonzero()[0]) if bool(alike.any()) else -1


def _name(pair: tuple[int, int]) -> str:
    return f"{POOLED}{pair[0]}.{pair[1]}"
