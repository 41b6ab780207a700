"""Principal components of patches, from sums that can be added: over pictures, over folds, over machines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from zsad.errors import UsageError

__all__ = ["PatchSums", "Rule", "Subspace", "check_size", "residual", "residual_along"]

EPSILON = 1e-6  # of eigenvalues and lengths that are divided by
Rule = Literal["reconstruction", "mahalanobis", "euclidean", "cosine"]


@dataclass(frozen=True)
class PatchSums:
    """Sums over patches, in float64 on the CPU, from which their mean and principal components follow."""

    total: Tensor  # (C,)
    products: Tensor  # (C, C) of each patch with itself
    count: int
    left_out: int = 0  # further patches of the same pictures that a mask kept out of the sums

    @classmethod
    def of(cls, rows: Tensor, *, exact: bool = False, left_out: int = 0) -> PatchSums:
        """Of patches (M, C); ``exact`` multiplies in float64, where float32 is twice as fast and right to about 1e-6."""
        double = rows.cpu().double()
        return cls(double.sum(0), double.T @ double if exact else (rows.T @ rows).cpu().double(), len(rows), left_out)

    def __add__(self, other: PatchSums) -> PatchSums:
        """Of both sets of patches."""
        both = self.total + other.total, self.products + other.products
        return PatchSums(*both, self.count + other.count, self.left_out + other.left_out)

    def __sub__(self, other: PatchSums) -> PatchSums:
        """Without the patches of the other, which are part of these."""
        rest = self.total - other.total, self.products - other.products
        return PatchSums(*rest, self.count - other.count, self.left_out - other.left_out)

    def outside(self, variance: float, channels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean (C',) and the directions (C', C' - k) beyond the k principal components that hold this part of the variance.

        Args:
            variance: in (0, 1); one component holds it at least.
            channels: numbers of those that count; None: all.
        """
        mean = self.total / self.count
        covariance = self.products / self.count - mean[:, None] * mean
        if channels is not None:
            mean, covariance = mean[channels], covariance[channels][:, channels]
        values, vectors = torch.linalg.eigh(covariance)  # ascending
        return mean.float(), vectors[:, : -_holding(values, variance)].float()

    def subspace(self, components: int | float, *, centre: PatchSums | None = None, over_all: bool = False) -> Subspace:
        """The principal components, with the unbiased covariance.

        Args:
            components: how many there are (a whole number; at most C), or which part of the variance they hold, in (0, 1).
            centre: patches whose mean is taken off, in place of their own.
            over_all: divides by the number of patches with those that a mask left out, as SubspaceAD's authors do.

        Raises:
            UsageError: there are fewer than two patches.
        """
        if self.count < 2:
            raise UsageError(f"Principal components need two patches or more; got {self.count}. Give more or larger pictures.")
        centre = centre or self
        mean = centre.total / (centre.count + over_all * centre.left_out)
        cross = mean[:, None] * self.total
        covariance = self.products - cross - cross.T + self.count * mean[:, None] * mean
        values, vectors = torch.linalg.eigh(covariance / (self.count + over_all * self.left_out - 1))  # ascending
        held = components if isinstance(components, int) else _holding(values, components)
        held = min(held, len(values))
        return Subspace(mean, vectors.flip(1)[:, :held], values.flip(0), held)


@dataclass(frozen=True)
class Subspace:
    """Mean and principal components of patches."""

    mean: Tensor  # (C,)
    components: Tensor  # (C, k), the widest first
    values: Tensor  # (C,) variance along each of all components, descending
    held: int  # k

    def distance(self, rows: Tensor, rule: Rule = "reconstruction", drop: int = 0) -> Tensor:
        """How far patches (M, C) are from the subspace, (M,), in float32; larger is more anomalous.

        Raises:
            UsageError: the patches have other channels.

        Args:
            rows: patches.
            rule: "reconstruction", the squared length of what is outside; "mahalanobis" and "euclidean", the squared length
                inside, with and without the division by the variance of each component; "cosine", 1 - the cosine of a patch
                and its reconstruction.
            drop: components that are left out, the widest first.
        """
        if rows.shape[1] != len(self.mean):
            raise UsageError(
                f"The references have {len(self.mean)} channels and the pictures {rows.shape[1]}. Prepare the references with "
                "the detector and backbone that encode the pictures."
            )
        mean, held = self.mean.to(rows), self.components[:, drop:].to(rows)
        if rule == "reconstruction":
            return residual(rows, mean, held)
        inside = (rows - mean) @ held  # (M, k)
        if rule == "cosine":
            again = inside @ held.T + mean
            lengths = (rows.norm(dim=1) + EPSILON) * (again.norm(dim=1) + EPSILON)
            return 1 - (rows * again).sum(1) / lengths
        spread = self.values[drop : self.held].to(rows) + EPSILON if rule == "mahalanobis" else 1.0
        return (inside**2 / spread).sum(1)


def residual(rows: Tensor, mean: Tensor, components: Tensor) -> Tensor:
    """(M, C) -> (M,) squared length of what is neither the mean nor in the components."""
    centred = rows - mean
    return ((centred - (centred @ components) @ components.T) ** 2).sum(1)


def residual_along(rows: Tensor, mean: Tensor, outside: Tensor) -> Tensor:
    """As ``residual``, by the directions beyond the components: one product, and a smaller one where these are many."""
    return ((rows - mean) @ outside).square().sum(1)


def check_size(components: int | float, drop: int = 0) -> None:
    """Raises ``UsageError`` for no components, or a part of the variance that is none."""
    whole = isinstance(components, int)
    if drop < 0 or not (components >= 1 if whole else 0 < components < 1):
        raise UsageError(
            f"components={components}, drop={drop}: give a whole number of components, 1 or more, or the part of the variance "
            "that they hold, between 0 and 1; and 0 or more of them to drop."
        )


def _holding(values: Tensor, variance: float) -> int:
    """How many of ascending eigenvalues, the largest first, hold this part of their sum; one at least."""
    values = values.flip(0).clamp_min(0)
    return int((values.cumsum(0) < variance * values.sum()).sum()) + 1
