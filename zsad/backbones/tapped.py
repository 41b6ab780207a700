"""Blocks of any encoder: which ones, no further than the last, and as one tap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from zsad.alignment.maps import resize_tokens
from zsad.backbones.dinov2 import SALIENCY, DINOv2
from zsad.errors import UsageError
from zsad.types import ImageFeatures, Recipe, Tap

__all__ = ["layers_from_the_end", "merged", "salient", "tapped"]

STAGES = (3, 4, 5)  # of a convolutional tower, between mere edges and whole objects


def layers_from_the_end(backbone: Any, recipe: Recipe, first: int, last: int) -> tuple[int, ...]:
    """The blocks ``first`` to ``last`` of the hidden states counted from the end, where 1 is the last block.

    A tower that is not so deep has those of the recipe, in proportion; a convolutional one its stages 3, 4 and 5.
    """
    if hasattr(backbone, "stages"):
        return STAGES
    depth = int(backbone.depth)
    if depth >= first:
        return tuple(range(depth + 1 - first, depth + 2 - last))
    return tuple(dict.fromkeys(recipe.layers(depth)))


def tapped(backbone: Any, images: Tensor, layers: Sequence[int], saliency: int | None = None) -> ImageFeatures:
    """(B, 3, H, W) -> raw blocks; DINOv2 computes none behind the last, and its stream "saliency" where a block is named.

    Raises:
        UsageError: saliency of another encoder was asked for.
    """
    if isinstance(backbone, DINOv2):
        return backbone.encode_image(images, layers, pooled=False, saliency=saliency)
    if saliency is not None:
        raise UsageError(f"Saliency is attention inside DINOv2, and {backbone.name!r} is none. Leave saliency out.")
    found: ImageFeatures = backbone.encode_image(images, layers)
    return found


def salient(features: ImageFeatures, background: float) -> Tensor | None:
    """Which patches are the foreground, (B, L): all but this part of each picture's, the least salient. None: not known."""
    if SALIENCY not in features.streams:
        return None
    saliency = next(iter(features.streams[SALIENCY].values())).patches[..., 0]  # (B, L)
    return saliency >= saliency.quantile(background, dim=1, keepdim=True)


def merged(taps: Sequence[Tap], how: Literal["mean", "concat"]) -> Tap:
    """Taps of several layers as one: their mean, or side by side in this order; grids are resized to the finest, bilinear.

    Raises:
        UsageError: the mean of layers with other channels.
    """
    grid = max((tap.grid for tap in taps), key=lambda sides: sides[0] * sides[1])
    parts = [resize_tokens(tap.patches, tap.grid, grid) for tap in taps]
    if how == "concat":
        return Tap(torch.cat(parts, dim=-1), grid)
    if len({part.shape[-1] for part in parts}) > 1:
        widths = ", ".join(str(part.shape[-1]) for part in parts)
        raise UsageError(f"Layers of {widths} channels have no mean. Give merge='concat', or taps of one width.")
    return Tap(torch.stack(parts).mean(0), grid)
