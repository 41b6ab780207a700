"""Novelty within one picture: how each patch differs from the nearest others of the same picture. No weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["compare_within"]

NEIGHBOURS = 0.1  # part of the patches that a patch is compared with: its nearest ones, itself and those around it left out
SHARPNESS = 20.0  # of the softmax that weights the neighbours


def compare_within(x: Tensor, sharpness: float = SHARPNESS) -> tuple[Tensor, Tensor]:
    """How each patch differs from the nearest ones of its own picture, itself and its eight neighbours left out.

    Args:
        x: (B, C, h, w) standardised features.
        sharpness: how much nearer neighbours count more in the residual.

    Returns:
        Novelty (B, h, w), the mean cosine distance to the nearest ``NEIGHBOURS`` of them, and the residual (B, C, h, w).
    """
    x = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    rows = x.flatten(2).transpose(1, 2)  # (B, L, C)
    unit = F.normalize(rows, dim=-1)
    place = torch.arange(x.shape[2] * x.shape[3], device=x.device)
    row, column = place.div(x.shape[3], rounding_mode="floor"), place % x.shape[3]
    beside = ((row[:, None] - row).abs() <= 1) & ((column[:, None] - column).abs() <= 1)  # (L, L)
    cosine = (unit @ unit.transpose(1, 2)).masked_fill(beside, -1.0)
    nearest = cosine.topk(max(1, round(NEIGHBOURS * len(place))), dim=-1)
    weights = torch.zeros_like(cosine).scatter_(-1, nearest.indices, (nearest.values * sharpness).softmax(-1))
    residual = (rows - weights @ rows).transpose(1, 2).reshape(x.shape)
    return 1 - nearest.values.mean(-1).reshape(-1, *x.shape[2:]), residual
