"""Memory banks of reference patches: exact nearest neighbours in bounded memory."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.types import Bank

__all__ = ["nearest_cosine"]

BLOCK = 32_000_000  # cosines that are in memory at once: 128 MB


def nearest_cosine(rows: Tensor, bank: Bank, block: int = BLOCK) -> Tensor:
    """The largest cosine of each row with any row of a bank, exact, in blocks of bounded memory.

    Args:
        rows: (B, L, C), of any length.
        bank: (M, C) rows, of any length.
        block: how many cosines are computed at once.

    Returns:
        (B, L) in [-1, 1]; 1 - this is the nearest-normal distance of PatchCore, WinCLIP+ and APRIL-GAN.
    """
    wanted, kept = F.normalize(rows.flatten(0, 1), dim=-1), F.normalize(bank.rows, dim=-1).to(rows)
    best = wanted.new_full((len(wanted),), -torch.inf)
    for part in kept.split(max(1, block // max(1, len(wanted)))):
        best = torch.maximum(best, (wanted @ part.T).amax(dim=1))
    return best.unflatten(0, rows.shape[:2])
