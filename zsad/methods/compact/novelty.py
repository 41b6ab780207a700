"""Novelty within one picture: how each patch differs from the nearest others of the same picture. No weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["compare_within"]

NEIGHBOURS = 0.1  # part of the patches that a patch is compared with: its nearest ones, itself and those around it left out
SHARPNESS = 20.0  # of the softmax that weights the neighbours
TIE = 1e-4  # cosine: a patch that is nearer than the first one left out by less than this counts in part


def compare_within(x: Tensor, sharpness: float = SHARPNESS) -> tuple[Tensor, Tensor]:
    """How each patch differs from the nearest ones of its own picture, itself and its eight neighbours left out.

    The last of the nearest and the first that is left out share one place where they are within ``TIE``, in proportion to how
    much nearer either is. Without that the last bits would decide which of them counts, and the residual would jump: another
    runtime or processor would give maps that are off by 1e-3 at single places. Elsewhere nothing changes.

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
    count = max(1, round(NEIGHBOURS * len(place)))
    nearest = cosine.topk(min(count + 1, len(place)), dim=-1)
    edge = nearest.values[..., -2:].mean(-1, keepdim=True).detach()
    part = ((nearest.values.detach() - edge) / TIE + 0.5).clamp(0, 1)  # (B, L, count + 1): 1, ..., 1, 0 without a tie
    near = part * ((nearest.values - nearest.values[..., :1]) * sharpness).exp()
    weights = torch.zeros_like(cosine).scatter_(-1, nearest.indices, near / near.sum(-1, keepdim=True))
    residual = (rows - weights @ rows).transpose(1, 2).reshape(x.shape)
    return 1 - nearest.values[..., :count].mean(-1).reshape(-1, *x.shape[2:]), residual
