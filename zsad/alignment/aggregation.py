"""From the pixels of an anomaly map to the picture's score."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from zsad.alignment.losses import top_mean

__all__ = ["Aggregation", "picture_scores"]

Aggregation = Literal["top1", "top5", "p99", "max", "mean"]
TOP, FIVE, PERCENTILE = 0.01, 5, 0.99


def picture_scores(maps: Tensor, how: Aggregation) -> Tensor:
    """(B, H, W) -> (B,).

    Args:
        maps: higher is more anomalous.
        how: mean of the highest int(1 %) of pixels ("top1") or of the highest five ("top5"), their 99th percentile ("p99",
            interpolated as numpy does), "max" or "mean".
    """
    flat = maps.flatten(1)
    if how == "mean":
        return flat.mean(1)
    if how == "p99":
        return torch.stack([one.quantile(PERCENTILE) for one in flat])  # it takes 16 million values at most
    counts = {"top1": max(1, int(TOP * flat.shape[1])), "top5": FIVE, "max": 1}
    return top_mean(flat, counts[how] / flat.shape[1])
