"""Quality figures, each computed from its definition."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from zsad.errors import UsageError

__all__ = ["image_auroc"]


def image_auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the ROC curve: the chance that an anomalous picture scores above a normal one, ties counting half.

    Args:
        scores: (N,), higher is more anomalous.
        labels: (N,), 0 or False normal, anything else anomalous.

    Returns:
        0 to 1; NaN, with a warning, where one of the two classes is missing.

    Raises:
        UsageError: the two differ in length, or a score is no number.
    """
    values: np.ndarray[Any, Any] = np.asarray(scores, np.float64).ravel()
    positive = np.asarray(labels).ravel() != 0
    if values.shape != positive.shape:
        raise UsageError(f"There are {values.size} scores and {positive.size} labels; every picture needs one of each.")
    if np.isnan(values).any():
        raise UsageError(f"{int(np.isnan(values).sum())} of {values.size} scores are NaN; drop the pictures that failed first.")
    count, others = int(positive.sum()), int((~positive).sum())
    if not count or not others:
        warnings.warn(f"AUROC needs both classes; got {others} normal and {count} anomalous pictures.", stacklevel=2)
        return float("nan")
    _, where, times = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(times)  # of a group of ties, the mean rank is (first + last) / 2
    ranks = (last - (times - 1) / 2)[where]
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * others))
