"""Where in a picture something is, in words (FiLo)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from zsad.images.boxes import Box
from zsad.prompts.prompt_set import PromptSet

__all__ = ["DEFECT_WORDS", "POSITIONS", "at_places", "fine_phrases", "places_of", "region"]

POSITIONS = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")
CENTER = POSITIONS.index("center")
DEFECT_WORDS = ("anomaly", "damage", "broken", "defect", "contamination")  # looked for in every category
SIDE, THIRDS = 518, ((0, 172), (173, 344), (345, 517))  # first and last pixel of each third, as published


def region(x: float, y: float, *, gaps: bool = False) -> int | None:
    """Index in ``POSITIONS`` of a point whose coordinates are shares of the picture's sides.

    Args:
        x: from the left.
        y: from the top.
        gaps: as published, a point between the last pixel of a third and the first of the next is nowhere: None.
    """
    places = [_third(share, gaps) for share in (x, y)]
    column, row = places
    return None if column is None or row is None else 3 * row + column


def _third(share: float, gaps: bool) -> int | None:
    if not gaps:
        return min(2, max(0, int(3 * share)))
    return next((third for third, (first, last) in enumerate(THIRDS) if first <= share * SIDE <= last), None)


def places_of(boxes: Sequence[Box], *, gaps: bool = False) -> tuple[int, ...]:
    """Indices in ``POSITIONS`` of where the most confident box is: one, or all of them where it is nowhere.

    Of equal confidences (two decimals count, as published) the last box's. Without a box: the centre.
    """
    if not boxes:
        return (CENTER,)
    best = max(enumerate(boxes), key=lambda one: (float(f"{one[1].confidence:f}"[:4]), one[0]))[1]
    found = region(best.place[0], best.place[1], gaps=gaps)
    return tuple(range(len(POSITIONS))) if found is None else (found,)


def fine_phrases(prompts: str, name: str) -> dict[str, tuple[str, ...]]:
    """What is said of a category, and what boxes are looked for.

    Args:
        prompts: name or path of a prompt set, whose ``details`` are the defects of each category; a category that is not in it
            has the general states alone.
        name: of the category.

    Returns:
        "normal": the states; "anomalous": every detail and every state at every position, index ``state * 9 + position``;
        "boxes": the words.
    """
    found = PromptSet.load(prompts)
    called = found.names.get(name, name)
    details, states = found.details.get(called, ()), PromptSet.pair(prompts, called)
    fine = (*(f"abnormal {called} with {detail}" for detail in details), *states["anomalous"])
    placed = tuple(f"{state} at {position}" for state in fine for position in POSITIONS)
    return {"normal": states["normal"], "anomalous": placed, "boxes": (*details, *DEFECT_WORDS)}


def at_places(rows: Tensor, places: Sequence[int]) -> Tensor:
    """Of rows for every state at every position those of some positions, (states * 9, ...) -> (states * places, ...)."""
    return rows.unflatten(0, (-1, len(POSITIONS)))[:, list(places)].flatten(0, 1)
