"""The image tower on subsets of one picture's tokens (WinCLIP's windows), all of them as one batch of rows.

The tower's linear layers never know of subsets; only attention does. The first block's norm and projections run once on the
picture's tokens, since a token is the same in every subset before the first attention; the last block runs for all tokens of
the first group and for the class tokens alone of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.alignment.blocks import in_blocks
from zsad.alignment.windows import window_tokens
from zsad.backbones.blocks import Block
from zsad.backbones.vit import VisionTransformer
from zsad.errors import UsageError
from zsad.types import ImageFeatures, Tap

__all__ = ["encode_subsets", "encode_windows"]

# Rows of an MLP at a time: its hidden layer is four times as wide, and written to fresh memory as a whole it costs a
# twentieth of WinCLIP on a CPU.
SLICE = 1024


class Group(NamedTuple):
    """Subsets of equal size."""

    subsets: int  # B * n of them
    tokens: int  # tokens of each, class token first

    @property
    def rows(self) -> int:
        return self.subsets * self.tokens


def encode_subsets(visual: VisionTransformer, images: Tensor, indices: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Class tokens behind ``ln_post`` and projection, each seen with nothing but its subset of patches.

    Args:
        visual: the image tower.
        images: (B, 3, H, W).
        indices: per group, (n, t) indices into the tokens; index 0 is the class token and comes first.

    Returns:
        Per group, the class tokens (B, n, D); and all tokens of the first group behind the last block, raw, (B, n, t, C). That
        group should be small beside the others (the whole picture is): it is the one that pays for its last block.
    """
    x = visual.embed(images)  # (B, 1 + L, C)
    groups = [Group(x.shape[0] * index.shape[0], index.shape[1]) for index in indices]
    blocks = visual.blocks
    rows = _first_block(blocks[0], x, indices, groups) if len(blocks) > 1 else _gather(x, indices)
    for block in blocks[1:-1]:
        qkv = F.linear(block.ln_1(rows), block.attn.in_proj_weight, block.attn.in_proj_bias)
        rows = _feed(block, rows + block.attn.out_proj(_attend(qkv, groups, block.attn.heads)))
    first, others = _last_block(blocks[-1], rows, groups).tensor_split([groups[0].rows])
    embedded = visual.project(torch.cat([first[:: groups[0].tokens], others]))  # (subsets, D)
    classes = [part.unflatten(0, (x.shape[0], -1)) for part in embedded.split([group.subsets for group in groups])]
    return classes, first.view(x.shape[0], -1, groups[0].tokens, first.shape[-1])


def encode_windows(visual: VisionTransformer, images: Tensor, scales: Sequence[int]) -> ImageFeatures:
    """The whole picture, its windows, and its patches (WinCLIP, section 4.2).

    Args:
        visual: the image tower.
        images: (B, 3, H, W).
        scales: sides of the windows in patches.

    Returns:
        Image features (B, D), ``streams["windows"][scale]``, a tap of (B, n, D) per scale, and the picture's patches behind
        ``ln_post``, (B, L, C), in ``streams["patches"]`` under the last layer.

    Raises:
        UsageError: a window is larger than the grid.
    """
    grid = visual.grid(images)
    if min(grid) < max(scales):
        raise UsageError(f"Windows of {max(scales)} patches do not fit a grid of {grid[0]} x {grid[1]} patches.")
    whole = torch.arange(1 + grid[0] * grid[1])[None]
    (image, *windows), tokens = encode_subsets(visual, images, [whole, *(window_tokens(grid, scale) for scale in scales)])
    taps = {scale: Tap(part, (grid[0] - scale + 1, grid[1] - scale + 1)) for scale, part in zip(scales, windows, strict=True)}
    patches = Tap(visual.project(tokens[:, 0, 1:], proj=False), grid)
    return ImageFeatures(image[:, 0], streams={"windows": taps, "patches": {len(visual.blocks): patches}})


def _gather(x: Tensor, indices: Sequence[Tensor]) -> Tensor:
    """Tokens (B, 1 + L, C) -> rows (R, C): group by group, picture by picture, subset by subset."""
    return torch.cat([x[:, index.to(x.device)].reshape(-1, x.shape[-1]) for index in indices])


def _first_block(block: Block, x: Tensor, indices: Sequence[Tensor], groups: list[Group]) -> Tensor:
    """Norm and projections once per token of the picture, then cut into subsets: (B, 1 + L, C) -> (R, C)."""
    qkv = F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias)
    mixed = _attend(_gather(qkv, indices), groups, block.attn.heads)
    return _feed(block, _gather(x, indices) + block.attn.out_proj(mixed))


def _attend(qkv: Tensor, groups: list[Group], heads: int) -> Tensor:
    """Attention inside every subset: rows (R, 3 C), subsets one behind the other -> (R, C)."""
    mixed = []
    for rows, group in zip(qkv.split([group.rows for group in groups]), groups, strict=True):
        q, k, v = rows.view(group.subsets, group.tokens, 3, heads, -1).permute(2, 0, 3, 1, 4)  # (subsets, h, tokens, d)
        mixed.append(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(group.rows, -1))
    return torch.cat(mixed)


def _feed(block: Block, rows: Tensor) -> Tensor:
    """The MLP half of a block, (R, C), in slices that stay in the cache."""
    return torch.cat([block.feed(part) for part in in_blocks(rows, SLICE)])


def _last_block(block: Block, rows: Tensor, groups: list[Group]) -> Tensor:
    """Rows (R, C) -> all of the first group's, then one class token per subset of the others, (first + subsets, C)."""
    normed, width, heads = block.ln_1(rows), rows.shape[-1], block.attn.heads
    weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
    keys_values = F.linear(normed, weight[width:], bias[width:])  # (R, 2 C)
    sizes = [group.rows for group in groups]
    steps = [1, *(group.tokens for group in groups[1:])]  # from one query to the next
    mixed, residuals = [], []
    for kv, residual, own, group, step in zip(
        keys_values.split(sizes), rows.split(sizes), normed.split(sizes), groups, steps, strict=True
    ):
        k, v = kv.view(group.subsets, group.tokens, 2, heads, -1).permute(2, 0, 3, 1, 4)  # (subsets, h, tokens, d)
        q = F.linear(own[::step], weight[:width], bias[:width]).view(group.subsets, -1, heads, k.shape[-1]).transpose(1, 2)
        mixed.append(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, width))
        residuals.append(residual[::step])
    return _feed(block, torch.cat(residuals) + block.attn.out_proj(torch.cat(mixed)))
