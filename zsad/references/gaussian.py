"""Multivariate Gaussians of patches, from sums that can be added, with Ledoit and Wolf's shrinkage of the covariance.

Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", J. Multivariate Analysis 88, 2004, as
scikit-learn's ``LedoitWolf`` computes it. How much they shrink depends on fourth moments. Of rows that carry their own squared
length as a further channel (``with_lengths``), sums and products contain them, and add up over pictures as the rest does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from zsad.errors import UsageError

__all__ = ["Gaussian", "Shrinkage", "gaussian", "gaussian_per_position", "with_lengths"]

Shrinkage = float | Literal["ledoit_wolf"]
TOGETHER = 64  # positions whose covariances are in memory in float64 at once


@dataclass(frozen=True)
class Gaussian:
    """One Gaussian of all patches, or one per position of a grid of L; in float32."""

    mean: Tensor  # (C,) or (L, C)
    whitening: Tensor  # (C, C) or (L, C, C): centred rows times this have the covariance 1

    def distance(self, rows: Tensor) -> Tensor:
        """Mahalanobis distances of patches (B, L, C), divided by the root of C: about 1 for normal ones. (B, L).

        Raises:
            UsageError: the patches have other channels, or another grid.
        """
        if rows.shape[-self.mean.ndim :] != self.mean.shape:
            raise UsageError(
                f"The references' Gaussian has the shape {tuple(self.mean.shape)} and the pictures' patches "
                f"{tuple(rows.shape[-self.mean.ndim :])}. Prepare the references with the detector and backbone that encode "
                "the pictures."
            )
        centred = rows - self.mean
        if self.mean.ndim == 1:
            whitened = centred @ self.whitening
        else:
            whitened = (centred.transpose(0, 1) @ self.whitening).transpose(0, 1)  # (L, B, C) @ (L, C, C)
        return whitened.norm(dim=-1) / rows.shape[-1] ** 0.5


def with_lengths(rows: Tensor) -> Tensor:
    """(..., C) -> (..., C + 1): rows with their squared length behind them."""
    return torch.cat([rows, rows.square().sum(-1, keepdim=True)], -1)


def gaussian(total: Tensor, products: Tensor, count: int, shrinkage: Shrinkage, least: Tensor | float = 0.0) -> Gaussian:
    """The Gaussian of ``count`` rows, or one per batch of such.

    Args:
        total: sum of rows ``with_lengths``, (..., C + 1) in float64.
        products: sum of each one's products with itself, (..., C + 1, C + 1) in float64.
        count: rows that were added up.
        shrinkage: "ledoit_wolf", or the weight of the mean variance's identity beside the rows' covariance; 0: that alone.
        least: variance that is added in every direction.

    Raises:
        UsageError: the covariance has no inverse.
    """
    mean, spread, own = moments(total, products, count)
    channels, variance = spread.shape[-1], spread.diagonal(dim1=-2, dim2=-1).mean(-1)
    adaptive = shrinkage == "ledoit_wolf"
    weight = ledoit_wolf(spread, variance, own, count) if adaptive else torch.full_like(variance, float(shrinkage))
    unit = torch.eye(channels, dtype=spread.dtype)
    spread = (1 - weight)[..., None, None] * spread + (weight * variance + least)[..., None, None] * unit
    root, failed = torch.linalg.cholesky_ex(spread)
    if bool(failed.any()) or (shrinkage == 0 and not least and count <= channels):
        raise UsageError(
            f"The covariance of {count} patches of {channels} channels has no inverse. Give more references, a smaller width, "
            "or a shrinkage above 0; references that are all the same have no covariance."
        )
    whitening = torch.linalg.solve_triangular(root, unit.expand_as(root), upper=False).mT
    return Gaussian(mean.float(), whitening.float().contiguous())


def moments(total: Tensor, products: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (..., C), covariance (..., C, C) with divisor ``count``, mean fourth power of the centred rows' lengths (...)."""
    mean, length = total[..., :-1] / count, total[..., -1] / count
    square = mean.square().sum(-1)
    raw, carried = products[..., :-1, :-1] / count, products[..., -1] / count  # E x x', E |x|^2 (x, |x|^2)
    along = (mean[..., None, :] @ raw @ mean[..., None])[..., 0, 0]  # E (m x)^2
    # |x - m|^2 = |x|^2 - 2 m x + |m|^2, squared
    fourth = carried[..., -1] + 4 * along + 2 * square * length - 4 * (mean * carried[..., :-1]).sum(-1) - 3 * square.square()
    return mean, raw - mean[..., :, None] * mean[..., None, :], fourth


def ledoit_wolf(spread: Tensor, variance: Tensor, fourth: Tensor, count: int) -> Tensor:
    """The weight of the identity, (...), 0 to 1; 1 where the covariance is a multiple of it, so that nothing changes."""
    channels = spread.shape[-1]
    squares = spread.square().sum((-2, -1))
    noise = ((fourth - squares) / (channels * count)).clamp(min=0)
    far = squares / channels - variance.square()
    return torch.where(far > 0, torch.minimum(noise, far) / far.clamp(min=torch.finfo(far.dtype).tiny), 1.0)


def gaussian_per_position(rows: Tensor, shrinkage: Shrinkage, least: float = 0.0) -> Gaussian:
    """One Gaussian for each of L positions, of K rows each: (K, L, C).

    Args:
        rows: K pictures.
        shrinkage: as ``gaussian``.
        least: what is added, as a part of the mean variance over all positions.

    Raises:
        UsageError: as ``gaussian``.
    """
    added = least * float(rows.var(0, correction=0).mean(dtype=torch.float64))
    parts = []
    for some in rows.cpu().split(TOGETHER, 1):
        columns = with_lengths(some.double()).transpose(0, 1)  # (positions, K, C + 1)
        parts.append(gaussian(columns.sum(1), columns.mT @ columns, len(rows), shrinkage, added))
    return Gaussian(torch.cat([one.mean for one in parts]), torch.cat([one.whitening for one in parts]))
