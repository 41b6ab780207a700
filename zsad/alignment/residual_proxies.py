"""Learned proxies that gather what anomalous examples have beyond normal ones, and find it in a picture (NAGL).

Letters: B pictures, M proxies, L tokens, C channels, h heads.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ProxyAttention", "ResidualProxies", "Shown", "interleaved", "mean_likeness", "sine_code"]

HIDDEN = -1e9  # what a hidden token's weight gets before the softmax; where all are hidden, all weigh the same
TEMPERATURE = 10_000.0


class Shown(NamedTuple):
    """Patches of anomalous references, of each picture or (B = 1) of all."""

    tokens: Tensor  # (B, L, C)
    residuals: Tensor  # (B, L, C), what each has beyond the nearest normal patch
    codes: Tensor  # (B, L, C), of their positions
    hidden: Tensor  # (B, L) bool, True where no defect is


class ProxyAttention(nn.Module):
    """Attention of proxies to tokens, added and normed. Keys and values may be of different tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention, self.norm = nn.MultiheadAttention(width, heads, batch_first=True), nn.LayerNorm(width)

    def weighed(
        self, proxies: Tensor, keys: Tensor, values: Tensor, hidden: Tensor | None = None, *, heads_first: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The proxies behind the attention, and its weights.

        Args:
            proxies: (B, M, C).
            keys: (B, L, C).
            values: (B, L, C).
            hidden: (B, L), True where a token is not looked at.
            heads_first: the published order of the mask's rows: head h of picture b hides what picture (b * heads + h) mod B
                should. It makes no difference to one picture.

        Returns:
            (B, M, C), and the mean over heads, (B, M, L).
        """
        mask, heads = None, self.attention.num_heads
        if hidden is not None:
            rows = (hidden.to(keys.dtype) * HIDDEN)[:, None].expand(-1, proxies.shape[1], -1)  # (B, M, L)
            mask = rows.repeat(heads, 1, 1) if heads_first else rows.repeat_interleave(heads, dim=0)  # (B * heads, M, L)
        found, weights = self.attention(proxies, keys, values, attn_mask=mask)
        return self.norm(proxies + found), weights

    def forward(
        self, proxies: Tensor, keys: Tensor, values: Tensor, hidden: Tensor | None = None, *, heads_first: bool = False
    ) -> Tensor:
        """(B, M, C), without the weights."""
        return self.weighed(proxies, keys, values, hidden, heads_first=heads_first)[0]


class SelfAttention(ProxyAttention):
    """Attention of proxies to each other."""

    def forward(self, proxies: Tensor) -> Tensor:  # type: ignore[override]
        """(B, M, C) -> (B, M, C)."""
        return self.weighed(proxies, proxies, proxies)[0]


def sine_code(skipped: Tensor, width: int) -> Tensor:
    """Position codes of a grid: sine and cosine in turn, half of the channels for the row, half for the column.

    Args:
        skipped: (B, h, w), True where a place repeats the number of the one before it.
        width: C.

    Returns:
        (B, h * w, C).
    """
    counted, half = (~skipped).float(), width // 2
    index = torch.arange(half, dtype=torch.float32, device=skipped.device)
    periods = TEMPERATURE ** (2 * torch.div(index, 2, rounding_mode="floor") / half)
    parts = []
    for axis in (1, 2):
        numbers = counted.cumsum(axis)
        last = numbers.narrow(axis, numbers.shape[axis] - 1, 1)
        angles = (numbers / (last + 1e-6) * 2 * math.pi)[..., None] / periods  # (B, h, w, C / 2)
        parts.append(torch.stack([angles[..., 0::2].sin(), angles[..., 1::2].cos()], dim=-1).flatten(-2))
    return torch.cat(parts, dim=-1).flatten(1, 2)


def interleaved(codes: Tensor) -> Tensor:
    """Codes (R, L, C) of several references in the published order, cell by cell and in each reference by reference.

    Their keys stand reference by reference, so with two references or more most tokens get another place's code.
    """
    return codes.transpose(0, 1).reshape(codes.shape)


class ResidualProxies(nn.Module):
    """Proxies that are learned once, mined from shown defects, and then found again in a picture.

    Args:
        width: C.
        count: M.
        heads: of the attention.
    """

    def __init__(self, width: int, count: int, heads: int = 4) -> None:
        super().__init__()
        self.learnable_proxies = nn.Embedding(count, width)
        self.rm_ca, self.afl_ca = ProxyAttention(width, heads), ProxyAttention(width, heads)
        self.rm_sa, self.afl_sa = SelfAttention(width, heads), SelfAttention(width, heads)

    def codes(self, marked: Tensor, grid: tuple[int, int], aliased: bool) -> Tensor:
        """Position codes of the references of one picture, (R, L) bool -> (R, L, C); ``aliased``: see ``interleaved``."""
        codes = sine_code(marked.unflatten(1, grid), self.learnable_proxies.embedding_dim)
        return interleaved(codes) if aliased else codes

    def shown(self, tokens: Tensor, residuals: Tensor, marked: Tensor, grid: tuple[int, int], aliased: bool) -> Shown:
        """All patches of R references of each picture, of which those that are not marked are hidden.

        Args:
            tokens: (B, R * L, C).
            residuals: (B, R * L, C).
            marked: (B, R, L) bool.
            grid: of the L patches.
            aliased: see ``codes``.
        """
        codes = torch.stack([self.codes(one, grid, aliased).flatten(0, 1) for one in marked])
        return Shown(tokens, residuals, codes, ~marked.flatten(1))

    def mine(self, shown: Shown, heads_first: bool = False) -> Tensor:
        """Proxies of what the shown defects have beyond normal patches, (B, M, C)."""
        start = self.learnable_proxies.weight.expand(len(shown.tokens), -1, -1)
        keys = shown.tokens + shown.codes
        mined: Tensor = self.rm_sa(self.rm_ca(start, keys, shown.residuals, shown.hidden, heads_first=heads_first))
        return mined

    def find(self, mined: Tensor, patches: Tensor, residuals: Tensor, grid: tuple[int, int]) -> Tensor:
        """Proxies of pictures' own defects: (1 or B, M, C), patches and their residuals (B, L, C) -> (B, M, C)."""
        code = sine_code(torch.zeros(1, *grid, dtype=torch.bool, device=patches.device), patches.shape[2])
        found: Tensor = self.afl_sa(self.afl_ca(mined.expand(patches.shape[0], -1, -1), residuals + code, patches))
        return found


def mean_likeness(patches: Tensor, proxies: Tensor) -> Tensor:
    """Mean over proxies (B, M, C) of (1 + cosine) / 2, (B, L, C) -> (B, L)."""
    return ((1 + F.normalize(patches, dim=-1) @ F.normalize(proxies, dim=-1).transpose(1, 2)) / 2).mean(dim=2)
