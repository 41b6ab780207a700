"""Principal components of patches, from sums that can be added: over pictures, over folds, over machines."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["PatchSums", "residual"]


@dataclass(frozen=True)
class PatchSums:
    """Sums over patches, in float64 on the CPU (MPS has none), from which their mean and principal components follow."""

    total: Tensor  # (C,)
    products: Tensor  # (C, C) of each patch with itself
    count: int

    @classmethod
    def of(cls, rows: Tensor) -> PatchSums:
        """Of patches (M, C)."""
        return cls(rows.cpu().double().sum(0), (rows.T @ rows).cpu().double(), len(rows))

    def __add__(self, other: PatchSums) -> PatchSums:
        """Of both sets of patches."""
        return PatchSums(self.total + other.total, self.products + other.products, self.count + other.count)

    def __sub__(self, other: PatchSums) -> PatchSums:
        """Without the patches of the other, which are part of these."""
        return PatchSums(self.total - other.total, self.products - other.products, self.count - other.count)

    def components(self, variance: float, channels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean (C',) and as many principal components (C', k) as hold this part of the variance; one at least.

        Args:
            variance: in (0, 1).
            channels: numbers of those that count; None: all.
        """
        mean = self.total / self.count
        covariance = self.products / self.count - mean[:, None] * mean
        if channels is not None:
            mean, covariance = mean[channels], covariance[channels][:, channels]
        values, vectors = torch.linalg.eigh(covariance)  # ascending
        values = values.flip(0).clamp_min(0)
        held = int((values.cumsum(0) < variance * values.sum()).sum()) + 1
        return mean.float(), vectors[:, -held:].float()


def residual(rows: Tensor, mean: Tensor, components: Tensor) -> Tensor:
    """(M, C) -> (M,) squared length of what is neither the mean nor in the components."""
    centred = rows - mean
    return (centred**2).sum(1) - ((centred @ components) ** 2).sum(1)
