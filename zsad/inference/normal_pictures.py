"""Calibration on normal pictures; a session keeps them encoded, so that it can follow every change of the detector."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zsad.decision.calibration import Calibration
from zsad.decision.conformal import check_size
from zsad.errors import ImageError, UsageError
from zsad.images.reading import ImageRef, digest_of, load_image
from zsad.inference.encoded import Encoded
from zsad.inference.inspector import Inspector
from zsad.inference.scorer import Scored
from zsad.inference.verdict import scores_and_peaks
from zsad.references.corrections import Mark

__all__ = ["NormalPictures", "calibration_of", "keep_normal_pictures"]


@dataclass(frozen=True, eq=False)
class NormalPictures:
    """Encoded normal pictures and the false-alarm rate that they shall guarantee.

    Attributes:
        encoded: the pictures.
        digests: of their pixels, in the same order.
        left_out: True where the pictures are references and each is scored without itself: approximate.
        share: of normal pictures that may be called anomalous.
    """

    encoded: Encoded
    digests: Sequence[str]
    left_out: bool
    share: float

    def calibration(self, inspector: Inspector, marks: Sequence[Mark] = ()) -> Calibration:
        """The calibration of an inspector with these corrections; the encoder does not run.

        Raises:
            UsageError: too few of the pictures are left for the share.
        """
        found = self._scored(inspector, marks)
        detector = inspector.describe() | ({"corrections": len(marks)} if marks else {})
        return calibration_of(found, detector, exact=not self.left_out, max_false_alarms=self.share)

    def _scored(self, inspector: Inspector, marks: Sequence[Mark]) -> Iterator[Scored]:
        if not self.left_out:
            yield from inspector.alone().answers(self.encoded, marks)
            return
        for number, digest in enumerate(self.digests):
            if digest in inspector.references.digests:
                yield from inspector.left_out(digest).answers(self.encoded.only([number]), marks)


def without_copies(found: Iterable[Scored]) -> list[Scored]:
    """Each picture once, the first of exact copies; those that could not be read stay."""
    kept: dict[str, Scored] = {}
    for number, one in enumerate(found):
        kept.setdefault(one.digest or f"unread {number}", one)
    return list(kept.values())


def calibration_of(
    found: Iterable[Scored],
    detector: Mapping[str, Any],
    *,
    exact: bool,
    max_false_alarms: float,
    review_false_alarms: float | None = None,
) -> Calibration:
    """The calibration that scored normal pictures give; those that could not be scored are left out, exact copies count once.

    Args:
        found: the pictures.
        detector: ``Inspector.describe()`` of what scored them.
        exact: True where none is a reference, False where each is one and was scored without itself.
        max_false_alarms: share of normal pictures that may be called anomalous.
        review_false_alarms: share that may be called anomalous or review.

    Raises:
        UsageError: too few for ``max_false_alarms``.
    """
    scores, peaks = scores_and_peaks(without_copies(found))
    check_size(len(scores), max_false_alarms)
    return Calibration.from_scores(
        scores,
        peaks,
        detector,
        exact=exact,
        max_false_alarms=max_false_alarms,
        review_false_alarms=review_false_alarms,
    )


def keep_normal_pictures(inspector: Inspector, refs: Sequence[ImageRef], *, left_out: bool, share: float) -> NormalPictures:
    """Checks and encodes normal pictures.

    Args:
        inspector: the model and its references.
        refs: the pictures.
        left_out: True for the references themselves, False for pictures that are none.
        share: of normal pictures that may be called anomalous.

    Raises:
        UsageError: too few for the share, one cannot be read, one is a reference (or is none).
    """
    check_size(len(refs), share)
    try:
        digests = [digest_of(load_image(ref, value_range=inspector.value_range).rgb) for ref in refs]
    except ImageError as error:
        raise UsageError(f"A picture for the calibration cannot be read: {error}") from error
    own = inspector.references.digests
    if left_out and (len(own) < 2 or not own.issuperset(digests)):
        raise UsageError("Leave-one-out needs two references or more, and their own pictures. Add references first.")
    if not left_out and (twice := [ref.name for ref, digest in zip(refs, digests, strict=True) if digest in own]):
        raise UsageError(
            f"{twice[0]} is a reference and would be compared with itself. Give other normal pictures, or leave one "
            "reference out at a time."
        )
    return NormalPictures(inspector.encode_refs(refs), digests, left_out, share)
