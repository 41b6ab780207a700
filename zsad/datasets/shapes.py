"""``Shapes``: the annotated areas of one picture, drawn as a mask when it is loaded and not before."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsad.datasets.run_lengths import coco_counts, decode_brush, fill_runs
from zsad.errors import MaskError

__all__ = ["Encoded", "Polygon", "Shapes", "box", "ellipse", "polygon"]

Mask = NDArray[np.bool_]
STEP = 1 << 20  # edges x rows that are computed at once
ROUND = 72  # corners of an ellipse
LIMIT = 1e9  # a coordinate beyond it is none


@dataclass(frozen=True)
class Polygon:
    """A closed polygon, by the even-odd rule; make it with ``polygon``, ``box`` or ``ellipse``.

    Attributes:
        points: x and y of each corner as float32 bytes. (0, 0) is the outer corner of the first pixel.
        is_box: it is a bounding box: the defect is somewhere inside.
    """

    points: bytes
    is_box: bool = False


@dataclass(frozen=True)
class Encoded:
    """A mask in the code of its tool, for a part of the picture.

    Attributes:
        code: "coco" (compressed string), "columns" or "rows" (int64 run lengths), "brush" (Label Studio), "png" (LabelMe).
        data: the encoded mask.
        width, height: of the mask, in pixels; 0 x 0 for "png", which states its own.
        left, top: where it lies in the picture.
    """

    code: str
    data: bytes
    width: int
    height: int
    left: int = 0
    top: int = 0

    def decode(self) -> Mask:
        """(height, width) bool. Raises ``MaskError`` where it cannot be decoded; the message names no picture."""
        if self.code == "coco":
            return fill_runs(coco_counts(self.data), self.width, self.height, columns=True)
        if self.code == "brush":
            return decode_brush(self.data, self.width, self.height)
        if self.code == "png":
            return self._picture()
        return fill_runs(np.frombuffer(self.data, np.int64), self.width, self.height, columns=self.code == "columns")

    def _picture(self) -> Mask:
        try:
            with Image.open(io.BytesIO(self.data), formats=("PNG",)) as image:
                return np.asarray(image.convert("L")) > 0
        except Exception as error:  # of any type, on broken files
            raise MaskError(f"its PNG cannot be decoded ({error})") from error


@dataclass(frozen=True)
class Shapes:
    """The annotated areas of one picture; the mask is their union.

    Attributes:
        parts: polygons and encoded masks.
        size: (width, height) of the picture as it was annotated; None: as large as the picture is shown.
        relative: coordinates of polygons are fractions of width and height.
    """

    parts: tuple[Polygon | Encoded, ...]
    size: tuple[int, int] | None = None
    relative: bool = False

    @property
    def boxes(self) -> int:
        """The number of parts that are bounding boxes: their masks are larger than the defects."""
        return sum(isinstance(part, Polygon) and part.is_box for part in self.parts)

    def draw(self, width: int, height: int) -> Mask:
        """The union of the areas as (height, width) bool; what lies beyond the edge is cut.

        A pixel is inside where its centre is. An area so thin that it holds no centre marks the pixels of its outline.

        Raises:
            MaskError: an area cannot be decoded, or does not fit the size; the message names no picture.
        """
        mask = np.zeros((height, width), np.bool_)
        scale = (width, height) if self.relative else (1, 1)
        for part in self.parts:
            if isinstance(part, Polygon):
                _draw_polygon(mask, np.frombuffer(part.points, np.float32).reshape(-1, 2).astype(np.float64) * scale)
                continue
            if part.code != "png" and (part.width > width or part.height > height):
                raise MaskError(f"an annotated mask is {part.width} x {part.height} pixels, the picture {width} x {height}")
            _paste(mask, part.decode(), part.left, part.top)
        return mask


# ---------------------------------------------------------------- making them
def polygon(points: Iterable[Sequence[float]] | NDArray[np.floating], *, is_box: bool = False) -> Polygon | None:
    """A polygon of (x, y) corners; an upright rectangle counts as a box.

    None where it has fewer than three corners, or one that is no number of a picture's size.
    """
    wide = np.asarray(list(points), np.float64)
    if wide.ndim != 2 or wide.shape[1] != 2 or len(wide) < 3 or not (np.abs(wide) < LIMIT).all():
        return None
    corners = wide.astype(np.float32)
    return Polygon(corners.tobytes(), is_box or _is_upright(corners))


def _is_upright(corners: NDArray[np.float32]) -> bool:
    four = corners[:-1] if len(corners) == 5 and (corners[0] == corners[-1]).all() else corners
    moved = np.roll(four, -1, axis=0) != four  # per edge, whether x and whether y changes
    return len(four) == 4 and bool((moved.sum(axis=1) == 1).all() and (moved[0] != moved[1]).all())


def box(
    left: float, top: float, right: float, bottom: float, *, turn: float = 0, about: tuple[float, float] | None = None
) -> Polygon | None:
    """A bounding box, turned clockwise by ``turn`` degrees about a point (by default its centre); None where it is empty."""
    if not (-LIMIT < left < right < LIMIT and -LIMIT < top < bottom < LIMIT and abs(turn) < LIMIT):
        return None
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    return polygon(_turned(corners, turn, about or ((left + right) / 2, (top + bottom) / 2)), is_box=True)


def ellipse(x: float, y: float, across: float, down: float, *, turn: float = 0) -> Polygon | None:
    """An ellipse by its centre and half axes, turned clockwise by ``turn`` degrees; None where it is empty."""
    if not (0 < across < LIMIT and 0 < down < LIMIT and max(abs(x), abs(y), abs(turn)) < LIMIT):
        return None
    angles = np.arange(ROUND) * (2 * math.pi / ROUND)
    return polygon(_turned(np.stack([x + across * np.cos(angles), y + down * np.sin(angles)], 1), turn, (x, y)))


def _turned(corners: NDArray[np.float64], degrees: float, about: tuple[float, float]) -> NDArray[np.float64]:
    angle = math.radians(degrees)
    matrix = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])  # y runs down: clockwise
    return np.asarray((corners - about) @ matrix + about) if degrees else corners


# ---------------------------------------------------------------- drawing
def _draw_polygon(mask: Mask, corners: NDArray[np.float64]) -> None:
    """Each edge toggles, in every row that it crosses, all pixels from the crossing on; the pixels toggled oddly are inside."""
    low = np.clip(np.floor(corners.min(axis=0)), 0, mask.shape[::-1]).astype(np.int64)
    high = np.clip(np.ceil(corners.max(axis=0)), 0, mask.shape[::-1]).astype(np.int64)
    part = mask[low[1] : high[1], low[0] : high[0]]  # a view of what the polygon can reach
    if part.all():  # all that it can reach is drawn already, or lies beyond the edge
        return
    rows, width = part.shape
    toggled = np.zeros((rows, width + 1), np.uint8)
    ends = np.roll(corners, -1, axis=0)
    centres = low[1] + np.arange(rows) + 0.5
    per = max(1, STEP // rows)
    for start in range(0, len(corners), per):
        (x0, y0), (x1, y1) = (some[start : start + per].T[..., None] for some in (corners, ends))
        edge, row = np.nonzero((y0 <= centres) != (y1 <= centres))
        share = (centres[row] - y0[edge, 0]) / (y1[edge, 0] - y0[edge, 0])
        crossing = x0[edge, 0] + share * (x1[edge, 0] - x0[edge, 0])
        column = np.clip(np.ceil(crossing - 0.5) - low[0], 0, width).astype(np.int64)
        np.bitwise_xor.at(toggled, (row, column), 1)
    inside = np.bitwise_xor.accumulate(toggled, axis=1)[:, :width].astype(np.bool_)
    if inside.any():
        part |= inside
    else:
        _draw_outline(mask, corners)


def _draw_outline(mask: Mask, corners: NDArray[np.float64]) -> None:
    height, width = mask.shape
    for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        low, high = _within(start, end - start, width, height)
        if low > high:
            continue
        steps = np.linspace(low, high, 2 + 2 * int(max(width, height)))[:, None]
        spots = np.floor(start + steps * (end - start)).astype(np.int64)
        good = ((spots >= 0) & (spots < (width, height))).all(axis=1)
        mask[spots[good, 1], spots[good, 0]] = True


def _within(start: NDArray[np.float64], way: NDArray[np.float64], width: int, height: int) -> tuple[float, float]:
    """The part (0 to 1) of an edge that lies inside the picture; the first number is the larger one where none does."""
    low, high = 0.0, 1.0
    for origin, step, limit in zip(start, way, (width, height), strict=True):
        if step == 0:
            if not 0 <= origin <= limit:
                return 1.0, 0.0
            continue
        near, far = sorted((-origin / step, (limit - origin) / step))
        low, high = max(low, near), min(high, far)
    return low, high


def _paste(mask: Mask, part: Mask, left: int, top: int) -> None:
    height, width = mask.shape
    x0, y0 = max(0, left), max(0, top)
    x1, y1 = min(width, left + part.shape[1]), min(height, top + part.shape[0])
    if x1 > x0 and y1 > y0:
        mask[y0:y1, x0:x1] |= part[y0 - top : y1 - top, x0 - left : x1 - left]
