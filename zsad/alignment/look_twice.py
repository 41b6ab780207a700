"""Look-twice feature matching: where a picture is suspicious, and a second look at what is there (Anomaly-OV)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["attended", "significant_tokens", "suspicion", "weighted_mean"]

SHARPNESS = 100.0


def suspicion(patches: Tensor, prompts: Tensor) -> Tensor:
    """Probability of the second prompt (anomalous) at each patch.

    Args:
        patches: (B, N, L, D) of N views, of any length.
        prompts: (B, 2, D), normal first, of any length.

    Returns:
        (B, N, L).
    """
    cosines = F.normalize(patches, dim=-1) @ F.normalize(prompts, dim=-1).transpose(1, 2)[:, None]
    return (SHARPNESS * cosines).softmax(dim=-1)[..., 1]


def significant_tokens(tokens: Tensor, weights: Tensor, grid: tuple[int, int], side: int) -> tuple[Tensor, Tensor]:
    """Weighted means of tokens in side x side cells of a grid; cells of an odd grid overlap.

    Args:
        tokens: (V, L, C).
        weights: (V, L), above 0.
        grid: (h, w) with h * w == L.
        side: cells along each side.

    Returns:
        Tokens (V, side * side, C) and each cell's mean weight (V, side * side).
    """
    share = weights.unflatten(1, grid)[:, None]  # (V, 1, h, w)
    squares = tokens.transpose(1, 2).unflatten(2, grid)  # (V, C, h, w)
    cells = F.adaptive_avg_pool2d(share, side)
    pooled = F.adaptive_avg_pool2d(squares * share, side) / cells
    return pooled.flatten(2).transpose(1, 2), cells.flatten(1)


def attended(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention of one head without projection of the values: (V, q, d), (V, L, d), (V, L, C) -> (V, q, C)."""
    return F.scaled_dot_product_attention(queries[:, None], keys[:, None], values[:, None])[:, 0]


def weighted_mean(tokens: Tensor, weights: Tensor) -> Tensor:
    """(B, T, C) tokens and (B, T) weights, above 0 -> (B, C)."""
    found: Tensor = torch.einsum("btc,bt->bc", tokens, weights) / weights.sum(dim=1, keepdim=True)
    return found
