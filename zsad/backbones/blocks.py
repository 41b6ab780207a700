"""Blocks of CLIP's towers, with their steps open: attention, MLP, residual block, stack of blocks.

Parameter names are CLIP's, so OpenAI-format and open_clip state dicts load strictly with no map.

Letters: B pictures or sentences, L tokens, C width, h heads, d channels of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ACTIVATIONS", "Attend", "Block", "SwiGLU", "TowerShape", "Transformer"]

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def quick_gelu(x: Tensor) -> Tensor:
    """OpenAI CLIP's activation."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "quick_gelu": quick_gelu}


@dataclass(frozen=True)
class TowerShape:
    """Size of one transformer."""

    width: int
    layers: int
    heads: int
    mlp: int  # channels of the MLP's hidden layer


class Attention(nn.Module):
    """Multi-head self-attention with ``nn.MultiheadAttention``'s parameter names, its steps open."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width).normal_(std=width**-0.5))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, L, C) -> three of (B, h, L, d)."""
        q, k, v = F.linear(x, self.in_proj_weight, self.in_proj_bias).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return q, k, v

    def output(self, values: Tensor) -> Tensor:
        """(B, h, L, d) -> (B, L, C)."""
        return self.out_proj(values.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """The block's two linear layers."""

    def __init__(self, width: int, hidden: int, activation: str) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, hidden)
        self.c_proj = nn.Linear(hidden, width)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.activation(self.c_fc(x)))


class SwiGLU(nn.Module):
    """The MLP of the giants of DINOv2 and TIPS: one half of the first layer gates the other. Names as ``MLP``'s."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 2 * hidden)
        self.c_proj = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.c_fc(x).chunk(2, dim=-1)
        return self.c_proj(F.silu(gate) * value)


class Block(nn.Module):
    """A pre-norm residual block, in two public halves."""

    def __init__(self, shape: TowerShape, activation: str) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(shape.width)
        self.attn = Attention(shape.width, shape.heads)
        self.ln_2 = nn.LayerNorm(shape.width)
        self.mlp = MLP(shape.width, shape.mlp, activation)

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the normed tokens, three of (B, h, L, d)."""
        return self.attn.qkv(self.ln_1(x))

    def attended(self, x: Tensor, causal: bool = False) -> Tensor:
        """The state between attention and MLP, (B, L, C)."""
        return x + self.attn.output(F.scaled_dot_product_attention(*self.qkv(x), is_causal=causal))

    def feed(self, x: Tensor) -> Tensor:
        """The MLP half, (..., C)."""
        return x + self.mlp(self.ln_2(x))

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        return self.feed(self.attended(x, causal))

    def fork(self, x: Tensor, attend: Attend, queries: int | None = None) -> tuple[Tensor, Tensor]:
        """What attention adds to the plain stream (B, queries or L, C), and to a local one that attends so (B, L, C).

        Both read the plain stream's tokens; the output projection runs once, on both.

        Args:
            x: tokens of the plain stream, (B, L, C).
            attend: attention of the local stream.
            queries: the first so many tokens of the plain stream alone; None: all.
        """
        q, k, v = (one.contiguous() for one in self.qkv(x))  # read several times; saves three attentions an eighth
        plain = F.scaled_dot_product_attention(q[:, :, :queries], k, v)
        mixed = self.attn.output(torch.cat([plain, attend(q, k, v)], dim=2))  # (B, queries + L, C)
        return mixed[:, : plain.shape[2]], mixed[:, plain.shape[2] :]

    def attended_at(self, x: Tensor, place: Tensor, causal: bool = False) -> Tensor:
        """``attended`` at one place of each sequence: (B, L, C) and indices (B,) -> (B, 1, C)."""
        normed, width, rows = self.ln_1(x), x.shape[-1], torch.arange(x.shape[0], device=x.device)
        weight, bias = self.attn.in_proj_weight, self.attn.in_proj_bias
        k, v = F.linear(normed, weight[width:], bias[width:]).unflatten(-1, (2, self.attn.heads, -1)).permute(2, 0, 3, 1, 4)
        q = F.linear(normed[rows, place], weight[:width], bias[:width]).unflatten(-1, (self.attn.heads, 1, -1))  # (B, h, 1, d)
        seen = (torch.arange(x.shape[1], device=x.device) <= place[:, None])[:, None, None] if causal else None
        return x[rows, place][:, None] + self.attn.output(F.scaled_dot_product_attention(q, k, v, attn_mask=seen))

    def only(self, x: Tensor, place: Tensor, causal: bool = False) -> Tensor:
        """The block's output at one place of each sequence: (B, L, C) and indices (B,) -> (B, 1, C)."""
        return self.feed(self.attended_at(x, place, causal))


class Transformer(nn.Module):
    """A stack of blocks."""

    def __init__(self, shape: TowerShape, activation: str) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(shape, activation) for _ in range(shape.layers))

    @property
    def blocks(self) -> list[Block]:
        """The residual blocks; layer l of the papers is ``blocks[l - 1]``."""
        return [cast(Block, block) for block in self.resblocks]
