"""From scores to verdicts: thresholds, and where they come from.

``batch_rule`` needs no normal pictures: it reads the thresholds off the unlabelled batch itself. Its centre m is the
median and its spread comes from the lower half alone, because defects pull scores up and never down::

    sigma = 1.4826 * median(m - x | x <= m)        (1.4826: equals the standard deviation for Gaussian scores)
    anomalous at or above m + 3.5 sigma,  review at or above m + 2.5 sigma

Scores at or above the first level are then set aside and both numbers taken again from the rest, until nothing changes
(never from fewer than half of the scores). Without that second look a third of defective pictures moves m to the 75th
percentile of the normal ones and widens sigma by half, and the level that was meant as 3.5 sigma lies at 5.8.

The constants, by simulation: with Gaussian scores of normal pictures 3.5 sigma flags 2 % of 12 normal pictures, 0.5 % of
40 and 0.03 % of 500; with right-skewed ones (Gumbel), as maxima of maps often are, 5 %, 4 % and 2 %. Of 100
pictures with 33 defects at 6 standard deviations, 94 % are found (65 % without the second look). A higher factor buys fewer
false alarms with missed defects where there are many; the band from 2.5 sigma is where a person should look.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zsad.errors import UsageError

__all__ = ["ANOMALOUS", "NORMAL", "REVIEW", "Thresholds", "batch_rule", "decide", "fixed"]

NORMAL, REVIEW, ANOMALOUS = "normal", "review", "anomalous"
FEWEST = 8  # scores; below that a quarter of the batch is one picture, and the spread is a guess
ANOMALOUS_SIGMAS, REVIEW_SIGMAS = 3.5, 2.5
_GAUSSIAN = 1.4826
_TIED = 1e-6  # a spread below this fraction of the scores' size is rounding, not spread


@dataclass(frozen=True)
class Thresholds:
    """Levels that turn a score into a verdict; None where there is no such level.

    Attributes:
        anomalous: a score at or above it is anomalous.
        review: a score at or above it, and below ``anomalous``, is for a person to look at.
        pixel: a place of the map at or above it belongs to a region.
        source: one or two sentences: where the levels come from, and what that assumes.
    """

    anomalous: float | None = None
    review: float | None = None
    pixel: float | None = None
    source: str = "no rule was given"

    def label(self, score: float | None) -> str | None:
        """``"normal"``, ``"review"``, ``"anomalous"``, or None where there is no rule or no score."""
        if score is None or self.anomalous is None:
            return None
        if score >= self.anomalous:
            return ANOMALOUS
        return REVIEW if self.review is not None and score >= self.review else NORMAL


def fixed(threshold: float | None, review: float | None = None, pixel: float | None = None) -> Thresholds:
    """Thresholds that the user gives.

    Raises:
        UsageError: a level that is no finite number, a review level without a threshold, or above it.
    """
    for name, level in (("threshold", threshold), ("review level", review), ("pixel threshold", pixel)):
        if level is not None and not math.isfinite(level):
            raise UsageError(f"The {name} is {level}; give a finite number.")
    if review is not None and threshold is None:
        raise UsageError("A review level was given without a threshold. Give both: review lies between the two.")
    if review is not None and threshold is not None and review > threshold:
        raise UsageError(f"The review level {review:g} lies above the threshold {threshold:g}. Swap them.")
    said = [] if threshold is None else ["threshold given by the user"]
    said += [] if pixel is None else ["pixel threshold given by the user"]
    return Thresholds(threshold, review, pixel, "; ".join(said) or Thresholds.source)


def levels(scores: Sequence[float] | np.ndarray[Any, Any]) -> tuple[float, float] | str:
    """The rule's (review, anomalous) levels, or the reason why there are none."""
    values = np.sort(np.asarray(scores, dtype=np.float64))
    if len(values) < FEWEST:
        return f"no rule: {len(values)} scored picture{'s' * (len(values) != 1)}, and the batch rule needs at least {FEWEST}"
    kept = len(values)
    while True:
        rest = values[:kept]
        centre = float(np.median(rest))
        sigma = _GAUSSIAN * float(np.median(centre - rest[rest <= centre]))
        if sigma <= _TIED * max(abs(centre), 1e-12):
            return "no rule: the scores of the lower half are all the same, so they show no spread to judge by"
        level = centre + ANOMALOUS_SIGMAS * sigma
        below = max(int(np.searchsorted(values, level)), len(values) // 2 + 1)
        if below >= kept:
            return centre + REVIEW_SIGMAS * sigma, level
        kept = below


def batch_rule(
    scores: Sequence[float] | np.ndarray[Any, Any], peaks: Sequence[float] | np.ndarray[Any, Any] = ()
) -> Thresholds:
    """Thresholds from an unlabelled batch, for its pictures (``scores``) and for their places (``peaks``).

    Args:
        scores: one raw score per picture.
        peaks: the largest value of each picture's map; the same rule on them gives the pixel threshold.
    """
    found = levels(scores)
    if isinstance(found, str):
        return Thresholds(source=f"{found}; give --threshold to get verdicts")
    pixel = levels(peaks) if len(peaks) else ""
    source = (
        f"robust rule over this batch of {len(scores)}: median + {ANOMALOUS_SIGMAS} sigma of the lower half "
        f"(review from {REVIEW_SIGMAS}); assumes that more than half of the pictures are normal"
    )
    return Thresholds(found[1], found[0], None if isinstance(pixel, str) else pixel[1], source)


def decide(
    scores: Sequence[float] | np.ndarray[Any, Any],
    peaks: Sequence[float] | np.ndarray[Any, Any],
    given: Thresholds | None = None,
) -> Thresholds:
    """The thresholds of a run: what was given, the rest from the batch rule."""
    if given is None or (given.anomalous is None and given.pixel is None):
        return batch_rule(scores, peaks)
    if given.anomalous is None:
        rule = batch_rule(scores)
        return Thresholds(rule.anomalous, rule.review, given.pixel, f"{rule.source}; {given.source}")
    if given.pixel is not None:
        return given
    pixel = levels(peaks)
    if isinstance(pixel, str):
        return Thresholds(given.anomalous, given.review, None, f"{given.source}; no pixel threshold ({pixel})")
    said = "pixel threshold: robust rule over the maps of this batch, which assumes that more than half are normal"
    return Thresholds(given.anomalous, given.review, pixel[1], f"{given.source}; {said}")
