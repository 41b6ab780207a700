"""Bounds on the error of metrics that are computed from binned scores, from the histogram alone.

A bin with b normal items above it, u - b normal and p anomalous ones inside can hold these in any order, ties included. Each
function gives what that order can change, exactly or as a rigorous bound.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from zsad.metrics.overlap import area_terms
from zsad.metrics.ranking import Steps, f1_terms, precision_terms

__all__ = ["area_slack", "auroc_slack", "f1_ceiling", "precision_slack"]


def auroc_slack(s: Steps) -> float:
    """Largest error of the summed :func:`auroc_terms`: half of the pairs inside a bin may be won or lost."""
    return float((s.items * (s.upto - s.before) / 2).sum())


def precision_slack(s: Steps) -> tuple[float, float]:
    """Largest amounts by which the summed :func:`precision_terms` can be too high and too low.

    Best: all anomalous items of the bin tie above its normal ones. Worst: they follow one by one below them; the j-th then
    has precision 1 - u / (h + u + j) with h anomalous items above the bin, and the sum of 1 / (h + u + j) stays below the
    integral of it.
    """
    now = precision_terms(s)
    best = s.items * (s.hits / (s.hits + s.before))
    over = s.hits - s.items + s.upto  # h + u
    worst = s.items - s.upto * np.log1p(s.items / np.maximum(over, 1))
    worst = np.where(s.upto > 0, np.maximum(worst, 0), now)
    return float(np.maximum(now - worst, 0).sum()), float((best - now).sum())


def f1_ceiling(s: Steps, anomalous: int) -> float:
    """Upper bound of F1 over all thresholds: all anomalous items of a bin above its normal ones."""
    return float((2 * s.hits / (s.hits + s.before + anomalous)).max(initial=f1_terms(s, anomalous).max(initial=0)))


def area_slack(s: Steps, normal: int, limit: float) -> tuple[float, float]:
    """Largest amounts by which the summed :func:`area_terms` can be too high and too low: rises at a bin's end or start."""
    now: NDArray[np.float64] = area_terms(s, normal, limit)
    low = s.mass * np.maximum(limit * normal - s.upto, 0)
    high = s.mass * np.maximum(limit * normal - s.before, 0)
    return float((now - low).sum()), float((high - now).sum())
