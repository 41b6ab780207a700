"""The trunk: CLIP's vision transformer, with two seams for the methods; ``clip.py`` puts the text tower beside it.

Parameter names are CLIP's, so OpenAI-format and open_clip state dicts load strictly with no map. Every intermediate that
the papers use is a public function: ``embed`` and ``Block`` for loops of one's own, ``project`` for what stands behind the
last block (the papers disagree about it, so it is explicit).

The two seams:

* ``local=LocalPath(start, attend)``: a second residual stream from layer ``start`` on, whose attention is ``attend(q, k, v)``
  on the plain stream's queries, keys and values and which never passes an MLP (CLIP Surgery; AnomalyCLIP's DPAM).
* ``prompts=``: an object with ``insert(x, layer) -> x``, called before every block with the tokens (B, L, C).

Letters: B pictures, L tokens (class token first), C width, D joint dimension, h heads, d channels of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.types import Tap

__all__ = ["Block", "LocalPath", "Prompts", "TowerShape", "VisionTransformer", "resize_positions"]

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
POSITION_MODES = ("bilinear", "bicubic", "bicubic_antialias")


def quick_gelu(x: Tensor) -> Tensor:
    """OpenAI CLIP's activation."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "quick_gelu": quick_gelu}


@dataclass(frozen=True)
class LocalPath:
    """A second residual stream with its own attention."""

    start: int  # first layer of the stream, 1-based
    attend: Attend  # (B, h, L, d) queries, keys, values -> (B, h, L, d)


class Prompts(Protocol):
    """Tokens that a method puts into a tower."""

    def insert(self, x: Tensor, layer: int) -> Tensor:
        """Tokens (B, L, C) before block ``layer`` (1-based) -> tokens (B, L', C)."""


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

    def fork(self, x: Tensor, local: Tensor, attend: Attend) -> tuple[Tensor, Tensor]:
        """One layer of both streams; the output projection runs once, on both stacked."""
        q, k, v = self.qkv(x)
        values = torch.cat([F.scaled_dot_product_attention(q, k, v), attend(q, k, v)])
        plain, own = self.attn.output(values).chunk(2)
        return self.feed(x + plain), local + own

    def only(self, x: Tensor, place: Tensor, causal: bool = False) -> Tensor:
        """The block's output at one place of each sequence: (B, L, C) and indices (B,) -> (B, 1, C)."""
        normed, width, rows = self.ln_1(x), x.shape[-1], torch.arange(len(x), device=x.device)
        weight, bias = self.attn.in_proj_weight, self.attn.in_proj_bias
        k, v = F.linear(normed, weight[width:], bias[width:]).unflatten(-1, (2, self.attn.heads, -1)).permute(2, 0, 3, 1, 4)
        q = F.linear(normed[rows, place], weight[:width], bias[:width]).unflatten(-1, (self.attn.heads, 1, -1))  # (B, h, 1, d)
        seen = (torch.arange(x.shape[1], device=x.device) <= place[:, None])[:, None, None] if causal else None
        mixed = self.attn.output(F.scaled_dot_product_attention(q, k, v, attn_mask=seen))
        return self.feed(x[rows, place][:, None] + mixed)

    def finish(self, x: Tensor, local: Tensor | None = None, attend: Attend | None = None) -> tuple[Tensor, Tensor | None]:
        """The last layer, where only the plain stream's class token is wanted: (B, 1, C), and the local stream (B, L, C)."""
        if local is None or attend is None:
            return self.only(x, torch.zeros(len(x), dtype=torch.int64, device=x.device)), None
        q, k, v = self.qkv(x)
        values = torch.cat([F.scaled_dot_product_attention(q[:, :, :1], k, v), attend(q, k, v)], dim=2)
        mixed = self.attn.output(values)  # (B, 1 + L, C)
        return self.feed(x[:, :1] + mixed[:, :1]), local + mixed[:, 1:]


class Transformer(nn.Module):
    """A stack of blocks."""

    def __init__(self, shape: TowerShape, activation: str) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(shape, activation) for _ in range(shape.layers))

    @property
    def blocks(self) -> list[Block]:
        """The residual blocks; layer l of the papers is ``blocks[l - 1]``."""
        return [cast(Block, block) for block in self.resblocks]


def resize_positions(embedding: Tensor, grid: tuple[int, int], mode: str) -> Tensor:
    """Resizes (1 + n * n, C) position embeddings of a square grid to another grid; the class token's stays.

    ``mode``: "bilinear", "bicubic" (both without antialiasing) or "bicubic_antialias"; align_corners is off in all.
    """
    cls, patches = embedding[:1], embedding[1:]
    side = math.isqrt(patches.shape[0])
    if grid == (side, side):
        return embedding
    square = patches.unflatten(0, (side, side)).permute(2, 0, 1)[None]
    name, _, antialias = mode.partition("_")
    resized = F.interpolate(square, size=grid, mode=name, align_corners=False, antialias=bool(antialias))
    return torch.cat([cls, resized[0].permute(1, 2, 0).flatten(0, 1)])


class VisionTransformer(nn.Module):
    """CLIP's image tower."""

    def __init__(
        self, shape: TowerShape, patch_size: int, native_size: int, dim: int, activation: str, position_embedding: str
    ) -> None:
        super().__init__()
        self.patch_size, self.position_mode = patch_size, position_embedding
        side, scale = native_size // patch_size, shape.width**-0.5
        self.conv1 = nn.Conv2d(3, shape.width, patch_size, stride=patch_size, bias=False)
        self.class_embedding = nn.Parameter(scale * torch.randn(shape.width))
        self.positional_embedding = nn.Parameter(scale * torch.randn(side * side + 1, shape.width))
        self.ln_pre = nn.LayerNorm(shape.width)
        self.transformer = Transformer(shape, activation)
        self.ln_post = nn.LayerNorm(shape.width)
        self.proj = nn.Parameter(scale * torch.randn(shape.width, dim))

    @property
    def blocks(self) -> list[Block]:
        """The residual blocks; layer l of the papers is ``blocks[l - 1]``."""
        return self.transformer.blocks

    def grid(self, images: Tensor) -> tuple[int, int]:
        """Rows and columns of patches of (B, 3, H, W)."""
        return images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size

    def embed(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> tokens (B, 1 + h * w, C) with positions, behind ``ln_pre``."""
        patches = self.conv1(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_embedding.expand(len(images), 1, -1), patches], dim=1)
        return self.ln_pre(tokens + resize_positions(self.positional_embedding, self.grid(images), self.position_mode))

    def project(self, x: Tensor, *, norm: bool = True, proj: bool = True) -> Tensor:
        """Hidden states (..., C) -> ``ln_post`` (if ``norm``) -> the joint space (..., D) (if ``proj``)."""
        x = self.ln_post(x) if norm else x
        return x @ self.proj if proj else x

    def forward(
        self,
        images: Tensor,
        taps: Sequence[int] = (),
        local: LocalPath | None = None,
        prompts: Prompts | None = None,
        *,
        class_only: bool = False,
    ) -> tuple[Tensor, dict[int, Tap], dict[int, Tap]]:
        """(B, 3, H, W) -> class token behind the last block (B, C), taps of the plain and of the local stream (raw states).

        Where ``prompts`` appended tokens, taps leave them out. Before ``local.start`` the local stream is the plain one.
        ``class_only`` computes the plain stream's last block for the class token alone, so that layer has no plain tap.
        """
        grid, last = self.grid(images), len(self.blocks)
        tapped: tuple[dict[int, Tap], dict[int, Tap]] = ({}, {})
        x = self.embed(images)
        own: Tensor | None = x
        for layer, block in enumerate(self.blocks, 1):
            x = prompts.insert(x, layer) if prompts else x
            forked = local is not None and layer >= local.start
            before = own if local and layer > local.start else x
            if class_only and layer == last:
                x, own = block.finish(x, before, local.attend) if forked and local else block.finish(x)
            elif forked and local and before is not None:
                x, own = block.fork(x, before, local.attend)
            else:
                x = own = block(x)
            if layer in taps:
                for taps_of, state in zip(tapped, (x, own) if local else (x,), strict=False):
                    if state is not None and state.shape[1] > 1:
                        taps_of[layer] = Tap(state[:, 1 : 1 + grid[0] * grid[1]], grid, state[:, 0])
        return x[:, 0], *tapped
