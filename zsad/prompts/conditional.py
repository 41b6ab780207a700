"""Learned tokens that a picture's feature shifts (CoCoOp; Zhou et al., CVPR 2022)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.prompts.learned_pair import STD, TextTower

__all__ = ["ConditionalContext", "ConditionalPair"]

NARROW = 16  # times narrower than the image feature is the hidden layer


class ConditionalContext(nn.Module):
    """Tokens in place of the words before a sentence, plus the output of a small network on the image feature.

    Args:
        width: of the text tower.
        dim: of the image feature.
        context: learned tokens per sentence.
    """

    def __init__(self, width: int, dim: int, context: int) -> None:
        super().__init__()
        self.ctx = nn.Parameter(STD * torch.randn(context, width))
        hidden = max(1, dim // NARROW)
        layers = [("linear1", nn.Linear(dim, hidden)), ("relu", nn.ReLU()), ("linear2", nn.Linear(hidden, width))]
        self.meta_net = nn.Sequential(OrderedDict(layers))

    def sentences(self, phrases: Sequence[str]) -> tuple[str, ...]:
        """The phrases with an X for each learned token before them and a full stop."""
        dummy = " ".join(["X"] * len(self.ctx))
        return tuple(f"{dummy} {phrase}." for phrase in phrases)

    def encode(self, backbone: TextTower, ids: Tensor, image: Tensor) -> Tensor:
        """Features (N, D), not normalised, of the sentences ``ids`` for a picture's feature (D,); (B, N, D) for (B, D)."""
        x, before = backbone.token_embedding(ids), image.shape[:-1]  # (N, context length, C)
        learned = (self.ctx + self.meta_net(image)[..., None, :])[..., None, :, :].expand(*before, len(ids), *self.ctx.shape)
        start, rest = (part.expand(*before, *part.shape) for part in (x[:, :1], x[:, 1 + len(self.ctx) :]))
        x, ends = torch.cat([start, learned, rest], dim=-2), ids.argmax(dim=1).expand(*before, len(ids))
        return backbone.encode_embeddings(x.flatten(0, -3), ends.flatten()).unflatten(0, ends.shape)


class ConditionalPair(nn.Module):
    """Two ``ConditionalContext``, one for normal sentences and one for anomalous ones; arguments as there."""

    def __init__(self, width: int, dim: int, context: int) -> None:
        super().__init__()
        self.normal, self.anomalous = (ConditionalContext(width, dim, context) for _ in range(2))

    def sentences(self, phrases: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
        """The sentences of the phrases "normal" and "anomalous"."""
        return {kind: getattr(self, kind).sentences(phrases[kind]) for kind in ("normal", "anomalous")}

    def encode(self, backbone: TextTower, normal: Tensor, anomalous: Tensor, image: Tensor) -> Tensor:
        """The mean of each side's sentences for a picture's feature (D,), both of length one: (2, D); (B, 2, D) for (B, D).

        ``normal`` and ``anomalous`` are token ids, (N, context length) each.
        """
        sides = ((self.normal, normal), (self.anomalous, anomalous))
        means = [F.normalize(side.encode(backbone, ids, image), dim=-1).mean(dim=-2) for side, ids in sides]
        return F.normalize(torch.stack(means, dim=-2), dim=-1)
