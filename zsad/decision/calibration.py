"""What normal pictures let a judge promise, kept in a file: ``zsad calibrate`` makes it, ``zsad predict`` goes by it."""

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
from zsad.common.output_folder import differences
from zsad.decision.conformal import Floats, check_share, order_statistic, p_values, percent, pictures, threshold
from zsad.decision.thresholds import Thresholds, fixed
from zsad.errors import UsageError

__all__ = ["Calibration", "both_shares", "settle"]

SPLIT, LEAVE_ONE_OUT = "split", "leave-one-out"
FALSE_ALARMS = 0.05
REVIEW_FACTOR = 2  # the review level's share of normal pictures, where only that of the anomalous one is given
FORMAT = "zsad calibration 1"


@dataclass(frozen=True)
class Calibration:
    """What a judge says of normal pictures, and the shares of false alarms that verdicts shall promise.

    Attributes:
        scores: raw score of each normal picture.
        peaks: the largest value of each one's map, at model size.
        judge: ``Inspector.describe()`` of what scored; {} fits any judge.
        kind: "split" where no picture is a reference: the promise is exact. "leave-one-out" where each picture is a reference
            that was judged without itself, by one reference fewer than pictures to come: approximate.
        max_false_alarms: share of normal pictures that may be called anomalous; as many may have a region.
        review_false_alarms: share of normal pictures that may be called anomalous or review; None is twice as many.
    """

    scores: tuple[float, ...]
    peaks: tuple[float, ...]
    judge: Mapping[str, Any]
    kind: str = SPLIT
    max_false_alarms: float = FALSE_ALARMS
    review_false_alarms: float | None = None

    @classmethod
    def from_scores(
        cls,
        scores: Floats,
        peaks: Floats,
        judge: Mapping[str, Any] | None = None,
        *,
        exact: bool = True,
        max_false_alarms: float = FALSE_ALARMS,
        review_false_alarms: float | None = None,
    ) -> Calibration:
        """Checks and keeps scores of normal pictures.

        Args:
            scores: one raw score per normal picture.
            peaks: the largest value of each picture's map.
            judge: ``Inspector.describe()``; None fits any judge.
            exact: True where no picture is a reference of the judge; False where each score is that of a reference which was
                left out of the references.
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
        return cls(*numbers, judge or {}, kind, max_false_alarms, review_false_alarms)

    def __len__(self) -> int:
        return len(self.scores)

    def p_value(self, score: float) -> float:
        """p-value of one score; see ``p_values``."""
        return float(p_values([score], self.scores)[0])

    def shares(self, max_false_alarms: float | None = None, review_false_alarms: float | None = None) -> tuple[float, float]:
        """The two shares, with what is kept in place of None; a first share that is given replaces both that are kept.

        Raises:
            UsageError: as ``both_shares``.
        """
        if max_false_alarms is not None:
            return both_shares(max_false_alarms, review_false_alarms)
        return both_shares(
            self.max_false_alarms, self.review_false_alarms if review_false_alarms is None else review_false_alarms
        )

    @checked
    def thresholds(self, max_false_alarms: float | None = None, review_false_alarms: float | None = None) -> Thresholds:
        """Levels that keep the promise; a region reaches what at most ``max_false_alarms`` of normal maps reach.

        Args:
            max_false_alarms: share of normal pictures, instead of the one that is kept.
            review_false_alarms: share of normal pictures that may be anomalous or review, likewise.

        Raises:
            UsageError: a share outside (0, 1), below the other, or less than this many pictures can promise.
        """
        first, second = self.shares(max_false_alarms, review_false_alarms)
        place = np.float32(order_statistic(self.peaks, first))
        pixel = float(np.nextafter(place, np.float32(np.inf)))  # maps are float32, and are compared with the level as such
        levels = threshold(self.scores, first), threshold(self.scores, second)
        return Thresholds(*levels, pixel, self._source(first, second), self.promise(first))

    def promise(self, share: float) -> str:
        """What a share of false alarms means with these pictures, as a clause."""
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
        said = "at most" if self.kind == SPLIT else "about"
        return (
            f"{self.promise(first)}, {said} {percent(second)} anomalous or review, and {said} {percent(first)} have a region; "
            "assumes that the pictures are taken like those of the calibration"
        )

    def check(self, judge: Mapping[str, Any]) -> None:
        """Raises ``UsageError`` where another judge made the calibration; says what differs."""
        if self.judge and (said := differences(self.judge, judge)):
            raise UsageError(
                f"The calibration was made with other settings: {printable('; '.join(said))}. Give the same settings, or "
                "calibrate again."
            )

    # -------------------------------------------------------------- on disk
    def save(self, path: str | Path) -> None:
        """Writes JSON."""
        write_atomically(Path(path), (json.dumps({"format": FORMAT} | asdict(self), indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Reads what ``save`` wrote.

        Raises:
            UsageError: the file cannot be read, or is no such calibration; says why.
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


def both_shares(max_false_alarms: float, review_false_alarms: float | None) -> tuple[float, float]:
    """The shares of normal pictures that may be anomalous, and anomalous or review: by default twice as many, below 1.

    Raises:
        UsageError: a share outside (0, 1), or the second below the first.
    """
    first, second = check_share(max_false_alarms), review_false_alarms
    if second is None:
        return first, min(REVIEW_FACTOR * first, (1 + first) / 2)
    if check_share(second) < first:
        raise UsageError(
            f"The share for review, {percent(second)}, lies below that of false alarms, {percent(first)}. It counts both, so "
            "give a higher one (or the same, for no review)."
        )
    return first, second


def _checked(row: Any) -> Calibration:
    """The calibration of a JSON object; raises where anything is missing or of another kind."""
    if not isinstance(row, dict) or row.pop("format", None) != FORMAT:
        raise UsageError(f"its format is not {FORMAT!r}")
    if wrong := sorted({one.name for one in fields(Calibration)} ^ row.keys()):
        raise UsageError(f"missing or unknown: {', '.join(wrong)}")
    kind, judge, shares = row.pop("kind"), row.pop("judge"), (row["max_false_alarms"], row["review_false_alarms"])
    lists = isinstance(row["scores"], list) and isinstance(row["peaks"], list) and isinstance(judge, dict)
    if kind not in (SPLIT, LEAVE_ONE_OUT) or not lists:
        raise UsageError("a value is of the wrong kind")
    numbers = [*row["scores"], *row["peaks"], shares[0], *(one for one in shares[1:] if one is not None)]
    if any(type(one) not in (int, float) for one in numbers):
        raise UsageError("a number is none")
    found = Calibration.from_scores(**row, judge=judge, exact=kind == SPLIT)
    found.shares()
    return found


def settle(
    given: Thresholds,
    calibration: Calibration | None,
    max_false_alarms: float | None = None,
    review_false_alarms: float | None = None,
    review_at: float | None = None,
) -> Thresholds:
    """The thresholds that the user gave, or those of a calibration with the user's pixel threshold and raw review level.

    Raises:
        UsageError: both say where anomalous begins, or shares without a calibration; else as ``Calibration.thresholds``.
    """
    if calibration is None:
        if max_false_alarms is not None or review_false_alarms is not None:
            raise UsageError("A share of false alarms was given without a calibration. Make one with zsad calibrate.")
        return given
    if given.anomalous is not None:
        raise UsageError("A threshold and a calibration were both given, and each says what is anomalous. Give one of them.")
    found = calibration.thresholds(max_false_alarms, review_false_alarms)
    if given.pixel is not None:
        found = replace(found, pixel=given.pixel, source=f"{found.source}; {given.source}")
    if review_at is None:
        return found
    if review_false_alarms is not None:
        raise UsageError("A review level and a share for it were given. Give one of --review-at and --review-false-alarms.")
    fixed(found.anomalous, review_at)
    return replace(found, review=review_at, source=f"{found.source}; review from {review_at:g}, given by the user")
