"""Convolution of a small grid with a large kernel, at 62 % of the multiplications of the direct form for 7 x 7.

Even and odd samples are convolved apart, in both directions, and three short filters give what four would (fast FIR algorithm;
Mou and Duhamel 1991): all factors are 1 or -1, so rounding errors stay those of the direct form. Each of the nine products is
one matrix product over the windows of a grid of half the side. Kernels are transformed once and take 2.5 times their memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["SplitKernel", "convolve", "split_kernel"]

SplitKernel: TypeAlias = tuple[
    tuple[Tensor, tuple[int, int]], ...
]  # nine of (taps * inputs, outputs), rows and columns of taps


def split_kernel(weight: Tensor) -> SplitKernel:
    """A kernel (outputs, inputs, k, k), k odd, for ``convolve``."""
    parts = [part for rows in _filters(weight, 2) for part in _filters(rows, 3)]
    return tuple((one.permute(2, 3, 1, 0).flatten(0, 2).contiguous(), (one.shape[2], one.shape[3])) for one in parts)


def _filters(weight: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of the even and the odd taps along an axis, the even ones, the odd ones."""
    even, odd = (weight.index_select(dim, torch.arange(first, weight.shape[dim], 2).to(weight.device)) for first in (0, 1))
    longer = F.pad(odd, (0, 1) if dim == 3 else (0, 0, 0, 1))
    return even + longer, even, odd


def convolve(maps: Tensor, kernel: SplitKernel) -> Tensor:
    """(B, H, W, inputs), zero outside -> (B, H, W, outputs), as ``F.conv2d`` with its padding "same", without bias."""
    height, width = maps.shape[1:3]
    rows, columns = -(-height // 2), -(-width // 2)
    side = max(one[1][0] for one in kernel) * 2 - 1  # of the kernel
    border, behind = side // 2, side // 2 + 2
    padded = F.pad(maps, (0, 0, border, 2 * columns - width + behind, border, 2 * rows - height + behind))
    parts = [part for one in _samples(padded, 1) for part in _samples(one, 2)]
    found = [_product(part, *own, rows, columns) for part, own in zip(parts, kernel, strict=True)]  # (B, rows, columns, O)
    whole = _interleaved([_interleaved(found[i : i + 3], 2) for i in (0, 3, 6)], 1)
    return whole[:, :height, :width]


def _samples(x: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Along an axis the odd samples, the even ones less these, the next even ones less these: what ``_filters`` act on."""
    even, odd = x.unflatten(dim, (-1, 2)).unbind(dim + 1)
    count = odd.shape[dim] - 1
    middle = odd.narrow(dim, 0, count)
    return middle, even.narrow(dim, 0, count) - middle, even.narrow(dim, 1, count) - middle


def _product(x: Tensor, kernel: Tensor, size: tuple[int, int], rows: int, columns: int) -> Tensor:
    """One filter on (B, h, w, C), by its windows: (B, rows, columns, outputs)."""
    cut = x[:, : rows + size[0] - 1, : columns + size[1] - 1]
    windows = cut.unfold(1, size[0], 1).unfold(2, size[1], 1)  # (B, rows, columns, C, taps, taps)
    return windows.permute(0, 1, 2, 4, 5, 3).flatten(3) @ kernel


def _interleaved(parts: Sequence[Tensor], dim: int) -> Tensor:
    """The even and the odd outputs along an axis from the three filters' outputs."""
    both, even, odd = parts
    return torch.stack([both + even, both + odd], dim=dim + 1).flatten(dim, dim + 1)
