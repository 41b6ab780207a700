"""Main element binarization: the threshold of an anomaly map at which the number of its regions stays the same for longest.

Huang et al., "AnomalyNCD: Towards Novel Anomaly Class Discovery in Industrial Scenarios", CVPR 2025, arXiv 2410.14379; code
HUST-SLOW/AnomalyNCD, commit cbecce7, MIT.

Kept: the range runs from the smallest to the largest of the pictures' maxima, so a picture's regions depend on the others; the
picture with the smallest maximum is always clean, and one picture alone too. An erosion with an even side of 6 pixels, centred
at the fourth; beyond the border counts as set.
Dropped: the wrap-around of 8-bit arithmetic that newer versions of numpy give their program.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from zsad.errors import UsageError

__all__ = ["Binarization", "Range", "binarize", "range_of", "stable_threshold"]

TOP = 255
ERODED = np.ones((6, 6), dtype=bool)
EIGHT = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True)
class Range:
    """The smallest and the largest of the pictures' maxima, 0 to 255."""

    low: int
    high: int

    def scaled(self, one: NDArray[np.uint8]) -> NDArray[np.float64]:
        """A map on this range: 0 below its low end, else 0 to 255; all 0 where the range is empty."""
        if self.high == self.low:
            return np.zeros(one.shape)
        found: NDArray[np.float64] = np.where(
            one < self.low, 0.0, (one.astype(np.float64) - self.low) / (self.high - self.low) * TOP
        )
        return found


@dataclass(frozen=True)
class Binarization:
    """The regions of one map."""

    mask: NDArray[np.bool_]  # (H, W)
    threshold: int  # of the map; 255: there are none
    number: int  # of regions while it was stable; the mask may have more or fewer
    counts: tuple[int, ...] = ()  # at each threshold, from 255 downwards


def range_of(maps: Sequence[NDArray[np.uint8]]) -> Range:
    """The range of all maps of a set together.

    Raises:
        UsageError: no map at all.
    """
    if not len(maps):
        raise UsageError("There is no anomaly map to find regions in. Give at least two, of which one shows an anomaly.")
    highest = [int(one.max()) for one in maps]
    return Range(min(highest), max(highest))


def binarize(one: NDArray[np.uint8], limits: Range, *, step: int = 4, least: int = 4, erode: bool = True) -> Binarization:
    """The regions of a map at its stable threshold.

    Args:
        one: (H, W) anomaly map, 0 to 255, higher is more anomalous.
        limits: of the whole set.
        step: from one threshold to the next.
        least: thresholds with the same number of regions that make it stable.
        erode: masks lose 6-pixel-thin parts before they are counted.
    """
    scaled = limits.scaled(one)
    counts = tuple(_count(_eroded(scaled > level, erode)) for level in range(TOP, 0, -step))
    threshold, number = stable_threshold(counts, limits, step, least)
    return Binarization(_eroded(one > threshold, erode), threshold, number, counts)


def stable_threshold(counts: Sequence[int], limits: Range, step: int, least: int) -> tuple[int, int]:
    """Threshold of the map and number of regions, from the numbers at each threshold, highest first.

    The number is that of the longest run of equal numbers, the earlier where two are as long; the threshold is that of the last
    place of its longest run, the later where two are as long. (255, 0) where no run is long enough.
    """
    runs: list[tuple[int, int, int]] = []  # number, length, last place
    place = 0
    for number, some in groupby(counts):
        length = sum(1 for _ in some)
        place += length
        if number and length >= least:
            runs.append((int(number), length, place - 1))
    if not runs:
        return TOP, 0
    number = max(runs, key=lambda run: run[1])[0]  # the first of equals
    _, _, last = max((run for run in runs if run[0] == number), key=lambda run: (run[1], run[2]))
    return int((TOP - last * step) * (limits.high - limits.low) / TOP + limits.low), number


def _eroded(mask: NDArray[np.bool_], erode: bool) -> NDArray[np.bool_]:
    if not erode or not mask.any():
        return mask
    found: NDArray[np.bool_] = ndimage.binary_erosion(mask, ERODED, border_value=1)
    return found


def _count(mask: NDArray[Any]) -> int:
    return int(ndimage.label(mask, EIGHT)[1]) if mask.any() else 0
