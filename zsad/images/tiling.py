"""Cuts pictures into the tiles that a method sees: region of interest, tiles and padding.

Geometry acts before the method and is the same for every method. ``Geometry.cut`` cuts a picture (``places`` gives the
places of its tiles, from its size alone), and ``stitching.Canvas`` joins the tiles' maps::

    crop   -> the region of interest (``roi.py``); tiles without any of its pixels are left out
    tile   -> tiles of equal size whose places are spread evenly, so that neighbours overlap by at least ``overlap``
    pad    -> with ``keep_aspect`` a tile becomes square by mirrored borders, and the map's padding is cut off again; a
              longer side than the model's is shrunk to it first, so that memory grows with the tile's side, not its square;
              without it the backbone squashes the tile to a square, which is what the papers do. Padding is not free: on
              strips of the demo's pictures (2:1) it raises ``compact``'s scores of normal pictures by 0.05 to 0.11, a
              border of the mean colour by 0.12 to 0.22

Each tile is scored as a picture of its own, and the largest of the tiles' scores is the picture's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsad.errors import ImageError, UsageError
from zsad.images.roi import Roi, Window, read_roi, window

__all__ = ["Geometry", "Place", "piece", "read_geometry"]

SMALLEST_TILE = 32  # pixels
OVERLAP, LARGEST_OVERLAP = 0.25, 0.9  # of a tile's side
MOST_TILES = 20_000  # of one picture

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Place:
    """One tile of a picture.

    Attributes:
        box: x0, y0, x1, y1 in pixels of the picture.
        padding: (left, top, right, bottom) pixels of mirrored border that the method sees around it, at its longer sides.
        ramp: (x, y) pixels that neighbours share, over which their maps are blended.
    """

    box: Box
    padding: Box = (0, 0, 0, 0)
    ramp: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Geometry:
    """Settings by which pictures are cut: tiles, region of interest and padding. The default is no cut at all.

    Attributes:
        tile: (width, height) of a tile in pixels of the picture; a picture that is smaller is one tile, as it is.
        overlap: least share of a tile's side that neighbours have in common, 0 to 0.9.
        roi: the part that is scored; None: the whole picture.
        keep_aspect: pads to a square instead of squashing.
    """

    tile: tuple[int, int] | None = None
    overlap: float = OVERLAP
    roi: Roi | None = None
    keep_aspect: bool = False

    def window(self, size: tuple[int, int]) -> Window:
        """The region of interest in pictures of (H, W) pixels. Raises ``ImageError`` where it does not lie in them."""
        return window(self.roi, size)

    def tile_in(self, view: Window) -> tuple[int, int]:
        """(width, height) of the tiles in a window: the window's where pictures are not tiled, never larger than it."""
        height, width = view.shape
        return (width, height) if self.tile is None else (min(self.tile[0], width), min(self.tile[1], height))

    def places(self, size: tuple[int, int]) -> list[Place]:
        """Places of the tiles of a picture of (H, W) pixels, row by row.

        Raises:
            ImageError: the region of interest does not lie in it, or it would be cut into more than ``MOST_TILES``.
        """
        view = self.window(size)
        x0, y0, x1, y1 = view.box
        tile = self.tile_in(view)
        xs, ys = _starts(x1 - x0, tile[0], self.overlap), _starts(y1 - y0, tile[1], self.overlap)
        if len(xs) * len(ys) > MOST_TILES:
            raise ImageError(
                f"The picture has {size[1]} x {size[0]} pixels and would be cut into {len(xs) * len(ys)} tiles, more than "
                f"{MOST_TILES}. Take a larger tile or a smaller overlap."
            )
        ramp = (_shared(xs, tile[0]), _shared(ys, tile[1]))
        padding = _to_square(*tile) if self.keep_aspect else (0, 0, 0, 0)
        boxes = ((x, y, x + tile[0], y + tile[1]) for y in ys for x in xs)
        inside = (box for box in boxes if view.inside is None or view.inside[box[1] : box[3], box[0] : box[2]].any())
        return [Place((x0 + a, y0 + b, x0 + c, y0 + d), padding, ramp) for a, b, c, d in inside]

    def cut(self, rgb: NDArray[np.uint8], side: int | None = None) -> Iterator[tuple[NDArray[np.uint8], Place]]:
        """Cuts (H, W, 3) into the tiles that the method sees, each made when it is asked for; ``side`` as in ``piece``.

        Raises:
            ImageError: as in ``places``.
        """
        size = (rgb.shape[0], rgb.shape[1])
        view, places = self.window(size), self.places(size)
        crop = view.crop(rgb)
        for place in places:
            yield piece(crop, view.corner, place, side), place

    def describe(self) -> dict[str, Any] | None:
        """The settings as a JSON object, for fingerprints; None where nothing is cut or padded."""
        if self == Geometry():
            return None
        return {
            "tile": None if self.tile is None else list(self.tile),
            "overlap": None if self.tile is None else self.overlap,
            "roi": None if self.roi is None else self.roi.describe(),
            "keep_aspect": self.keep_aspect,
        }


def read_geometry(tile: Any = None, overlap: float | None = None, roi: Any = None, keep_aspect: bool = False) -> Geometry:
    """Parses the geometry that a user gives.

    Args:
        tile: side in pixels of the picture, or (width, height), or a text: "512", "512x256".
        overlap: share of a tile's side, 0 to 0.9; None takes 0.25.
        roi: as ``read_roi`` takes it.
        keep_aspect: pads to a square instead of squashing.

    Raises:
        UsageError: an argument that cannot be carried out.
    """
    if overlap is not None and tile is None:
        raise UsageError(f"An overlap of {overlap} was given without a tile size, so it would do nothing. Give tile too.")
    if overlap is not None and not 0 <= overlap <= LARGEST_OVERLAP:
        raise UsageError(f"The overlap is {overlap}; give a share of the tile from 0 to {LARGEST_OVERLAP}, such as {OVERLAP}.")
    return Geometry(
        None if tile is None else _read_tile(tile),
        OVERLAP if overlap is None else float(overlap),
        None if roi is None else read_roi(roi),
        bool(keep_aspect),
    )


def _read_tile(given: Any) -> tuple[int, int]:
    parts = given.lower().split("x") if isinstance(given, str) else given if isinstance(given, Sequence) else [given]
    try:
        sides = [int(part) for part in parts if isinstance(part, (str, int))]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2) or len(sides) != len(parts) or isinstance(given, bool):
        raise UsageError(
            f"The tile is {given!r}. Give its side in pixels of the picture, such as 512, or 512x256 (width x height)."
        )
    if min(sides) < SMALLEST_TILE:
        raise UsageError(f"The tile is {given!r}; its sides have to be at least {SMALLEST_TILE} pixels of the picture.")
    return sides[0], sides[-1]


def _starts(length: int, tile: int, overlap: float) -> list[int]:
    """First pixels of the tiles: as few as reach the overlap, spread evenly, the last one ending with the picture."""
    step = max(1, math.floor(tile * (1 - overlap) + 1e-9))
    gaps = -(-(length - tile) // step)
    return [index * (length - tile) // gaps for index in range(gaps + 1)] if gaps else [0]


def _shared(starts: Sequence[int], tile: int) -> int:
    """Pixels that every two neighbours share at least."""
    return tile - max((b - a for a, b in pairwise(starts)), default=tile)


def _to_square(width: int, height: int) -> Box:
    side = max(width, height)
    left, top = (side - width) // 2, (side - height) // 2
    return left, top, side - width - left, side - height - top


def piece(crop: NDArray[np.uint8], corner: tuple[int, int], place: Place, side: int | None = None) -> NDArray[np.uint8]:
    """Cuts out one tile and pads it as the method sees it, before the resize to a square of ``side`` pixels.

    Args:
        crop: (h, w, 3), ``Window.crop`` of the picture.
        corner: (x, y) of the crop in the picture.
        place: of the tile.
        side: of the model's input. The longer side of a tile that is to be padded is shrunk to it before; None: never.

    Returns:
        (h, w, 3). A padded tile is square in pixels of the picture: of a tile of 900 x 300 and ``side`` 224 there are 224
        columns and 900 rows, and the backbone's resize to a square shrinks the rows.
    """
    (x, y), (x0, y0, x1, y1), (left, top, right, bottom) = corner, place.box, place.padding
    tile = crop[y0 - y : y1 - y, x0 - x : x1 - x]
    if not any(place.padding):
        return tile
    return np.pad(_shrunk(tile, side), ((top, bottom), (left, right), (0, 0)), mode="symmetric")


def _shrunk(tile: NDArray[np.uint8], side: int | None) -> NDArray[np.uint8]:
    """Shrinks the longer axis alone: Pillow filters axis by axis, so that padding the other in between changes nothing."""
    height, width = tile.shape[:2]
    if side is None or max(height, width) <= side:
        return tile
    size = (side, height) if width > height else (width, side)
    return np.asarray(Image.fromarray(np.ascontiguousarray(tile)).resize(size, Image.Resampling.BICUBIC))
