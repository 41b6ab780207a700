"""Anomaly maps: from a grid of patches to pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["blur_3x3", "smooth", "upsample"]


def upsample(grid: Tensor, size: int | tuple[int, int], *, align_corners: bool = False, mode: str = "bilinear") -> Tensor:
    """(B, h, w) -> (B, H, W), bilinear or "nearest"; one number is a square's side.

    ``align_corners`` differs between papers and moves borders by half a patch; "nearest" has none.
    """
    corners = None if mode == "nearest" else align_corners
    return F.interpolate(grid[:, None], size=size, mode=mode, align_corners=corners)[:, 0]


def smooth(maps: Tensor, sigma: float, truncate: float = 4.0) -> Tensor:
    """Gaussian smoothing of (B, H, W), each map by itself, as ``scipy.ndimage.gaussian_filter`` with its defaults.

    The border is mirrored with the edge sample repeated (scipy's "reflect"), which ``F.pad`` cannot do.
    """
    radius = int(truncate * sigma + 0.5)
    if radius == 0:
        return maps
    taps = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (taps / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(maps)
    for shape in ((1, 1, -1, 1), (1, 1, 1, -1)):  # rows, then columns
        axis = 2 if shape[2] == -1 else 3
        padded = maps[:, None].index_select(axis, _mirrored(maps.shape[axis - 1], radius).to(maps.device))
        maps = F.conv2d(padded, kernel.view(shape))[:, 0]
    return maps


def blur_3x3(maps: Tensor, sigma: float) -> Tensor:
    """Gaussian of three taps on (B, H, W), as torchvision's; the mirrored border does not repeat its sample."""
    side = torch.exp(torch.tensor(-0.5 / sigma**2, dtype=torch.float64))
    taps = (torch.stack([side, torch.ones_like(side), side]) / (1 + 2 * side)).to(maps)
    padded = F.pad(maps[:, None], (1, 1, 1, 1), mode="reflect")
    return F.conv2d(F.conv2d(padded, taps.view(1, 1, 1, 3)), taps.view(1, 1, 3, 1))[:, 0]


def _mirrored(length: int, radius: int) -> Tensor:
    """Indices of d c b a | a b c d | d c b a, as far as ``radius`` reaches."""
    index = torch.arange(-radius, length + radius) % (2 * length)
    return torch.where(index < length, index, 2 * length - 1 - index)
