"""Per-region overlap: AUPRO as MVTec defines it, and the version behind most published numbers."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from zsad.errors import UsageError
from zsad.metrics.ranking import Numbers, Steps, steps

__all__ = ["area_terms", "aupro", "aupro_legacy", "check_pair", "checked_pairs", "region_areas"]

EIGHT = np.ones((3, 3), int)  # pixels that touch at a corner belong together


class Pixels(NamedTuple):
    """Scores of all pixels of a set, those inside a region apart."""

    normal: Numbers  # scores outside the masks, normal pictures included
    anomalous: Numbers  # (P,) scores inside
    weight: NDArray[np.float64]  # (P,) 1 / (area of the pixel's region * number of regions): sums to 1
    regions: int


def aupro(maps: Iterable[ArrayLike], masks: Iterable[ArrayLike], limit: float = 0.3) -> float:
    """Area under the per-region-overlap curve, exact (Bergmann et al., IJCV 2021, section 5.1.2).

    At each distinct score: the share of every 8-connected region that is at or above it, averaged over all regions of all
    pictures (each counts the same, whatever its size), over the share of normal pixels at or above it. The area up to
    ``limit``, straight lines between the points and cut at exactly ``limit``, is divided by ``limit``.

    Args:
        maps: (N, H, W), or a sequence of (H, W) of different sizes; higher is more anomalous.
        masks: as the maps; 0 or False normal, anything else defect.
        limit: false positive rate where the integral ends, in (0, 1].

    Returns:
        0 to 1, ``limit / 2`` for random maps; NaN, with a warning, where there is no region or no normal pixel.

    Raises:
        UsageError: maps and masks do not fit together, a map holds NaN or infinity, or ``limit`` is out of range.
    """
    if not 0 < limit <= 1:
        raise UsageError(f"limit={limit} is no false positive rate above 0; give one in (0, 1], usually 0.3.")
    pixels = _pixels(maps, masks)
    if not _defined("AUPRO", pixels):
        return float("nan")
    normal = pixels.normal.size
    curve = steps(pixels.normal, pixels.anomalous, pixels.weight)
    return min(float(area_terms(curve, normal, limit).sum() / (limit * normal)), 1.0)  # not 1 + 2e-16


def aupro_legacy(maps: Iterable[ArrayLike], masks: Iterable[ArrayLike], limit: float = 0.3, thresholds: int = 200) -> float:
    """AUPRO as AnomalyCLIP's, APRIL-GAN's and MuSc's code computes it: for comparison with their tables only.

    Unlike :func:`aupro` it takes ``thresholds`` equal steps from the lowest to the highest score of the set, keeps the points
    whose FPR is below ``limit`` and stretches what they span to [0, 1]: the area is divided by the largest FPR that
    happened to be sampled, and maps with a long tail are resolved by few points.

    Args and errors as for :func:`aupro`.

    Returns:
        NaN, with a warning, also where the maps are constant or fewer than two points with different FPR lie below ``limit``.
    """
    pixels = _pixels(maps, masks)
    if not _defined("aupro_legacy", pixels):
        return float("nan")
    order = np.argsort(pixels.anomalous)
    inside, normal = pixels.anomalous[order], np.sort(pixels.normal)
    low, high = min(inside[0], normal[0]), max(inside[-1], normal[-1])
    if low == high:
        return _undefined(f"aupro_legacy needs maps that are not constant; every score is {low}: NaN.")
    cuts = np.arange(low, high, (high - low) / thresholds)
    fpr = (normal.size - np.searchsorted(normal, cuts, "right")) / normal.size  # strictly above the threshold
    above = np.append(np.cumsum(pixels.weight[order][::-1])[::-1], 0)  # weight from the i-th lowest pixel upwards
    overlap = above[np.searchsorted(inside, cuts, "right")]
    kept = fpr < limit
    fpr, overlap = fpr[kept][::-1], overlap[kept][::-1]
    if not fpr.size or fpr[0] == fpr[-1]:
        return _undefined(f"aupro_legacy needs two thresholds with different FPR below {limit}; there are not: NaN.")
    from scipy.integrate import trapezoid  # late, since scipy.integrate takes a twentieth of what importing zsad takes

    return float(trapezoid(overlap, (fpr - fpr[0]) / (fpr[-1] - fpr[0])))


def area_terms(s: Steps, normal: int, limit: float) -> NDArray[np.float64]:
    """(K,): area up to ``limit`` that each step's rise adds, in normal pixels.

    A rise of ``mass`` that is spread evenly over [before, upto] lifts all that lies right of it.
    """
    end = limit * normal
    whole = end - (s.before + s.upto) / 2
    cut = np.maximum(end - s.before, 0) ** 2 / (2 * np.maximum(s.upto - s.before, 1))
    return s.mass * np.where(s.upto <= end, whole, cut)


def region_areas(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], int]:
    """Area of the 8-connected region of every pixel inside the mask (row by row), and the number of regions."""
    labels, count = ndimage.label(mask, structure=EIGHT)
    inside = labels[mask]
    return np.bincount(inside)[inside], int(count)


def check_pair(number: int, given: ArrayLike, mask: ArrayLike) -> tuple[Numbers, NDArray[np.bool_]]:
    """Checks one map and its mask, (H, W) each, and returns them as arrays; errors name the picture by ``number``."""
    values, truth = np.asarray(given), np.asarray(mask)
    if truth.dtype.kind == "f" and np.isnan(truth).any():
        raise UsageError(f"The mask of picture {number} holds NaN. Give 0 for normal pixels and 1 for defects.")
    truth = truth != 0
    if values.ndim != 2 or not values.size or values.shape != truth.shape:
        both = f"{values.shape} and {truth.shape}"
        raise UsageError(
            f"Map and mask of picture {number} have shapes {both}; they must be the same (height, width), neither 0."
        )
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float64)
    lost = values.size - int(np.isfinite(values).sum())
    if lost:
        raise UsageError(f"The map of picture {number} holds {lost} values that are NaN or infinite; leave the picture out.")
    return values, truth


def checked_pairs(maps: Iterable[ArrayLike], masks: Iterable[ArrayLike]) -> Iterator[tuple[Numbers, NDArray[np.bool_]]]:
    """Maps and masks in pairs, checked; errors count pictures from 0."""
    given, truths = list(maps), list(masks)
    if len(given) != len(truths):
        raise UsageError(f"There are {len(given)} maps and {len(truths)} masks; a normal picture has a mask of zeros.")
    for number, (one, mask) in enumerate(zip(given, truths, strict=True)):
        yield check_pair(number, one, mask)


def _pixels(maps: Iterable[ArrayLike], masks: Iterable[ArrayLike]) -> Pixels:
    """The pixels of a set that is in memory; float32 maps stay float32."""
    normal, inside, weight, regions = [], [], [], 0
    for one, mask in checked_pairs(maps, masks):
        areas, count = region_areas(mask)
        normal.append(one[~mask])
        inside.append(one[mask])
        weight.append(1 / areas)
        regions += count
    if not normal:
        return Pixels(np.zeros(0), np.zeros(0), np.zeros(0), 0)
    return Pixels(np.concatenate(normal), np.concatenate(inside), np.concatenate(weight) / max(regions, 1), regions)


def _defined(metric: str, pixels: Pixels) -> bool:
    if pixels.regions and pixels.normal.size:
        return True
    message = f"{metric} needs regions and normal pixels; got {pixels.regions} and {pixels.normal.size}: NaN."
    warnings.warn(message, stacklevel=3)
    return False


def _undefined(message: str) -> float:
    warnings.warn(message, stacklevel=3)
    return float("nan")
