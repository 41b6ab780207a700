"""Calibration of a detector on normal pictures: ``zsad calibrate`` writes it to a file, ``zsad predict`` decides by it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from zsad.common.arguments import checked
from zsad.common.atomic_files import write_atomically
from zsad.common.file_names import printable
from zsad.common.output_folder import current_names, differences
from zsad.decision.conformal import Floats, check_rate, order_statistic, p_values, percent, pictures, threshold
from zsad.decision.thresholds import Thresholds, fixed, with_pixel
from zsad.errors import UsageError

__all__ = ["Calibration", "false_alarm_rates", "resolve_thresholds"]

SPLIT, LEAVE_ONE_OUT = "split", "leave-one-out"
FALSE_ALARMS = 0.05
REVIEW_FACTOR = 2  # the rate of anomalous or review over that of anomalous, where only the latter is given
FORMAT = "zsad calibration 1"
OLD_KEY = "judge"  # in place of "detector", in files of earlier versions


@dataclass(frozen=True)
class Calibration:
    """Scores of a detector on normal pictures, from which thresholds with a guaranteed false-alarm rate follow.

    Attributes:
        scores: raw score of each normal picture.
        peaks: the largest value of each one's anomaly map, at model size.
        detector: ``Inspector.describe()`` of the detector that scored them; {} fits any detector.
        kind: "split" where no picture is a reference image: the rate is guaranteed. "leave-one-out" where each picture is a
            reference image that was left out when it was scored, so by one reference fewer than later pictures: approximate.
        max_false_alarms: false-alarm rate, the share of normal pictures that may be called anomalous; as many may have a
            region.
        review_false_alarms: share of normal pictures that may be called anomalous or review; None is twice as many.
    """

    scores: tuple[float, ...]
    peaks: tuple[float, ...]
    detector: Mapping[str, Any]
    kind: str = SPLIT
    max_false_alarms: float = FALSE_ALARMS
    review_false_alarms: float | None = None

    @classmethod
    def from_scores(
        cls,
        scores: Floats,
        peaks: Floats,
        detector: Mapping[str, Any] | None = None,
        *,
        exact: bool = True,
        max_false_alarms: float = FALSE_ALARMS,
        review_false_alarms: float | None = None,
    ) -> Calibration:
        """Builds a calibration from the scores of normal pictures.

        Args:
            scores: one raw score per normal picture.
            peaks: the largest value of each picture's anomaly map.
            detector: ``Inspector.describe()``; None fits any detector.
            exact: True where no picture is a reference image of the detector; False where each score is that of a reference
                image which was left out of the references.
            max_false_alarms: as in the class.
            review_false_alarms: as in the class.

        Raises:
            UsageError: no score, numbers that are not finite, or not one peak per score.
        """
        numbers = tuple(float(one) for one in scores), tuple(float(one) for one in peaks)
        if len(numbers[0]) != len(numbers[1]):
            raise UsageError(f"{len(numbers[0])} scores and {len(numbers[1])} peaks were given. Give one of each per picture.")
        if not numbers[0]:
            raise UsageError("No score of a normal picture was given, so there is nothing to calibrate with.")
        if not all(map(math.isfinite, (*numbers[0], *numbers[1]))):
            raise UsageError("A score or a peak of a normal picture is no finite number. Leave that picture out.")
        kind = SPLIT if exact else LEAVE_ONE_OUT
        return cls(*numbers, detector or {}, kind, max_false_alarms, review_false_alarms)

    def __len__(self) -> int:
        return len(self.scores)

    def p_value(self, score: float) -> float:
        """Conformal p-value of one score; see ``p_values``."""
        return float(p_values([score], self.scores)[0])

    def shares(self, max_false_alarms: float | None = None, review_false_alarms: float | None = None) -> tuple[float, float]:
        """The two false-alarm rates, with the calibration's own in place of None; a first one that is given replaces both.

        Raises:
            UsageError: as ``false_alarm_rates``.
        """
        if max_false_alarms is not None:
            return false_alarm_rates(max_false_alarms, review_false_alarms)
        return false_alarm_rates(
            self.max_false_alarms, self.review_false_alarms if review_false_alarms is None else review_false_alarms
        )

    @checked
    def thresholds(self, max_false_alarms: float | None = None, review_false_alarms: float | None = None) -> Thresholds:
        """Thresholds at a guaranteed false-alarm rate; at most ``max_false_alarms`` of normal pictures have a region.

        Args:
            max_false_alarms: share of normal pictures that may be anomalous, instead of the calibration's own.
            review_false_alarms: share of normal pictures that may be anomalous or review, likewise.

        Raises:
            UsageError: a rate outside (0, 1), below the other, or lower than so many pictures can guarantee.
        """
        first, second = self.shares(max_false_alarms, review_false_alarms)
        place = np.float32(order_statistic(self.peaks, first))
        pixel = float(np.nextafter(place, np.float32(np.inf)))  # maps are float32, and are compared with the level as such
        levels = threshold(self.scores, first), threshold(self.scores, second)
        return Thresholds(*levels, pixel, self._source(first, second), self.false_alarm_rate(first))

    def false_alarm_rate(self, share: float) -> str:
        """A false-alarm rate as a clause: whether it is guaranteed or approximate, and from how many pictures."""
        if self.kind == SPLIT:
            return (
                f"on average at most {percent(share)} of normal pictures are called anomalous (split-conformal, "
                f"{pictures(len(self))})"
            )
        return (
            f"about {percent(share)} of normal pictures are called anomalous (approximate: leave-one-out over "
            f"{len(self)} references)"
        )

    def _source(self, first: float, second: float) -> str:
        how = "at most" if self.kind == SPLIT else "about"
        return (
            f"{self.false_alarm_rate(first)}, {how} {percent(second)} anomalous or review, and {how} {percent(first)} have a "
            "region; assumes that the pictures are taken like those of the calibration"
        )

    def check(self, detector: Mapping[str, Any]) -> None:
        """Raises ``UsageError`` where the calibration was made with another detector; names what differs."""
        if self.detector and (clauses := differences(self.detector, detector)):
            raise UsageError(
                f"The calibration was made with other settings: {printable('; '.join(clauses))}. Give the same settings, or "
                "calibrate again."
            )

    # -------------------------------------------------------------- on disk
    def save(self, path: str | Path) -> None:
        """Writes the calibration as JSON."""
        write_atomically(Path(path), (json.dumps({"format": FORMAT} | asdict(self), indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Reads a calibration that ``save`` wrote.

        Raises:
            UsageError: the file cannot be read, or is no calibration; the message names the reason.
        """
        try:
            row = json.loads(Path(path).read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise UsageError(f"The calibration {str(path)!r} cannot be read: {printable(why)}.") from error
        try:
            return _checked(row)
        except (UsageError, TypeError, OverflowError) as error:
            raise UsageError(
                f"{str(path)!r} is no calibration that zsad wrote ({printable(str(error))}). Make one with zsad calibrate."
            ) from error


def false_alarm_rates(max_false_alarms: float, review_false_alarms: float | None) -> tuple[float, float]:
    """Shares of normal pictures that may be anomalous, and anomalous or review: by default twice as many, below 1.

    Raises:
        UsageError: a rate outside (0, 1), or the second below the first.
    """
    first, second = check_rate(max_false_alarms), review_false_alarms
    if second is None:
        return first, min(REVIEW_FACTOR * first, (1 + first) / 2)
    if check_rate(second) < first:
        raise UsageError(
            f"The false-alarm rate for review, {percent(second)}, lies below that for anomalous, {percent(first)}. It counts "
            "both, so give a higher one (or the same, for no review)."
        )
    return first, second


def _checked(row: Any) -> Calibration:
    """The calibration of a JSON object; raises where anything is missing or of another kind."""
    if not isinstance(row, dict) or row.pop("format", None) != FORMAT:
        raise UsageError(f"its format is not {FORMAT!r}")
    if OLD_KEY in row and "detector" not in row:
        row["detector"] = row.pop(OLD_KEY)
    if wrong := sorted({one.name for one in fields(Calibration)} ^ row.keys()):
        raise UsageError(f"missing or unknown: {', '.join(wrong)}")
    kind, detector, rates = row.pop("kind"), row.pop("detector"), (row["max_false_alarms"], row["review_false_alarms"])
    lists = isinstance(row["scores"], list) and isinstance(row["peaks"], list) and isinstance(detector, dict)
    if kind not in (SPLIT, LEAVE_ONE_OUT) or not lists:
        raise UsageError("a value is of the wrong kind")
    numbers = [*row["scores"], *row["peaks"], rates[0], *(one for one in rates[1:] if one is not None)]
    if any(type(one) not in (int, float) for one in numbers):
        raise UsageError("a number is none")
    found = Calibration.from_scores(**row, detector=current_names(detector), exact=kind == SPLIT)
    found.shares()
    return found


def resolve_thresholds(
    given: Thresholds,
    calibration: Calibration | None,
    max_false_alarms: float | None = None,
    review_false_alarms: float | None = None,
    review_at: float | None = None,
) -> Thresholds:
    """The thresholds that the user gave, or those of a calibration with the user's pixel threshold and raw review level.

    Args:
        given: the user's thresholds, without any where none was given.
        calibration: None where none was given.
        max_false_alarms: as ``Calibration.thresholds``.
        review_false_alarms: as ``Calibration.thresholds``.
        review_at: a raw score that replaces the calibration's review level.

    Raises:
        UsageError: both set the anomalous level, or rates without a calibration; else as ``Calibration.thresholds``.
    """
    if calibration is None:
        if max_false_alarms is not None or review_false_alarms is not None:
            raise UsageError("A false-alarm rate was given without a calibration. Make one with zsad calibrate.")
        return given
    if given.anomalous is not None:
        raise UsageError("A threshold and a calibration were both given, and each sets the anomalous level. Give one of them.")
    found = calibration.thresholds(max_false_alarms, review_false_alarms)
    found = with_pixel(found, given)
    if review_at is None:
        return found
    if review_false_alarms is not None:
        raise UsageError(
            "A review level and a false-alarm rate for it were given. Give one of --review-at and --review-false-alarms."
        )
    fixed(found.anomalous, review_at)
    return replace(found, review=review_at, source=f"{found.source}; review from {review_at:g}, given by the user")
