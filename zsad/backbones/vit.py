"""The trunk: CLIP's vision transformer, with two seams for the methods; ``clip.py`` puts the text tower beside it.

Parameter names are CLIP's, so OpenAI-format and open_clip state dicts load strictly with no map. Every intermediate that
the papers use is a public function: ``embed`` and ``Block`` for loops of one's own, ``project`` for what stands behind the
last block (the papers disagree about it, so it is explicit).

The two seams:

* ``local=LocalPath(start, attend)``: a second stream from layer ``start`` on, to which every block adds ``attend(q, k, v)`` of
  the plain stream's queries, keys and values and which never passes an MLP (CLIP Surgery; AnomalyCLIP's DPAM).
* ``prompts=``: an object with ``insert(x, layer) -> x``, called before every block with the tokens (B, L, C).

Letters: B pictures, L tokens (class token first), C width, D joint dimension, h heads, d channels of a head.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.backbones.blocks import Attend, Block, TowerShape, Transformer
from zsad.types import Tap

__all__ = ["LocalPath", "Prompts", "States", "VisionTransformer", "resize_positions"]

POSITION_MODES = ("bilinear", "bicubic", "bicubic_antialias", "bicubic_offset")


@dataclass(frozen=True)
class LocalPath:
    """A second stream with its own attention; it begins with the plain stream's tokens before layer ``start``."""

    start: int  # first layer of the stream, 1-based
    attend: Attend  # (B, h, L, d) queries, keys, values -> (B, h, L, d)
    restarts: tuple[int, ...] = ()  # layers whose attention replaces what the stream was, instead of being added (CLIP-AD)


@dataclass(frozen=True)
class States:
    """Raw hidden states of one pass, by layer (1-based)."""

    cls: Tensor  # (B, C), class token behind the last block
    plain: dict[int, Tap]
    local: dict[int, Tap]  # empty without a local path
    attended: dict[int, Tap]  # of the plain stream, between a block's attention and its MLP


class Prompts(Protocol):
    """Tokens that a method puts into a tower."""

    def insert(self, x: Tensor, layer: int) -> Tensor:
        """Tokens (B, L, C) before block ``layer`` (1-based) -> tokens (B, L', C)."""


def resize_positions(embedding: Tensor, grid: tuple[int, int], mode: str) -> Tensor:
    """Resizes (1 + n * n, C) position embeddings of a square grid to another grid; the class token's stays.

    ``mode``: "bilinear", "bicubic" (both without antialiasing), "bicubic_antialias", or "bicubic_offset": by the scale factor
    (n + 0.1) / native in place of n / native (facebookresearch's DINOv2); align_corners is off in all.
    """
    cls, patches = embedding[:1], embedding[1:]
    side = math.isqrt(patches.shape[0])
    if grid == (side, side):
        return embedding
    square = patches.unflatten(0, (side, side)).permute(2, 0, 1)[None]
    name, _, how = mode.partition("_")
    if how == "offset":
        resized = F.interpolate(square, scale_factor=((grid[0] + 0.1) / side, (grid[1] + 0.1) / side), mode=name)
    else:
        resized = F.interpolate(square, size=grid, mode=name, align_corners=False, antialias=bool(how))
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
        self.class_embedding = nn.Parameter(torch.empty(shape.width).normal_(std=scale))
        self.positional_embedding = nn.Parameter(torch.empty(side * side + 1, shape.width).normal_(std=scale))
        self.ln_pre = nn.LayerNorm(shape.width)
        self.transformer = Transformer(shape, activation)
        self.ln_post = nn.LayerNorm(shape.width)
        self.proj = nn.Parameter(torch.empty(shape.width, dim).normal_(std=scale))

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
        tokens = torch.cat([self.class_embedding.expand(images.shape[0], 1, -1), patches], dim=1)
        return self.ln_pre(tokens + resize_positions(self.positional_embedding, self.grid(images), self.position_mode))

    def project(self, x: Tensor, *, norm: bool = True, proj: bool = True) -> Tensor:
        """Hidden states (..., C) -> ``ln_post`` (if ``norm``) -> the joint space (..., D) (if ``proj``)."""
        x = self.ln_post(x) if norm else x
        return x @ self.proj if proj else x

    def forward(
        self,
        images: Tensor,
        taps: Collection[int] = (),
        local: LocalPath | None = None,
        prompts: Prompts | None = None,
        *,
        attended: Collection[int] = (),
        class_only: bool = False,
    ) -> States:
        """(B, 3, H, W) -> the states of the layers in ``taps``, of both streams, and of those in ``attended``.

        Where ``prompts`` appended tokens, taps leave them out. Before ``local.start`` the local stream is the plain one.
        ``class_only`` computes the plain stream's last block for the class token alone, so that layer has no plain tap.
        """
        grid, last = self.grid(images), len(self.blocks)
        plain_taps: dict[int, Tap] = {}
        local_taps: dict[int, Tap] = {}
        between_taps: dict[int, Tap] = {}
        x = own = self.embed(images)
        for layer, block in enumerate(self.blocks, 1):
            x = prompts.insert(x, layer) if prompts else x
            whole = not class_only or layer < last
            if local and layer >= local.start:
                before = x if layer == local.start else own
                plain, added = block.fork(x, local.attend, None if whole or layer in attended else 1)
                own = added if layer in local.restarts else before + added
                between = x[:, : plain.shape[1]] + plain
            elif whole or layer in attended:
                between = block.attended(x)
            else:
                between = block.attended_at(x, torch.zeros(x.shape[0], dtype=torch.int64, device=x.device))
            x = block.feed(between if whole else between[:, :1])
            own = own if local and layer >= local.start else x
            if layer in attended:
                between_taps[layer] = self._tap(between, grid)
            if layer in taps and whole:
                plain_taps[layer] = self._tap(x, grid)
            if layer in taps and local and (whole or layer >= local.start):
                local_taps[layer] = self._tap(own, grid)
        return States(x[:, 0], plain_taps, local_taps, between_taps)

    @staticmethod
    def _tap(tokens: Tensor, grid: tuple[int, int]) -> Tap:
        """(B, 1 + L + appended, C) -> patches and class token."""
        return Tap(tokens[:, 1 : 1 + grid[0] * grid[1]], grid, tokens[:, 0])
