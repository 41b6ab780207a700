"""AUROC, average precision and F1-max, from one pass over the distinct scores of the anomalous items."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zsad.errors import UsageError

__all__ = ["Steps", "auroc", "average_precision", "f1_max", "from_histogram", "steps"]

Numbers = NDArray[Any]


class Steps(NamedTuple):
    """The ROC curve, or a part of it: K distinct scores of anomalous items, highest first.

    Between two of them only normal items lie: the curve runs level there, and nothing is lost by leaving them out. Normal
    items that tie with a score lie on the slope from ``before`` to ``upto``.
    """

    scores: Numbers  # (K,)
    items: NDArray[np.int64]  # (K,) anomalous items with this score
    mass: Numbers  # (K,) their weights summed; ``items`` where they have none
    before: NDArray[np.int64]  # (K,) normal items strictly above
    upto: NDArray[np.int64]  # (K,) normal items at or above
    hits: NDArray[np.int64]  # (K,) anomalous items at or above


def steps(normal: Numbers, anomalous: Numbers, weight: Numbers | None = None, above: tuple[int, int] = (0, 0)) -> Steps:
    """The ROC steps of scores in any order; ``above`` counts the (normal, anomalous) items above all of these."""
    normal = np.sort(normal)  # ascending
    order = None if weight is None else np.argsort(anomalous)
    values = np.sort(anomalous) if order is None else anomalous[order]
    first = np.flatnonzero(np.concatenate((np.ones(min(1, values.size), bool), values[1:] != values[:-1])))
    distinct, count = values[first], np.diff(np.append(first, values.size))
    mass = count if weight is None else np.add.reduceat(weight[order], first) if first.size else np.zeros(0)
    upto = above[0] + normal.size - np.searchsorted(normal, distinct, "left")
    before = above[0] + normal.size - np.searchsorted(normal, distinct, "right")
    hits = above[1] + values.size - first
    return Steps(distinct[::-1], count[::-1], mass[::-1], before[::-1], upto[::-1], hits[::-1])


def from_histogram(normal: Numbers, anomalous: Numbers, mass: Numbers, above: tuple[int, int] = (0, 0)) -> Steps:
    """The ROC steps of binned items, each of (bins,), lowest bin first; items of one bin are ties, ``scores`` are bins."""
    bins = np.flatnonzero(anomalous)[::-1]
    upto = above[0] + np.cumsum(normal[::-1])[::-1][bins]
    count = anomalous[bins]
    return Steps(bins, count, mass[bins], upto - normal[bins], upto, above[1] + np.cumsum(count))


def auroc_terms(s: Steps, normal: int) -> Numbers:
    """(K,): pairs that each step wins, ties half; AUROC is their sum over all pairs."""
    return s.items * (normal - (s.before + s.upto) / 2)


def precision_terms(s: Steps) -> Numbers:
    """(K,): anomalous items times precision; AP is their sum over the anomalous items."""
    return s.items * (s.hits / (s.hits + s.upto))


def f1_terms(s: Steps, anomalous: int) -> Numbers:
    """(K,): F1 with the threshold at each step."""
    return 2 * s.hits / (s.hits + s.upto + anomalous)


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the ROC curve: the probability that an anomalous item scores above a normal one, ties counting half.

    Args:
        scores: of pictures (N,), or of pixels in any shape; higher is more anomalous.
        labels: as many, 0 or False normal, 1 or True anomalous; 0 and 255 too, as in masks.

    Returns:
        0 to 1; NaN, with a warning, where one of the two classes is missing.

    Raises:
        UsageError: the two differ in length, or a score is no number.

    Example:
        >>> auroc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
        0.75
    """
    normal, anomalous = _classes("AUROC", scores, labels)
    if not normal.size or not anomalous.size:
        return float("nan")
    return float(auroc_terms(steps(normal, anomalous), normal.size).sum() / normal.size / anomalous.size)


def average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """Average precision over the steps of recall, without interpolation (scikit-learn's ``average_precision_score``).

    Args and errors as for :func:`auroc`.

    Returns:
        0 to 1, the share of anomalous items for random scores; NaN, with a warning, where one of the two classes is missing.
    """
    normal, anomalous = _classes("AP", scores, labels)
    if not normal.size or not anomalous.size:
        return float("nan")
    return float(precision_terms(steps(normal, anomalous)).sum() / anomalous.size)


def f1_max(scores: ArrayLike, labels: ArrayLike) -> tuple[float, float]:
    """The highest F1 = 2 P R / (P + R) over all thresholds, and the highest threshold that reaches it.

    Args and errors as for :func:`auroc`.

    Returns:
        (F1, t), where ``score >= t`` is called anomalous; both NaN, with a warning, where one of the two classes is missing.
        The threshold was chosen with the labels at hand, so F1 is an upper limit and not what to expect in use.
    """
    normal, anomalous = _classes("F1-max", scores, labels)
    if not normal.size or not anomalous.size:
        return float("nan"), float("nan")
    curve = steps(normal, anomalous)
    values = f1_terms(curve, anomalous.size)
    best = int(values.argmax())
    return float(values[best]), float(curve.scores[best])


def _anomalous(labels: ArrayLike) -> NDArray[np.bool_]:
    """Labels as bool. Raises ``UsageError`` for any that are neither 0/1, 0/255 nor boolean, NaN and words among them."""
    given = np.asarray(labels).ravel()
    if given.dtype == np.bool_:
        return given
    values = np.unique(given) if given.dtype.kind in "iuf" else given[:1].astype(object)
    if given.size and not (set(values.tolist()) <= {0, 1} or set(values.tolist()) <= {0, 255}):
        shown = ", ".join(map(str, values[:5].tolist()))
        raise UsageError(f"Labels are 0 or False (normal) and 1 or True (anomalous); these hold {shown}. Convert them first.")
    return np.asarray(given != 0)


def _classes(metric: str, scores: ArrayLike, labels: ArrayLike) -> tuple[Numbers, Numbers]:
    """Scores of the normal and of the anomalous items; warns where one of the classes is missing."""
    values, positive = np.asarray(scores).ravel(), _anomalous(labels)
    if values.dtype.kind not in "fiu":
        values = values.astype(np.float64)
    if values.shape != positive.shape:
        raise UsageError(f"There are {values.size} scores and {positive.size} labels; every item needs one of each.")
    lost = int(np.isnan(values).sum())
    if lost:
        raise UsageError(f"{lost} of {values.size} scores are NaN; drop the pictures that failed first.")
    normal, anomalous = values[~positive], values[positive]
    if not normal.size or not anomalous.size:
        message = f"{metric} needs both classes; got {normal.size} normal and {anomalous.size} anomalous items: NaN."
        warnings.warn(message, stacklevel=3)
    return normal, anomalous
