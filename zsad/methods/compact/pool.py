"""Batch mode of both towers: how many pictures it needs, and which others each picture is compared with."""

from __future__ import annotations

import torch

from zsad.errors import UsageError

__all__ = ["LOWEST", "check_pool", "drawn", "nearest_others"]

FEWEST = 5  # pictures of a batch
LOWEST = 0.3  # part of the others, the nearest, whose distances are averaged


def check_pool(count: int, pool: int | None) -> None:
    """Raises ``UsageError`` for fewer than ``FEWEST`` pictures, or a pool that is smaller than that allows."""
    if count < FEWEST:
        raise UsageError(
            f"compact with batch=True compares pictures with each other and needs {FEWEST} or more; got {count}. "
            "Add pictures, or leave batch out."
        )
    if pool is not None and pool < FEWEST - 1:
        raise UsageError(f"pool is how many others a picture is compared with, {FEWEST - 1} or more; got {pool}.")


def drawn(count: int, most: int, seed: int) -> list[int]:
    """Numbers of all pictures, or of a seeded choice of ``most`` of them."""
    if most >= count:
        return list(range(count))
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:most].tolist()


def nearest_others(others: int) -> int:
    """How many of so many pictures, of which one is left out, a patch's distance is averaged over."""
    return max(1, int(LOWEST * (others - 1)))
