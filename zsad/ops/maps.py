"""Anomaly maps: from a grid of patches to pixels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["upsample"]


def upsample(grid: Tensor, size: tuple[int, int], *, align_corners: bool = False) -> Tensor:
    """(B, h, w) -> (B, H, W), bilinear. ``align_corners`` differs between papers and moves borders by half a patch."""
    return F.interpolate(grid[:, None], size=size, mode="bilinear", align_corners=align_corners)[:, 0]
