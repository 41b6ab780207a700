"""Learned prompt tokens that two methods use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Overwrite", "rounded_to_half"]


def rounded_to_half(x: Tensor) -> Tensor:
    """Values rounded to float16, in their own type: the authors' ``.half()`` before a concatenation with float32."""
    return x.half().to(x.dtype)


@dataclass(frozen=True)
class Overwrite:
    """Fulfils ``vit.Prompts``: puts tokens in the place of those from ``start`` on, before some blocks.

    Attributes:
        tokens: by block (1-based), (n, C) or (N, n, C).
        start: first position that is overwritten.
    """

    tokens: Mapping[int, Tensor]
    start: int = 1

    def insert(self, x: Tensor, layer: int) -> Tensor:
        """(N, L, C) before block ``layer`` -> the same shape."""
        if layer not in self.tokens:
            return x
        tokens = self.tokens[layer].to(x)
        tokens = tokens.expand(x.shape[0], *tokens.shape[-2:])
        return torch.cat([x[:, : self.start], tokens, x[:, self.start + tokens.shape[1] :]], dim=1)
