"""AUPIMO: per-image overlap with the defects, at false positive rates on normal pictures that are close to zero."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zsad.errors import UsageError
from zsad.metrics.overlap import checked_pairs
from zsad.metrics.ranking import Numbers

__all__ = ["Levels", "aupimo", "picture_area", "span", "warn_missing_class"]

BOUNDS = (1e-5, 1e-4)
THRESHOLDS = 300_000  # of the authors' code, equally spaced over the scores of the normal pictures
NEAR = 1e-2  # a bound missed by more than this share of itself gets a warning
FEWEST, FEW = 30, 300  # sampled thresholds within the bounds: an error, and a warning


class Levels(NamedTuple):
    """Thresholds and their FPR on the axis that all pictures share, highest threshold first."""

    keys: Numbers  # (K,) thresholds
    fpr: NDArray[np.float64]  # (K,) mean over normal pictures of the share of pixels at or above the threshold


def aupimo(
    maps: Iterable[ArrayLike],
    masks: Iterable[ArrayLike],
    bounds: tuple[float, float] = BOUNDS,
    thresholds: int | None = THRESHOLDS,
) -> NDArray[np.float64]:
    """Area under the per-image overlap curve (Bertoldo et al., BMVC 2024): one value per anomalous picture.

    The horizontal axis is the same for all: the false positive rate, averaged over the NORMAL pictures, as a logarithm
    between ``bounds``. The vertical one is the share of the picture's defect pixels at or above the threshold. The area
    (trapezoids between the levels nearest to the bounds) is divided by ln(upper / lower).

    Args:
        maps: (N, H, W), or a sequence of (H, W) of different sizes; higher is more anomalous.
        masks: as the maps; a picture without a defect pixel is normal.
        bounds: lower and upper FPR, 0 < lower < upper <= 1.
        thresholds: how many equally spaced scores are tried, from the lowest to the highest one of the normal pictures (the
            authors' 300,000, in the maps' own precision); None: every distinct score, the limit of ever more thresholds.

    Returns:
        (N,) in [0, 1], about 4e-5 for random maps with the default bounds; NaN for normal pictures, and for all, with a
        warning, where normal or anomalous pictures are missing. There is also a warning where the levels miss a bound by more
        than 1 % of it, and for fewer than 300 thresholds between the bounds.

    Raises:
        UsageError: maps and masks do not fit together, a map is not finite, or the normal pictures cannot resolve the bounds
            (too few pixels, too many ties, or 30 or fewer of the ``thresholds`` between them).
    """
    check_bounds(bounds)
    sets = list(checked_pairs(maps, masks))
    clean = [np.sort(one, axis=None) for one, mask in sets if not mask.any()]
    found = np.full(len(sets), np.nan)
    if not clean or len(clean) == len(sets):
        warn_missing_class(len(clean), len(sets) - len(clean))
        return found
    levels = _every(clean) if thresholds is None else _sampled(clean, thresholds)
    part = span(levels, bounds)
    if thresholds is not None:
        _check_count(part.keys.size)
    for number, (one, mask) in enumerate(sets):
        if mask.any():
            inside = np.sort(one[mask])
            found[number] = picture_area(part, inside, bounds)[0] if thresholds is None else _sampled_area(part, inside, bounds)
    return found


def check_bounds(bounds: tuple[float, float]) -> None:
    """Raises ``UsageError`` where the bounds are no FPR range."""
    if not 0 < bounds[0] < bounds[1] <= 1:
        raise UsageError(f"bounds={bounds} are no FPR range; give 0 < lower < upper <= 1, such as {BOUNDS}.")


def warn_missing_class(normal: int, anomalous: int) -> None:
    """Warns that there are no normal or no anomalous pictures."""
    message = f"AUPIMO needs both kinds of pictures; got {normal} normal and {anomalous} anomalous ones: NaN."
    warnings.warn(message, stacklevel=3)


def span(levels: Levels, bounds: tuple[float, float]) -> Levels:
    """The levels from the one nearest to the lower bound to the one nearest to the upper.

    Raises:
        UsageError: the lower bound lies below the lowest level, or both bounds are nearest to the same level.
    """
    keys, fpr = levels
    ends = [int(fpr.size - 1 - np.abs(fpr[::-1] - bound).argmin()) for bound in bounds]  # of equal levels the lowest threshold
    if bounds[0] < fpr[0] or fpr[ends[0]] == fpr[ends[1]]:
        raise UsageError(
            f"The normal pictures cannot resolve an FPR between {bounds[0]:g} and {bounds[1]:g}: the lowest level is "
            f"{fpr[0]:.3g}. Give more normal pictures, maps of higher resolution or with fewer ties, or higher bounds."
        )
    for bound, end in zip(bounds, ends, strict=True):
        if abs(fpr[end] - bound) > NEAR * bound:
            message = f"AUPIMO's bound {bound:g} is not exactly achieved: the nearest FPR of normal pictures is {fpr[end]:.4g}."
            warnings.warn(message, stacklevel=3)
    return Levels(keys[ends[0] : ends[1] + 1], fpr[ends[0] : ends[1] + 1])


def picture_area(part: Levels, inside: Numbers, bounds: tuple[float, float]) -> tuple[float, float]:
    """One picture's area over every threshold, and the largest error of it where ``keys`` are bins.

    Args:
        part: from :func:`span`, distinct keys.
        inside: (P,) keys of the picture's defect pixels, ascending.
        bounds: lower and upper FPR.

    Returns:
        The curve climbs from "strictly above" to "at or above" each key while the FPR moves to the key's level.
    """
    widths = np.diff(np.log(part.fpr)) / np.log(bounds[1] / bounds[0])
    above = 1 - np.searchsorted(inside, part.keys[1:], "right") / inside.size
    upto = 1 - np.searchsorted(inside, part.keys[1:], "left") / inside.size
    return float(np.clip((widths * (above + upto)).sum() / 2, 0, 1)), float((widths * (upto - above)).sum() / 2)


def _every(clean: list[Numbers]) -> Levels:
    """Levels at every distinct score of the normal pictures."""
    keys, where = np.unique(np.concatenate(clean), return_inverse=True)
    weight = np.concatenate([np.full(one.size, 1 / one.size) for one in clean])
    share = np.bincount(where, weight)[::-1] / len(clean)
    return Levels(keys[::-1], np.cumsum(share))


def _sampled(clean: list[Numbers], thresholds: int) -> Levels:
    """Levels at equally spaced scores, as the authors take them; levels may repeat."""
    low, high = float(min(one[0] for one in clean)), float(max(one[-1] for one in clean))  # stepped in float64, then rounded
    keys = np.linspace(low, high, thresholds, dtype=np.result_type(*clean))[::-1]
    fpr = np.zeros(thresholds)
    for one in clean:
        fpr += 1 - np.searchsorted(one, keys, "left") / one.size
    return Levels(keys, fpr / len(clean))


def _sampled_area(part: Levels, inside: Numbers, bounds: tuple[float, float]) -> float:
    """One picture's area over the sampled thresholds."""
    found = 1 - np.searchsorted(inside, part.keys, "left") / inside.size
    from scipy.integrate import trapezoid  # late: see overlap.py

    return float(np.clip(trapezoid(found, np.log(part.fpr)) / np.log(bounds[1] / bounds[0]), 0, 1))


def _check_count(points: int) -> None:
    """Raises ``UsageError`` for too few thresholds between the bounds, and warns of few."""
    if points <= FEWEST:
        raise UsageError(f"{points} thresholds lie between the FPR bounds, more than {FEWEST} are needed; raise thresholds.")
    if points < FEW:
        warnings.warn(
            f"AUPIMO rests on {points} thresholds between the FPR bounds, fewer than {FEW}; raise thresholds.", stacklevel=3
        )
