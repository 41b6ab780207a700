"""Learned tokens in front of the sentences of each class of text (Tipsomaly)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.weights.checkpoints import AuthorsFile

__all__ = ["PREFIX_FILE", "PrefixPair", "prefix_sizes"]

STD = 0.02  # of the initial tokens
PREFIX_FILE = AuthorsFile(  # a list of two, or a dict with it; for a ``PrefixPair`` that the detector calls ``prefix``
    {r"^0$": "prefix.normal", r"^1$": "prefix.anomalous"}, inside=("learnable_prompts",)
)


class PrefixedText(Protocol):
    """A text tower that takes tokens in front of its sentences."""

    def encode_text(self, sentences: Sequence[str], prefix: Tensor | None = None) -> Tensor:
        """N sentences, and tokens (n, C) in front of each -> (N, D)."""


class PrefixPair(nn.Module):
    """One tensor of learned tokens for all normal sentences, one for all anomalous ones.

    Args:
        width: of the text tower.
        length: tokens of each.
    """

    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        self.normal = nn.Parameter(STD * torch.randn(length, width))
        self.anomalous = nn.Parameter(STD * torch.randn(length, width))

    def encode(self, backbone: PrefixedText, sentences: Sequence[Sequence[str]]) -> Tensor:
        """Normal and anomalous sentences -> (1, 2, D): the mean of vectors of length one, of length one."""
        pairs = zip(sentences, (self.normal, self.anomalous), strict=True)
        encoded = [F.normalize(backbone.encode_text(lines, prefix), dim=-1).mean(dim=0) for lines, prefix in pairs]
        return F.normalize(torch.stack(encoded), dim=-1)[None]


def prefix_sizes(state: Mapping[str, Any]) -> dict[str, int]:
    """``length`` from the shapes under own names, or {} where there are no tokens."""
    tokens = state.get("prefix.normal")
    return {"length": len(tokens)} if isinstance(tokens, Tensor) and tokens.dim() == 2 else {}
