"""Anomaly maps: from a grid of patches to pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "average",
    "blur_3x3",
    "cut_gaussian",
    "gaussian_kernel",
    "in_frame",
    "mean_3x3",
    "probability_maps",
    "resize_tokens",
    "scaled_within_set",
    "smooth",
    "upsample",
]


def upsample(grid: Tensor, size: int | tuple[int, int], *, align_corners: bool = False, mode: str = "bilinear") -> Tensor:
    """(B, h, w) -> (B, H, W), bilinear or "nearest"; one number is a square's side.

    ``align_corners`` differs between papers and moves borders by half a patch; "nearest" has none.
    """
    corners = None if mode == "nearest" else align_corners
    return F.interpolate(grid[:, None], size=size, mode=mode, align_corners=corners)[:, 0]


def resize_tokens(tokens: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Tokens (B, L, C) on a grid -> (B, H * W, C) on another, bilinear; as they are where it is the same."""
    if grid == size:
        return tokens
    maps = F.interpolate(tokens.transpose(1, 2).unflatten(2, grid), size=size, mode="bilinear")  # (B, C, H, W)
    return maps.flatten(2).transpose(1, 2)


def probability_maps(logits: Tensor, grid: tuple[int, int], size: int, *, align_corners: bool = False) -> Tensor:
    """Logits (B, L, classes) on a grid -> probabilities (B, classes, size, size): resized, then softmaxed over the classes."""
    grids = logits.transpose(1, 2).unflatten(2, grid)  # (B, classes, h, w)
    return F.interpolate(grids, size=size, mode="bilinear", align_corners=align_corners).softmax(dim=1)


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


def average(parts: Sequence[Tensor], kind: str = "mean") -> Tensor:
    """Mean of tensors of one shape; "harmonic" is for values from 0 on, and 0 where one of them is."""
    stacked = torch.stack(list(parts))
    return len(parts) / (1 / stacked).sum(dim=0) if kind == "harmonic" else stacked.mean(dim=0)


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


def scaled_within_set(values: Tensor) -> Tensor:
    """(N,) -> (N,) from 0 for the lowest to 1 for the highest; all 0 where none differs."""
    low, high = values.aminmax()
    return (values - low) / (high - low) if high > low else torch.zeros_like(values)


def mean_3x3(grid: Tensor) -> Tensor:
    """Mean of each place and its eight neighbours, (B, h, w); at the border the edge is repeated."""
    return F.avg_pool2d(F.pad(grid[:, None], (1, 1, 1, 1), mode="replicate"), 3, stride=1)[:, 0]


def gaussian_kernel(side: int, sigma: float) -> Tensor:
    """(side, side) Gaussian of sum 1, cut off at its sides."""
    taps = torch.exp(-0.5 * ((torch.arange(side, dtype=torch.float64) - (side - 1) / 2) / sigma) ** 2)
    taps = taps / taps.sum()
    return (taps[:, None] * taps).float()


def cut_gaussian(maps: Tensor, side: int, sigma: float, *, zeros: bool) -> Tensor:
    """(B, H, W) smoothed by ``gaussian_kernel``, of which a side shorter than sigma makes almost a window mean.

    ``zeros`` stand outside the map, which draws its border down (INP-Former), else its mirror image without the border itself.
    """
    around = (side // 2,) * 4
    padded = F.pad(maps[:, None], around) if zeros else F.pad(maps[:, None], around, mode="reflect")
    return F.conv2d(padded, gaussian_kernel(side, sigma).to(maps)[None, None])[:, 0]


def in_frame(maps: Tensor, size: int, part: float) -> Tensor:
    """Maps of the middle of a square, (B, H, W), in the whole square, (B, size, size), 0 around it.

    Args:
        maps: of the middle.
        size: side of the square.
        part: side of the middle as a part of it; 1: there is nothing around.
    """
    inner = round(size * part)
    before = (size - inner) // 2
    return F.pad(upsample(maps, inner), (before, size - inner - before) * 2)
