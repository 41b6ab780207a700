"""A person's corrections of scored pictures: places that are normal, or defects; they act on every score until taken back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from zsad.errors import UsageError
from zsad.inference.anomalous import seen_mask
from zsad.inference.encoded import Entry
from zsad.inference.feature_store import load_features
from zsad.inference.inspector import Inspector
from zsad.references.corrections import FALSE_ALARM, MISS, Mark, mark_of

__all__ = ["KINDS", "Corrections"]

KINDS = {FALSE_ALARM: "false alarm", MISS: "miss"}


class Corrections:
    """Marks for ``Inspector.answers``; a missed defect becomes an anomalous reference where the method takes such examples.

    Args:
        inspector: its references change with the examples.
    """

    def __init__(self, inspector: Inspector) -> None:
        self.marks: list[Mark] = []
        self._inspector = inspector
        self._latest: list[int] = []  # signs in their order
        self._masks: dict[str, NDArray[np.uint8]] = {}  # of examples by the picture's digest, (H, W)
        self._names: dict[str, list[str]] = {}  # of the references that a picture became
        self._before: list[tuple[Entry, NDArray[np.uint8] | None]] = []  # what each example found

    def __len__(self) -> int:
        return len(self._latest)

    def add(self, entry: Entry, drawn: NDArray[np.uint8], sign: int) -> None:
        """Takes up a place of a picture.

        Args:
            entry: the encoded picture.
            drawn: (H, W), above 0 where it is marked.
            sign: ``FALSE_ALARM`` or ``MISS``.

        Raises:
            UsageError: nothing is marked, or the picture cannot be an example; nothing changes then.
        """
        if self._is_example(sign):
            self._add_example(entry, drawn)
        else:
            seen = seen_mask(drawn, self._inspector.geometry, 0, self._inspector.detector.backbone.image_size)
            self.marks.append(mark_of(load_features(entry.files[0]), seen, sign, entry.scored.name))
        self._latest.append(sign)

    def take_back(self) -> tuple[str, int] | None:
        """Undoes the latest; returns the picture's name and the sign, None where there is nothing to undo."""
        if not self._latest:
            return None
        sign = self._latest.pop()
        if not self._is_example(sign):
            return self.marks.pop().name, sign
        entry, known = self._before.pop()
        self._renew(entry, known)
        return entry.scored.name, sign

    def _is_example(self, sign: int) -> bool:
        return sign == MISS and self._inspector.detector.takes_anomalous

    def _add_example(self, entry: Entry, drawn: NDArray[np.uint8]) -> None:
        """Several marks of one picture are one mask."""
        if not drawn.any():
            raise UsageError("The mark is empty. Draw over the defect.")
        known = self._masks.get(entry.scored.digest)
        self._renew(entry, drawn if known is None else np.maximum(known, drawn))
        self._before.append((entry, known))

    def _renew(self, entry: Entry, mask: NDArray[np.uint8] | None) -> None:
        key, ref = entry.scored.digest, entry.ref
        self._inspector.remove_references(*self._names.pop(key, []))
        self._masks.pop(key, None)
        if mask is None:
            return
        added = self._inspector.add_anomalous([ref.data if ref.path is None else ref.path], [mask])
        if not added:
            raise UsageError(f"{entry.scored.name} is a reference already, so no place of it can be an example of a defect.")
        self._names[key], self._masks[key] = added, mask
