"""Attention of the local path, in the place of query-key attention (CLIP surgery)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["value_value"]


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
