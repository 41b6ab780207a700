"""The notes of a run's pictures, counted by kind, and sentences on those that make pictures hard to compare."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from zsad.common.file_names import many
from zsad.images.content import BLANK

__all__ = ["CUT_MAPS", "Notes"]

CUT_MAPS = "map lies outside"  # in the note of a picture whose map was cut when it was written
RANGE = re.compile(r"(?P<depth>\d+-bit(?: float)?): range (?P<low>\S+?)\.\.(?P<high>\S+) \(.*\) mapped to 0\.\.255")
NUMBERS = re.compile(r" \([\d.]+%?[^()]*\)|^[\d.]+% of the ")  # what differs between notes of one kind
FRAMES = re.compile(r"(?<=first of )\d+")
CUT, REPLACED = "values lie outside the range", "values that are not finite"  # in notes of images/intensity.py
OTHERS = 4  # kinds of notes that are listed in one line


@dataclass
class Notes:
    """Notes of pictures that were scored.

    Attributes:
        kinds: pictures per kind of note, most first where they are listed.
        ranges: pictures per range of values that became black and white, as (depth, low, high).
        plain: pictures of 8 bits, which have no such range.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    ranges: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    plain: int = 0

    def add(self, notes: Iterable[str]) -> None:
        """Takes up the notes of one picture."""
        found = [hit for note in notes if (hit := RANGE.fullmatch(note))]
        self.kinds.update({note if RANGE.fullmatch(note) else FRAMES.sub("several", NUMBERS.sub("", note)) for note in notes})
        self.ranges.update((hit["depth"], hit["low"], hit["high"]) for hit in found[:1])
        self.plain += not found

    def as_dict(self) -> dict[str, int]:
        """Pictures per kind of note, for run.json."""
        return dict(sorted(self.kinds.items()))

    def sentences(self) -> list[str]:
        """What a person should know of the run as a whole: several ranges, values that were cut, frames without content."""
        found = [self._mixed()] if len(self.ranges) + (self.plain > 0 and bool(self.ranges)) > 1 else []
        counts = {part: self._with(part) for part in (CUT, REPLACED, CUT_MAPS, BLANK)}
        if counts[CUT]:
            found.append(f"{many(counts[CUT], 'picture')} with values outside the range that became black to white: cut there.")
        if counts[REPLACED]:
            found.append(f"{many(counts[REPLACED], 'picture')} with values that are not finite: taken as black.")
        if counts[CUT_MAPS]:
            found.append(
                f"{many(counts[CUT_MAPS], 'anomaly map')} with values outside the scale of --maps png, which were cut; "
                "--maps npy keeps them."
            )
        if counts[BLANK]:
            found.append(f"{many(counts[BLANK], 'frame')} without content (black, white or of one colour): for review.")
        others = [(kind, n) for kind, n in self.kinds.most_common() if not RANGE.fullmatch(kind) and not _part(kind, counts)]
        listed = "; ".join(f"{kind} ({n})" for kind, n in others[:OTHERS])
        more = f"; {len(others) - OTHERS} more in run.json" if len(others) > OTHERS else ""
        return [*found, f"Notes of pictures: {listed}{more}."] if others else found

    def _with(self, part: str) -> int:
        """Pictures with a note of these words, of which a picture has one at most."""
        return sum(count for kind, count in self.kinds.items() if part in kind)

    def _mixed(self) -> str:
        parts = [f"{count} over {low}..{high} ({depth})" for (depth, low, high), count in self.ranges.most_common()]
        parts += [f"{self.plain} as they are (8-bit)"] if self.plain else []
        advice = ""
        if len(self.ranges) > 1:
            _, low, high = max(self.ranges, key=lambda one: float(one[2]))
            advice = f"; give --value-range {low} {high} to read all beyond 8 bits alike"
        return (
            f"Caution: pictures were read over different ranges of values, {', '.join(parts)}, so one may look brighter than "
            f"its neighbours{advice}."
        )


def _part(kind: str, parts: Iterable[str]) -> bool:
    """Whether a note has the words of one of the parts."""
    return any(part in kind for part in parts)
