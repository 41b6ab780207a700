"""Boxes around suspicious places, which a detector of objects finds by words."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zsad.errors import SourceNotFound, UsageError
from zsad.types import Tap

__all__ = [
    "NO_GRAPH",
    "Box",
    "BoxFinder",
    "BoxesOfFile",
    "accepted",
    "corners",
    "found_in",
    "inside",
    "nowhere",
    "picture_key",
    "picture_tap",
    "write_boxes",
]


NO_GRAPH = "boxes around suspicious places are found in every picture by another program. Run it in torch, or leave boxes out."


@dataclass(frozen=True)
class Box:
    """A place in a picture.

    Attributes:
        place: centre's x and y, width, height, all as a share of the picture's side.
        phrase: the words that were found there.
        confidence: 0 to 1.
    """

    place: tuple[float, float, float, float]
    phrase: str
    confidence: float


BoxFinder: TypeAlias = Callable[[NDArray[np.uint8], Sequence[str]], Sequence[Box]]  # (H, W, 3) RGB and words -> boxes


def accepted(boxes: Iterable[Box], words: Iterable[str]) -> list[Box]:
    """The boxes whose phrase contains one of the words."""
    words = tuple(words)
    return [box for box in boxes if any(word in box.phrase for word in words)]


def nowhere(rgb: NDArray[np.uint8], words: Sequence[str]) -> Sequence[Box]:
    """A ``BoxFinder`` that finds nothing."""
    return []


def picture_tap(pixels: Tensor) -> Tap:
    """RGB pictures (B, H, W, 3) as a stream of features keeps them."""
    return Tap(pixels.flatten(1, 2), (pixels.shape[1], pixels.shape[2]))


def found_in(tap: Tap, find: BoxFinder, words: Sequence[str]) -> list[list[Box]]:
    """The accepted boxes of each picture of a ``picture_tap``."""
    pictures = tap.patches.to(torch.uint8).unflatten(1, tap.grid).cpu().numpy()
    return [accepted(find(rgb, words), words) for rgb in pictures]


def inside(boxes: Iterable[Box], size: int, *, cut: bool = True) -> Tensor:
    """(size, size) bool, True inside of one of the boxes.

    Args:
        boxes: on a square picture.
        size: its side in pixels; corners are cut down to whole pixels.
        cut: a box that sticks out is cut at the border. False: a negative corner counts from the far end, as a slice in Python
            does, so that such a box marks nothing (the published code of FiLo).
    """
    mask = torch.zeros(size, size, dtype=torch.bool)
    for row in corners(boxes, size).tolist():
        left, top, right, bottom = (max(0, int(one)) if cut else int(one) for one in row)
        mask[top:bottom, left:right] = True
    return mask


def corners(boxes: Iterable[Box], size: int) -> Tensor:
    """Left, top, right and bottom of each box in pixels, (N, 4) float32, rounded as Grounding DINO's programs round."""
    pixels = torch.tensor([box.place for box in boxes]).view(-1, 4) * size
    first = pixels[:, :2] - pixels[:, 2:] / 2
    return torch.cat([first, pixels[:, 2:] + first], dim=1)


def picture_key(rgb: NDArray[np.uint8]) -> str:
    """Name of a picture in a file of boxes: a digest of its pixels (H, W, 3) at the size that the detector scores."""
    return hashlib.sha256(np.ascontiguousarray(rgb).tobytes()).hexdigest()[:32]


def write_boxes(path: str | Path, found: Mapping[str, Sequence[Box]]) -> None:
    """Writes a file for ``BoxesOfFile``; ``found`` is by ``picture_key``."""
    rows = {
        key: [{"box": list(one.place), "phrase": one.phrase, "confidence": one.confidence} for one in boxes]
        for key, boxes in found.items()
    }
    Path(path).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


class BoxesOfFile:
    """Boxes from a JSON file; a ``BoxFinder``. A picture that is not in it has none.

    Args:
        path: ``{picture key: [{"box": [x, y, width, height], "phrase": "scratch", "confidence": 0.5}, ...]}``.

    Raises:
        SourceNotFound: no such file.
        UsageError: another form; the message names what is wrong.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        if not path.is_file():
            raise SourceNotFound(f"There is no file of boxes at {str(path)!r}.")
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))
            self.boxes = {key: [_box(row) for row in boxes] for key, boxes in rows.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(
                f"{path.name} is no file of boxes ({error}). It needs, per picture key, a list of "
                '{"box": [x, y, width, height], "phrase": "scratch", "confidence": 0.5}.'
            ) from error

    def __call__(self, rgb: NDArray[np.uint8], words: Sequence[str]) -> Sequence[Box]:
        """Boxes of one picture."""
        return self.boxes.get(picture_key(rgb), [])


def _box(row: Any) -> Box:
    x, y, width, height = (float(value) for value in row["box"])
    return Box((x, y, width, height), str(row["phrase"]), float(row["confidence"]))
