"""Thresholds that turn anomaly scores into verdicts, and the rule that finds them in an unlabelled batch.

``batch_rule`` needs no normal pictures: it reads the thresholds off the unlabelled batch itself. Defects pull scores up and
never down, and most pictures are normal, so the densest half of the scores (the shortest interval that holds more than half of
them, Rousseeuw's "shorth") is normal::

    centre = median of the densest half
    sigma  = 1.4826 * half the length of the densest half * (1 + 2 / n)     (equals the deviation for Gaussian scores)
    anomalous at or above centre + 3 sigma,  review at or above centre + 2.25 sigma

Scores at or above the first level are then set aside and all taken again from the rest, until nothing changes (never from
fewer than half of the scores). ``benchmarks/batch_rule.py`` prints what the constants do: of normal pictures with Gaussian
scores 2 % of 8 or 12, 0.8 % of 40 and 0.2 % of 500 are called anomalous; with right-skewed scores (Gumbel) 4 to 8 %. Of
100 pictures with 33 defects at 6 deviations more than 99 % are found, at 4 deviations 58 % (a median with the spread of the
lower half: 87 and 19 %, with the same false alarms in small batches). Where false alarms matter more, give normal pictures
(``zsad calibrate``; the rule is in ``conformal.py``) or --threshold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from zsad.errors import UsageError

__all__ = ["ANOMALOUS", "NORMAL", "REVIEW", "Thresholds", "batch_rule", "decide", "fixed", "with_pixel"]

NORMAL, REVIEW, ANOMALOUS = "normal", "review", "anomalous"
FEWEST = 8  # scores; below that a quarter of the batch is one picture, and the spread is a guess
ANOMALOUS_SIGMAS, REVIEW_SIGMAS = 3.0, 2.25
PIXEL_ALARMS = 0.05  # share of the pictures classified as normal that may have a region
APART, SHARE, SPANNED, MANY = 5.0, 0.3, 0.45, 20  # of ``doubt``
SMALL = 2.0  # sigma is widened by 1 + SMALL / n, since the densest half of a few scores is dense by luck
_GAUSSIAN = 1.4826
_TIED = 1e-6  # a spread below this fraction of the scores' size is rounding, not spread


@dataclass(frozen=True)
class Thresholds:
    """Score levels that turn an anomaly score into a verdict; None where there is no such level.

    Attributes:
        anomalous: a score at or above it is anomalous.
        review: a score at or above it, and below ``anomalous``, is for a person to look at.
        pixel: a place of the map at or above it belongs to a region.
        source: one or two sentences: where the levels come from, and what that assumes.
        false_alarm_rate: the share of normal pictures that is called anomalous, as a clause; "" where it is not known.

    Example:
        >>> levels = Thresholds(anomalous=0.9, review=0.7)
        >>> [levels.label(score) for score in (0.2, 0.8, 0.9)]
        ['normal', 'review', 'anomalous']
    """

    anomalous: float | None = None
    review: float | None = None
    pixel: float | None = None
    source: str = "no rule was given"
    false_alarm_rate: str = ""

    def label(self, score: float | None) -> str | None:
        """``"normal"``, ``"review"``, ``"anomalous"``, or None where there is no rule or no score."""
        if score is None or self.anomalous is None:
            return None
        if score >= self.anomalous:
            return ANOMALOUS
        return REVIEW if self.review is not None and score >= self.review else NORMAL


def fixed(threshold: float | None, review: float | None = None, pixel: float | None = None) -> Thresholds:
    """Thresholds from levels that the user gives.

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
    sources = [] if threshold is None else ["threshold given by the user"]
    sources += [] if pixel is None else ["pixel threshold given by the user"]
    return Thresholds(threshold, review, pixel, "; ".join(sources) or Thresholds.source)


def levels(scores: Sequence[float] | np.ndarray[Any, Any]) -> tuple[float, float] | str:
    """The batch rule's (review, anomalous) levels, or the reason why there are none."""
    values = np.sort(np.asarray(scores, dtype=np.float64))
    if len(values) < FEWEST:
        return f"no rule: {len(values)} scored picture{'s' * (len(values) != 1)}, and the batch rule needs at least {FEWEST}"
    kept = len(values)
    while True:
        centre, sigma = _densest_half(values[:kept])
        if sigma <= _TIED * max(abs(centre), 1e-12):
            return "no rule: half of the scores are all the same, so their spread is zero"
        level = centre + ANOMALOUS_SIGMAS * sigma
        below = max(int(np.searchsorted(values, level)), len(values) // 2 + 1)
        if below >= kept:
            return centre + REVIEW_SIGMAS * sigma, level
        kept = below


def _densest_half(values: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Median and widened spread of the shortest interval that holds more than half of the sorted values."""
    half = _shortest_half(values)
    sigma = _GAUSSIAN * float(half[-1] - half[0]) / 2 * (1 + SMALL / len(values))
    return float(np.median(half)), sigma


def _shortest_half(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The values within the shortest interval that holds more than half of the sorted values."""
    held = len(values) // 2 + 1
    first = int(np.argmin(values[held - 1 :] - values[: len(values) - held + 1]))
    return values[first : first + held]


def pixel_level(
    scores: Sequence[float] | np.ndarray[Any, Any], peaks: Sequence[float] | np.ndarray[Any, Any], below: float
) -> float | None:
    """Map value that at most one in twenty of the pictures classified as normal exceeds.

    With fewer than 39 of them it lies above every one's peak. None where no picture is normal.

    Args:
        scores: one raw score per picture.
        peaks: the largest value of each picture's map.
        below: a picture with a lower score is normal.
    """
    normal = np.sort(np.asarray(peaks, dtype=np.float64)[np.asarray(scores) < below])
    if not len(normal):
        return None
    rank = min(math.ceil((len(normal) + 1) * (1 - PIXEL_ALARMS)), len(normal))
    return float(np.nextafter(np.float32(normal[rank - 1]), np.float32(np.inf)))  # maps are float32, and their peak is normal


def doubt(scores: Sequence[float] | np.ndarray[Any, Any]) -> str:
    """Why a batch does not look as if most of it were normal, as a clause; "" where it may well be.

    Two groups: the best split into two lies ``APART`` deviations within the groups apart, and the smaller one has ``SHARE`` of
    the pictures or more. No dense half: the densest half of the scores spans more than ``SPANNED`` of the range of all, as of
    scores that are spread evenly. Fewer than ``MANY`` scores look like that by chance.
    """
    values = np.sort(np.asarray(scores, dtype=np.float64))
    count = len(values)
    if count < MANY or values[0] == values[-1]:
        return ""
    fewest = math.ceil(SHARE * count)
    splits = range(fewest, count - fewest + 1)
    centred = values - values.mean()
    sums, sizes = np.cumsum(centred)[fewest - 1 : count - fewest], np.arange(fewest, count - fewest + 1)
    between = sums**2 * (1 / sizes + 1 / (count - sizes)) / count  # what the split takes off the variance; centred sums to 0
    place = splits[int(np.argmax(between))]
    within = (values[:place].var() * place + values[place:].var() * (count - place)) / count
    apart = float(values[place:].mean() - values[:place].mean()) / max(math.sqrt(within), 1e-12)
    if apart > APART:
        return f"the scores fall into two groups of {place} and {count - place}, and either may be the normal one"
    half = _shortest_half(values)
    if float(half[-1] - half[0]) > SPANNED * float(values[-1] - values[0]):
        return "the scores have no dense half that could be the normal pictures"
    return ""


def batch_rule(
    scores: Sequence[float] | np.ndarray[Any, Any], peaks: Sequence[float] | np.ndarray[Any, Any] = ()
) -> Thresholds:
    """Thresholds from an unlabelled batch, for its pictures (``scores``) and for the places in them (``peaks``).

    Args:
        scores: one raw score per picture.
        peaks: the largest value of each picture's map, for ``pixel_level`` of the pictures that the rule calls normal.
    """
    found = levels(scores)
    if isinstance(found, str):
        return Thresholds(source=f"{found}; give --threshold or --calibration to get verdicts")
    pixel = pixel_level(scores, peaks, found[0]) if len(peaks) else None
    source = (
        f"robust rule over this batch of {len(scores)}: {ANOMALOUS_SIGMAS:g} sigma above the densest half of the scores "
        f"(review from {REVIEW_SIGMAS:g}); assumes that more than half of the pictures are normal"
        + (f"; {_regions_note(scores, found[0])}" if pixel is not None else "")
        + (f". Caution: {why}; give normal pictures (--references, or zsad calibrate)" if (why := doubt(scores)) else "")
    )
    return Thresholds(found[1], found[0], pixel, source)


def _reviewed(rule: Thresholds, far: float | None) -> Thresholds:
    """The rule with the review level at ``far``, where it lies above."""
    if far is None or rule.review is None or rule.review <= far:
        return rule
    return replace(
        rule, review=far, source=f"{rule.source}; {far:g} is beyond normal pictures of any batch, so review from there"
    )


def _regions_note(scores: Sequence[float] | np.ndarray[Any, Any], below: float) -> str:
    """A clause that states ``pixel_level`` for a batch of this size."""
    few = np.count_nonzero(np.asarray(scores) < below) < 2 / PIXEL_ALARMS - 1
    return f"regions lie above the maps of {'all' if few else f'{1 - PIXEL_ALARMS:.0%} of the'} pictures classified as normal"


def with_pixel(levels: Thresholds, given: Thresholds) -> Thresholds:
    """The levels with the pixel threshold that the user gave, if there is one."""
    if given.pixel is None:
        return levels
    return replace(levels, pixel=given.pixel, source=f"{levels.source}; {given.source}")


def decide(
    scores: Sequence[float] | np.ndarray[Any, Any],
    peaks: Sequence[float] | np.ndarray[Any, Any],
    given: Thresholds | None = None,
    far: float | None = None,
) -> Thresholds:
    """The thresholds of a run: those that were given, and the others by the batch rule.

    Args:
        scores: one raw score per picture.
        peaks: the largest value of each picture's map.
        given: thresholds of the user, a calibration or references.
        far: a score from which on a picture is for review at least, where the batch itself has to say what is normal.
    """
    if given is None or given.anomalous is None:
        rule = _reviewed(batch_rule(scores, peaks if given is None or given.pixel is None else ()), far)
        return rule if given is None else with_pixel(rule, given)
    if given.pixel is not None:
        return given
    below = given.anomalous if given.review is None else given.review
    pixel = pixel_level(scores, peaks, below)
    note = "no pixel threshold: no picture is normal" if pixel is None else _regions_note(scores, below)
    return Thresholds(given.anomalous, given.review, pixel, f"{given.source}; {note}")
