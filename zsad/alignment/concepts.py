"""Concept subspaces of a joint image-text space, and features guided to them or freed of them.

Yun et al., "Language-Assisted Feature Transformation for Anomaly Detection" (LAFT), ICLR 2025, arXiv 2503.01184; written from
measured facts of its program (yuneg11/LAFT at 035b0b9, which states no licence). All pairwise differences t_i - t_j of text
features go through a principal component analysis without centring. Their Gram matrix is N times that of the centred features,
so no pair is ever formed here: 1,700 sentences have 1.5 million pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Concept", "concept_subspace", "guided", "ignored", "kept_directions", "mean_nearest", "orthonormal"]

RANK = 1e-6  # of the largest singular value; below it float32 features hold rounding only


@dataclass(frozen=True)
class Concept:
    """What a list of texts differs in, most first."""

    basis: Tensor  # (R, D) orthonormal rows, float32; R is the rank, at most the number of texts less one
    values: Tensor  # (R,) singular values of the stacked differences, float64


def concept_subspace(*lists: Tensor) -> Concept:
    """Principal directions of the pairwise differences of text features, exact.

    Args:
        *lists: (N, D) features as the text tower gives them, not normalised. One list: differences of all its pairs. Several:
            only those between texts of different lists.

    Returns:
        The subspace; its rank is 0 where all texts are the same.
    """
    _, values, basis = torch.linalg.svd(_scatter([one.double() for one in lists]), full_matrices=False)
    rank = int((values > RANK * values.max().clamp(min=1e-12)).sum())
    return Concept(basis[:rank].float(), values[:rank])


def _scatter(lists: Sequence[Tensor]) -> Tensor:
    """Rows whose Gram matrix is that of all differences: scatter within the lists, and that of their means."""
    means = [one.mean(dim=0) for one in lists]
    if len(lists) == 1:
        return len(lists[0]) ** 0.5 * (lists[0] - means[0])
    total = sum(len(one) for one in lists)
    within = [(total - len(one)) ** 0.5 * (one - mean) for one, mean in zip(lists, means, strict=True)]
    between = [
        (len(lists[i]) * len(lists[j])) ** 0.5 * (means[i] - means[j])[None] for i in range(len(lists)) for j in range(i)
    ]
    return torch.cat(within + between)


def orthonormal(vectors: Tensor) -> Tensor:
    """(N, D) vectors of any length -> orthonormal rows of their span, (rank, D)."""
    _, values, basis = torch.linalg.svd(vectors.double(), full_matrices=False)
    return basis[: int((values > RANK * values.max().clamp(min=1e-12)).sum())].float()


def guided(features: Tensor, basis: Tensor) -> Tensor:
    """The part of (..., D) features that lies in the span of orthonormal rows (n, D); same shape."""
    return features @ basis.T @ basis


def ignored(features: Tensor, basis: Tensor) -> Tensor:
    """The part of (..., D) features that does not lie in the span of orthonormal rows (n, D); same shape."""
    return features - guided(features, basis)


def kept_directions(focus: Tensor | None, ignore: Tensor | None, components: int | None = None) -> Tensor:
    """Orthonormal rows (m, D) such that ``features @ rows.T`` has the cosines of guided and freed features.

    Cosines of projections do not depend on the coordinates, so (B, D) features become (B, m).

    Args:
        focus: (N, D) text features whose differences are looked at; None: all directions.
        ignore: (N, D) text features whose differences are left out; None: none. What both have is left out.
        components: most directions of either subspace, largest first; None: all.

    Returns:
        m may be 0: then nothing is left to look at.
    """
    given = focus if focus is not None else ignore
    if given is None:
        raise ValueError("Neither texts to look at nor texts to ignore were given.")
    width = given.shape[1]
    if ignore is None:
        return concept_subspace(given).basis[:components]
    removed = concept_subspace(ignore).basis[:components]
    if focus is None:  # the complement: the last right singular vectors
        return torch.linalg.svd(removed.double(), full_matrices=True)[2][len(removed) : width].float()
    concept = concept_subspace(focus)
    left = concept_subspace(ignored(focus.double(), removed.double()).float())
    known = left.values > 1e-4 * concept.values.max().clamp(min=1e-12)  # what projecting leaves of ignored directions is less
    return left.basis[known][:components]


def mean_nearest(rows: Tensor, references: Tensor, count: int) -> Tensor:
    """Mean cosine distance to the ``count`` nearest references, at most to all of them.

    Args:
        rows: (B, m), of any length; a zero row has the distance 1 to everything.
        references: (K, m), of any length.
        count: how many.

    Returns:
        (B,) from 0 to 2, higher is more anomalous.
    """
    distance = 1 - F.normalize(rows, dim=-1, eps=1e-8) @ F.normalize(references, dim=-1, eps=1e-8).T
    return distance.topk(min(count, len(references)), dim=1, largest=False).values.mean(dim=1)
