"""The pictures that a model gets: as it was taken, and with its regions drawn; and what they cost."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsad.images.heatmap import overlay, thumbnail

__all__ = ["Case", "Drawing", "Outline", "Seen", "data_address", "drawn", "image_tokens", "plain"]

Drawing: TypeAlias = Literal["box", "contour", "heat"]
LONGEST = 1024  # pixels; larger pictures are shrunk to it
MOST_DRAWN = 5  # regions, the strongest
TOKEN_SIDE = 28  # pixels of a picture for one token, as of the Qwen-VL family; others take more or fewer


@dataclass(frozen=True)
class Outline:
    """A region: its box (x0, y0, x1, y1) and its outer boundary as (x, y) corners, in pixels of the picture."""

    box: tuple[int, int, int, int]
    contour: tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Seen:
    """What is read only when a case is asked about.

    Attributes:
        picture: (H, W, 3) uint8.
        heat: (H, W) anomaly map, NaN below the pixel threshold; None: there is no map, and "heat" draws contours.
    """

    picture: NDArray[np.uint8]
    heat: NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False)
class Case:
    """A picture to be explained.

    Attributes:
        name: of the picture.
        size: (H, W) in pixels.
        identity: what the picture is known by; it changes with the picture.
        flagged: whether the detector's verdict is anomalous or review.
        regions: strongest first; empty: only the plain picture is shown.
        map_range: values of the map at the ends of the colour scale.
        load: reads picture and map.
    """

    name: str
    size: tuple[int, int]
    identity: str
    flagged: bool
    regions: Sequence[Outline]
    map_range: tuple[float, float]
    load: Callable[[], Seen]


def plain(picture: NDArray[np.uint8]) -> Image.Image:
    """The picture, shrunk to ``LONGEST``."""
    return thumbnail(Image.fromarray(picture), LONGEST)


def drawn(case: Case, seen: Seen, how: Drawing) -> Image.Image | None:
    """The picture with its strongest regions drawn, shrunk to ``LONGEST``; None where it has none.

    "box" draws rectangles, "contour" outlines, "heat" the map's colours where it reaches the threshold.
    """
    if not case.regions:
        return None
    if how == "heat" and seen.heat is not None:
        return thumbnail(overlay(seen.picture, seen.heat, case.map_range), LONGEST)
    nothing = np.full(seen.picture.shape[:2], np.nan, dtype=np.float32)
    corners = [_rectangle(one.box) if how == "box" else one.contour for one in case.regions[:MOST_DRAWN]]
    return thumbnail(overlay(seen.picture, nothing, case.map_range, corners), LONGEST)


def _rectangle(box: tuple[int, int, int, int]) -> tuple[tuple[int, int], ...]:
    x0, y0, x1, y1 = box
    return ((x0, y0), (x1, y0), (x1, y1), (x0, y1))


def data_address(picture: Image.Image) -> str:
    """The picture as a data: address of a JPEG."""
    memory = io.BytesIO()
    picture.convert("RGB").save(memory, "JPEG", quality=92)
    return "data:image/jpeg;base64," + base64.b64encode(memory.getvalue()).decode()


def image_tokens(size: tuple[int, int]) -> int:
    """Tokens of a picture (H, W) as it is sent, estimated: one for each square of ``TOKEN_SIDE`` pixels."""
    scale = min(1.0, LONGEST / max(size))
    return math.ceil(size[0] * scale / TOKEN_SIDE) * math.ceil(size[1] * scale / TOKEN_SIDE)
