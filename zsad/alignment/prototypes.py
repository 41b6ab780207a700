"""Prototypes that a picture's own patches give, and patches rebuilt from them alone (INP-Former).

Letters: B pictures, M prototypes, L patches, C channels, h heads, d channels of a head.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["CrossBlock", "PatchMLP", "mined_gradient", "nearest_prototype", "rebuild_groups", "rebuilding_loss", "start_small"]

EPSILON = 1e-8  # of the norms


class PatchMLP(nn.Module):
    """Two linear layers with exact GELU; the hidden one is four times as wide."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class CrossAttention(nn.Module):
    """Attention of queries to other tokens.

    Args:
        width: C.
        heads: h.
        cosine: weights are the positive part of the cosine of query and key, times a learned scale per head, and need not sum
            to one; else scaled products under a softmax.
    """

    def __init__(self, width: int, heads: int, cosine: bool) -> None:
        super().__init__()
        self.heads, self.cosine = heads, cosine
        self.q, self.kv, self.proj = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        if cosine:
            self.learn_scale = nn.Parameter(torch.ones(heads, 1, 1))

    def weights(self, queries: Tensor, keys: Tensor) -> Tensor:
        """(B, h, M, d) and (B, h, L, d) -> (B, h, M, L)."""
        if self.cosine:
            return F.relu(F.normalize(queries, dim=-1) @ F.normalize(keys, dim=-1).transpose(-2, -1) * self.learn_scale)
        return (queries @ keys.transpose(-2, -1) * queries.shape[-1] ** -0.5).softmax(dim=-1)

    def forward(self, queries: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, M, C) and (B, L, C) -> what the queries take from the tokens (B, M, C), and the weights (B, h, M, L)."""
        q = self.q(queries).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(tokens).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        weights = self.weights(q, k)
        return self.proj((weights @ v).transpose(1, 2).flatten(2)), weights


class CrossBlock(nn.Module):
    """Attention to other tokens and an MLP; one norm serves queries and tokens.

    Args:
        width: C.
        heads: h.
        rebuilds: whether the output is made of the tokens alone: attention by cosines, and the queries are not added to what
            it gives.
    """

    def __init__(self, width: int, heads: int, *, rebuilds: bool) -> None:
        super().__init__()
        self.rebuilds = rebuilds
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=EPSILON), nn.LayerNorm(width, eps=EPSILON)
        self.attn, self.mlp = CrossAttention(width, heads, cosine=rebuilds), PatchMLP(width)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """(B, M, C) and (B, L, C) -> (B, M, C)."""
        taken, _ = self.attn(self.norm1(queries), self.norm1(tokens))
        x = taken if self.rebuilds else queries + taken
        return x + self.mlp(self.norm2(x))


def rebuild_groups(blocks: Iterable[nn.Module], patches: Tensor, prototypes: Tensor, groups: int) -> list[Tensor]:
    """Patches (B, L, C) that a decoder makes of prototypes (B, M, C), of as many groups of the encoder's layers.

    Each is the mean of as many blocks; the last ones come first, since they stand for the encoder's first layers.
    """
    found: list[Tensor] = []
    for block in blocks:
        patches = block(patches, prototypes)
        found.insert(0, patches)
    size = len(found) // groups
    return [torch.stack(found[start : start + size]).mean(0) for start in range(0, groups * size, size)]


def nearest_prototype(patches: Tensor, prototypes: Tensor) -> Tensor:
    """Cosine distance of each patch to its nearest prototype: (B, L, C) and (B, M, C), of any length -> (B, L) in [0, 2]."""
    return 1 - (F.normalize(patches, dim=-1) @ F.normalize(prototypes, dim=-1).transpose(1, 2)).amax(dim=2)


def mined_gradient(rebuilt: Tensor, distance: Tensor, power: float = 3.0) -> Tensor:
    """Multiplies the gradient of each rebuilt patch, and nothing else, by (distance / its mean) ** power (soft mining).

    Args:
        rebuilt: (B, L, C).
        distance: (B, L) of each from what it should be. The mean is the batch's, so a gradient depends on its other pictures.
        power: 0 changes nothing.

    Returns:
        The factors, (B, L).
    """
    factor = (distance.detach() / distance.detach().mean()) ** power
    if rebuilt.requires_grad:
        rebuilt.register_hook(lambda gradient: gradient * factor[..., None])
    return factor


def rebuilding_loss(patches: Tensor, rebuilt: Tensor) -> Tensor:
    """Cosine distance of each picture's patches as one vector, mean over the pictures; gradients by ``mined_gradient``.

    Args:
        patches: (B, L, C), as they should be.
        rebuilt: (B, L, C).
    """
    mined_gradient(rebuilt, 1 - F.cosine_similarity(patches, rebuilt, dim=2))
    return (1 - F.cosine_similarity(patches.detach().flatten(1), rebuilt.flatten(1))).mean()


def start_small(*modules: nn.Module) -> None:
    """First weights of linear layers: normal of deviation 0.01, cut at three; biases 0."""
    for one in (one for module in modules for one in module.modules()):
        if isinstance(one, nn.Linear):
            nn.init.trunc_normal_(one.weight, std=0.01, a=-0.03, b=0.03)
            nn.init.zeros_(one.bias)
