"""Square windows on a grid of patches: overlapping ones with the harmonic mean over those that cover a patch (WinCLIP,
section 4.2), and those that part the grid (window attention)."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["harmonic_map", "incidence", "join_windows", "split_windows", "window_tokens"]


@lru_cache(maxsize=16)
def window_tokens(grid: tuple[int, int], scale: int) -> Tensor:
    """Token indices (class token first) of all ``scale`` x ``scale`` windows, stride 1, row by row: (n, 1 + scale * scale)."""
    patches = torch.arange(1, 1 + grid[0] * grid[1]).view(grid)
    windows = patches.unfold(0, scale, 1).unfold(1, scale, 1).reshape(-1, scale * scale)
    return F.pad(windows, (1, 0), value=0)


@lru_cache(maxsize=16)
def incidence(grid: tuple[int, int], scale: int) -> Tensor:
    """(n, h * w): 1 / (windows that cover the patch) where the window covers it, else 0; columns sum to 1."""
    windows = window_tokens(grid, scale)[:, 1:] - 1
    covers = torch.zeros(len(windows), grid[0] * grid[1]).scatter_(1, windows, 1.0)
    return covers / covers.sum(dim=0)


def harmonic_map(scores: Tensor, scale: int, grid: tuple[int, int]) -> Tensor:
    """Harmonic mean over the windows that cover each patch: (B, n), all above 0, -> (B, h, w)."""
    return 1 / (1 / scores @ incidence(grid, scale).to(scores)).unflatten(1, grid)


def split_windows(x: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    """(B, h * w, C) -> the ``side`` x ``side`` windows that do not overlap, row by row: (B * n, side * side, C)."""
    rows, columns = grid[0] // side, grid[1] // side
    return x.unflatten(1, (rows, side, columns, side)).transpose(2, 3).flatten(3, 4).flatten(0, 2)


def join_windows(windows: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    """What ``split_windows`` made -> (B, h * w, C)."""
    rows, columns = grid[0] // side, grid[1] // side
    whole = windows.unflatten(0, (-1, rows, columns)).unflatten(3, (side, side))  # (B, rows, columns, side, side, C)
    return whole.transpose(2, 3).flatten(1, 4)
