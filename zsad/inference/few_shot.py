"""The part of an ``Inspector`` that keeps normal reference pictures and prepares the detector with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch

from zsad.decision.reference_rule import FEWEST, reference_rule
from zsad.decision.thresholds import Thresholds, with_pixel
from zsad.detector import Detector
from zsad.errors import UsageError
from zsad.images.reading import list_images
from zsad.images.tiling import Geometry
from zsad.inference.anomalous import mask_reader
from zsad.inference.encoded import Encoded, answers
from zsad.inference.reference_files import is_saved
from zsad.inference.reference_set import ReferenceSet
from zsad.inference.scorer import Scored, Scorer
from zsad.inference.verdict import scores_and_peaks
from zsad.types import Context, References

__all__ = ["WithReferences", "open_references"]

IS_REFERENCE = "this picture is a reference too, so its score is too low: it is compared with itself"


class WithReferences:
    """A detector, how pictures reach it, and references that can be added and taken out."""

    detector: Detector
    device: torch.device
    target: str
    references: ReferenceSet
    coreset: float
    context: Context
    thresholds: Thresholds
    _without: str = ""  # digest of a reference that is left out
    _rule: tuple[Context, Thresholds] | None = None  # of the references, and the context that it was made with
    batch_size: int
    workers: int
    value_range: tuple[float, float] | None
    precision: str
    geometry: Geometry

    def add_references(self, source: Any) -> list[str]:
        """Adds normal pictures; returns the names of those that were new. Unreadable ones are in ``references.errors``.

        Raises:
            UsageError: the method takes no references.
        """
        added = self.references.add(self._scorer(self.context), list_images(source))
        self.context = self._prepared()
        return added

    def add_anomalous(self, source: Any, masks: Any = None) -> list[str]:
        """Adds anomalous pictures as examples of defects; returns the names of those that were new.

        Args:
            source: whatever ``list_images`` takes.
            masks: where the defects are: a folder whose files are named like the pictures, or arrays (H, W), above 0 where they
                are; None: all of each picture is an example.

        Raises:
            UsageError: the method takes normal references alone, or masks that do not fit.
        """
        if not self.detector.takes_anomalous:
            raise UsageError(f"{self.detector.name} takes normal references only; leave the anomalous ones out.")
        if source is None:
            raise UsageError(
                "Masks of anomalous references were given without the pictures. Give them too: anomalous=, --anomalous."
            )
        refs = list(list_images(source))
        added = self.references.add(self._scorer(self.context), refs, mask_reader(masks, refs))
        self.context = self._prepared()
        return added

    def remove_references(self, *names: str) -> None:
        """Takes pictures out of the references, by name."""
        self.references.remove(names)
        self.context = self._prepared()

    def save_references(self, folder: str | Path) -> None:
        """Writes the references to a folder that ``references=`` takes."""
        self.references.save(folder)

    def left_out(self, digest: str) -> Self:
        """This inspector without one of its references."""
        banks = self.references.banks_without(digest, self.context.banks, self.coreset)
        return self._with(context=replace(self.context, banks=banks).to(self.device), _without=digest)

    def _with_notes(self, found: Iterable[Scored]) -> Iterator[Scored]:
        """Scored pictures, with a note where one is a reference that it was compared with."""
        own = self.references.digests - {self._without}
        return (replace(one, notes=(*one.notes, IS_REFERENCE)) if one.digest in own else one for one in found)

    def known_thresholds(self) -> Thresholds:
        """The levels that hold before any picture is scored: the user's, the calibration's, or those of the references.

        Where no level was given and four references or more were added (not read from a folder), each of them is scored by the
        others, see ``reference_rule``. Done once for the same references.
        """
        if self.thresholds.anomalous is not None or self.detector.needs_set(self.context):
            return self.thresholds
        if self._rule is None or self._rule[0] is not self.context:
            self._rule = (self.context, reference_rule(*scores_and_peaks(self._references_by_the_others())))
        rule = self._rule[1]
        return self.thresholds if rule.anomalous is None else with_pixel(rule, self.thresholds)

    def _references_by_the_others(self) -> Iterator[Scored]:
        entries = self.references.entries()
        for digest, entry in sorted(entries.items()) if len(entries) >= FEWEST else ():
            one = Encoded(self.geometry, {})
            one.entries.append(entry)
            yield from self.left_out(digest)._answers_now(one)  # no variable: one left-out bank is in memory at once

    def _answers_now(self, encoded: Encoded) -> list[Scored]:
        return list(answers(self._scoring(self.context), encoded))

    @property
    def far_score(self) -> float | None:
        """The detector's, which holds where nothing is compared with references."""
        return None if len(self.references) else self.detector.far_score

    def refresh(self) -> None:
        """Prepares the context anew, after ``target``, the detector or the references were changed from outside."""
        self.context = self._prepared()

    def _prepared(self, target: str | None = None) -> Context:
        """The context of a target, with the references of now."""
        banks = {key: bank.to(self.device) for key, bank in self.references.banks(self.coreset).items()}
        with torch.inference_mode():
            return self.detector.prepare(target or self.target, References(banks=banks) if banks else None).to(self.device)

    def _with(self, **changed: Any) -> Self:
        other = copy(self)
        vars(other).update(changed)
        return other

    def _scoring(self, context: Context) -> Scorer:
        """``_scorer`` of one context, where there are the references that the method needs."""
        self.detector.require_references(context)
        return replace(self._scorer(context), detector=self.detector.for_context(context))

    def _scorer(self, context: Context) -> Scorer:
        how = (self.batch_size, self.workers, self.value_range, self.precision, self.geometry)
        return Scorer(self.detector, context, self.device, *how)


def open_references(given: Any, scorer: Scorer, detector: Mapping[str, Any]) -> ReferenceSet:
    """The reference images that a user gives.

    Args:
        given: a set, a folder that ``ReferenceSet.save`` wrote, or normal pictures: whatever ``list_images`` takes.
        scorer: encodes pictures.
        detector: ``Inspector.describe()`` of what encodes them.

    Raises:
        UsageError: another detector encoded them, or there is none that can be read.
    """
    if isinstance(given, ReferenceSet) or is_saved(given):
        found = given if isinstance(given, ReferenceSet) else ReferenceSet.load(given)
        found.check(detector)
        if not len(found):
            raise UsageError("The saved references hold no picture any more. Add some with zsad references, or leave them out.")
        return found
    found = ReferenceSet(detector)
    found.add(scorer, list_images(given))
    if not len(found):
        why = next(iter(found.errors.items()), None)
        raise UsageError("No reference could be read" + (f"; {why[0]}: {why[1]}" if why else ": the source is empty."))
    return found
