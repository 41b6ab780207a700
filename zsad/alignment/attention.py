"""Attention of the local path, in the place of query-key attention (CLIP surgery)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["like_attention", "self_self_sum", "value_value"]


def value_value(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """V-V attention: values attend to values, ``softmax(v v^T / sqrt(d)) v``; one fused call.

    CLIP Surgery (Li et al. 2023), AnomalyCLIP's DPAM (Zhou et al., ICLR 2024, section 3.3).

    Args:
        q: (B, h, L, d), not used; nor is ``k``.
        k: (B, h, L, d).
        v: (B, h, L, d).

    Returns:
        (B, h, L, d).
    """
    return F.scaled_dot_product_attention(v, v, v)


def self_self_sum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Q-Q, K-K and V-V attention to the same values, summed and not averaged (Crane's E-Attn); three fused calls.

    Weights that are summed before one product with the values are a tenth faster on a quiet CPU, and many times slower on a
    busy one, since they need a hundred short parallel steps.

    Args:
        q: (B, h, L, d).
        k: (B, h, L, d).
        v: (B, h, L, d).

    Returns:
        (B, h, L, d).
    """
    summed = F.scaled_dot_product_attention(q, q, v) + F.scaled_dot_product_attention(k, k, v)
    return summed + F.scaled_dot_product_attention(v, v, v)


def like_attention(patches: Tensor, beta: float, gamma: float, *, over_batch: bool = False) -> Tensor:
    """Attention weights between patches that look alike to another encoder (ProxyCLIP; Crane's D-Attn).

    Cosines less ``beta`` times their mean, times ``gamma``; what is negative then has no weight. A patch always has its own.

    Args:
        patches: (B, L, C) of that encoder.
        beta: how far above the mean a cosine must be.
        gamma: sharpness of the softmax.
        over_batch: the mean is over all pictures together, as published, and not over each.

    Returns:
        (B, L, L), rows sum to one.
    """
    unit = F.normalize(patches, dim=-1)
    cosine = unit @ unit.transpose(1, 2)
    mean = cosine.mean() if over_batch else cosine.mean(dim=(1, 2), keepdim=True)
    logits = (cosine - beta * mean) * gamma
    own = torch.eye(cosine.shape[1], dtype=torch.bool, device=cosine.device)
    return logits.masked_fill((logits < 0) & ~own, float("-inf")).softmax(dim=-1)
