"""Learned maps of a whole sequence of patches, and of several layers of patches into the space of text (DictAS)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["LayerFusion", "TokenGenerator"]

DROPOUT = 0.1


class TokenGenerator(nn.Module):
    """Self-attention over all tokens of a sequence, then two linear layers, a norm and a third; (B, L, C) -> (B, L, C).

    Args:
        width: C.
        heads: of the attention, which has no projection behind it.
        residual: whether the tokens are added to the result.
    """

    def __init__(self, width: int, heads: int = 4, *, residual: bool = False) -> None:
        super().__init__()
        self.heads, self.residual = heads, residual
        self.norm1 = nn.LayerNorm(width)
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.linear1, self.linear2 = nn.Linear(width, width), nn.Linear(width, width)
        self.dropout, self.norm = nn.Dropout(DROPOUT), nn.LayerNorm(width)
        self.linear3 = nn.Linear(width, width, bias=False)
        for layer in (self.q_proj, self.k_proj, self.v_proj, self.linear1, self.linear2, self.linear3):
            nn.init.normal_(layer.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, C), the tokens of one sequence see each other, -> (B, L, C)."""
        normed = self.norm1(x)
        q, k, v = (
            layer(normed).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        mixed = self.linear2(self.dropout(self.linear1(attended)) + normed)
        found: Tensor = self.linear3(self.norm(mixed))
        return x + found if self.residual else found


class LayerFusion(nn.Module):
    """Patches of several layers -> one image feature: a linear layer on all of them, learned weights of the places, another.

    Args:
        width: channels of a layer.
        layers: how many there are.
        dim: of the image feature.
    """

    def __init__(self, width: int, layers: int, dim: int) -> None:
        super().__init__()
        self.fuse_modules = nn.Linear(width * layers, width // 2)
        self.compress, self.post_process = nn.Linear(width // 2, 1), nn.Linear(width // 2, dim)

    def forward(self, taps: Sequence[Tensor]) -> Tensor:
        """(B, L, C) per layer, of any length, -> (B, dim) of length one."""
        joined = self.fuse_modules(torch.cat([F.normalize(tap, dim=-1) for tap in taps], dim=-1))  # (B, L, C / 2)
        pooled = (self.compress(joined).softmax(dim=1) * joined).sum(dim=1)
        return F.normalize(self.post_process(pooled), dim=-1)
