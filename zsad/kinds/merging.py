"""From the kinds of regions to the kind of a picture, and how well kinds agree with labels (AnomalyNCD)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zsad.errors import UsageError

__all__ = ["Agreement", "agreement", "class_probability", "matched", "merge_regions"]

SHARPNESS = 0.1  # of the softmax over classes
AREAS = 100.0  # temperature of the softmax over square roots of areas


class Agreement(NamedTuple):
    """How well groups agree with labels; 1 is best in all."""

    nmi: float  # normalised mutual information, arithmetic mean
    ari: float  # adjusted Rand index
    f1: float  # of the best matching of groups and labels, over all items together


def class_probability(logits: ArrayLike, known: int = 0) -> NDArray[np.float64]:
    """(..., classes) cosines -> probabilities; the first ``known`` classes are ruled out."""
    scaled = np.asarray(logits, dtype=np.float64) / SHARPNESS
    found = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    found[..., :known] = 0
    total: NDArray[np.float64] = found / found.sum(axis=-1, keepdims=True)
    return total


def merge_regions(probabilities: ArrayLike, areas: ArrayLike, temperature: float = AREAS) -> NDArray[np.float64]:
    """The probabilities of a picture's kinds, from those of its regions; larger regions count more.

    Args:
        probabilities: (regions, ..., kinds).
        areas: (regions,) pixels of each region's mask within its crop.
        temperature: of the softmax over square roots of the areas.

    Returns:
        (..., kinds).
    """
    roots = np.sqrt(np.asarray(areas, dtype=np.float64)) / temperature
    weights = np.exp(roots - roots.max())
    found: NDArray[np.float64] = np.tensordot(weights / weights.sum(), np.asarray(probabilities, dtype=np.float64), axes=1)
    return found


def matched(groups: ArrayLike, labels: ArrayLike) -> NDArray[np.int64]:
    """Which label each group stands for, so that most items agree: (number of groups or labels,), -1 where a group has none."""
    from scipy.optimize import linear_sum_assignment  # late: a tenth of the time that importing zsad takes

    own, true = np.asarray(groups, dtype=np.int64), np.asarray(labels, dtype=np.int64)
    side = int(max(own.max(), true.max())) + 1
    counts = np.zeros((side, side), dtype=np.int64)
    np.add.at(counts, (own, true), 1)
    rows, columns = linear_sum_assignment(-counts)
    found = np.full(side, -1, dtype=np.int64)
    found[rows] = columns
    return found


def agreement(groups: Sequence[int] | NDArray[Any], labels: Sequence[int] | NDArray[Any], counted: Any = None) -> Agreement:
    """NMI, ARI, and F1 after the best one-to-one matching of groups and labels (Hungarian method).

    Args:
        groups: (N,) numbers from 0 on.
        labels: (N,) numbers from 0 on.
        counted: (N,) bool, items that count after the matching, which is of all; None: all.

    Raises:
        UsageError: nothing to compare, or not as many of one as of the other.
    """
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    own, true = np.asarray(groups, dtype=np.int64), np.asarray(labels, dtype=np.int64)
    if own.shape != true.shape or not own.size:
        raise UsageError(f"{own.size} groups cannot be compared with {true.size} labels. Give as many of each, at least one.")
    mapping = matched(own, true)
    chosen = np.ones(len(own), dtype=bool) if counted is None else np.asarray(counted, dtype=bool)
    own, true = own[chosen], true[chosen]
    f1 = float((mapping[own] == true).mean())
    return Agreement(float(normalized_mutual_info_score(true, own)), float(adjusted_rand_score(true, own)), f1)
