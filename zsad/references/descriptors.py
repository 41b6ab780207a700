"""Patch descriptors of mid-level layers, joined on one grid (PatchCore, Roth et al., CVPR 2022, section 3.1; also PaDiM)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F

from zsad.alignment.maps import resize_tokens
from zsad.errors import UsageError
from zsad.references.mutual_scoring import neighbourhood_means
from zsad.types import Tap

__all__ = ["check_descriptors", "mid_layers", "patch_descriptors"]

STAGES = (2, 4)  # of a convolutional tower: strides 8 and 16, where PatchCore taps its own
PARTS = (2, 3)  # of four quarters of a transformer's depth; a residual network's second and third level of four


def mid_layers(name: str, backbone: object, taps: tuple[int, ...] | None) -> tuple[int, ...]:
    """The layers that are joined, in ascending order: ``taps``, else the middle and three quarters of the tower's depth.

    Raises:
        UsageError: the tower does not say how deep it is, or it has no such layer.
    """
    staged, depth = hasattr(backbone, "stages"), getattr(backbone, "depth", None)
    if not taps and not staged and depth is None:
        raise UsageError(f"{name} does not know how deep the backbone is. Say which layers to use: taps=(...).")
    layers = sorted(set(taps or (STAGES if staged else (max(1, part * (depth or 0) // 4) for part in PARTS))))
    if not staged and depth is not None and not all(1 <= layer <= depth for layer in layers):
        raise UsageError(f"taps={tuple(layers)} of {name} must lie in 1..{depth}, the layers of the backbone.")
    return tuple(layers)


def check_descriptors(side: int, width: int | None, sigma: float) -> None:
    """Raises ``UsageError`` where a neighbourhood, a width of descriptors or a Gaussian on their map cannot be."""
    if side < 1 or side % 2 == 0 or (width is not None and width < 1) or sigma < 0:
        raise UsageError(
            f"side={side}, width={width}, sigma={sigma}: give an odd side, a width of at least 1 channel or None, a sigma of 0 "
            "or more."
        )


def patch_descriptors(taps: Mapping[int, Tap], side: int = 3, width: int | None = None) -> Tap:
    """Means over neighbourhoods, unit length per layer, resized to the finest grid, joined, thinned out to ``width`` channels.

    Args:
        taps: raw states of some layers, (B, h * w, C) each; grids may differ.
        side: of the side x side neighbourhood that is averaged, zeros beyond the border counted; odd, 1 leaves it out.
        width: None, or channels after adaptive average pooling over the joined channels; fewer are left as they are.

    Returns:
        (B, h * w, channels) on the finest grid. Of one layer, rows have length one where ``width`` leaves them as they are.
    """
    finest = max((tap.grid for tap in taps.values()), key=lambda grid: grid[0] * grid[1])
    parts = []
    for _, tap in sorted(taps.items()):
        block = tap.patches.unflatten(1, tap.grid)  # (B, h, w, C)
        means = F.normalize(neighbourhood_means(block, (side,))[0] if side > 1 else block, dim=-1)
        parts.append(resize_tokens(means.flatten(1, 2), tap.grid, finest))
    rows = torch.cat(parts, dim=-1) / len(parts) ** 0.5
    if width is not None and rows.shape[-1] > width:
        rows = F.adaptive_avg_pool1d(rows, width)
    return Tap(rows, finest)
