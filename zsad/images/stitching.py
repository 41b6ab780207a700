"""Joins the anomaly maps of a picture's tiles into one.

Borders are blended: a map counts less towards its tile's border, by a linear ramp as wide as the overlap of the tiles, so that
the joined map passes from the values of one tile to those of its neighbour without a seam.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from zsad.errors import UsageError
from zsad.images.roi import Window
from zsad.images.tiling import Place

__all__ = ["Canvas", "join"]

# values of a joined map (16 MB): 8000 x 2000 pixels at half resolution; larger ones are joined more coarsely
MAP_CELLS = 1 << 22
LEAST_WEIGHT = 1e-3  # at a tile's border; positive, so that every place has a value
Floats = NDArray[np.float32]


class Canvas:
    """Accumulates the tiles' maps, one after the other, into the map of the picture.

    Its resolution is that of the tiles' maps, but no finer than the picture and at most ``MAP_CELLS`` values. A tile that is
    the whole window, unpadded, leaves its map unchanged.

    Args:
        view: the region of interest that the tiles were cut from. The map covers its box; outside a polygon places repeat the
            nearest value inside, so that neither the map's peak nor its values at the border come from outside.
    """

    def __init__(self, view: Window) -> None:
        self.view = view
        self._sum: Floats | None = None  # (..., h, w)
        self._weight = np.ones((1, 1), np.float32)  # (h, w)

    def add(self, values: Floats, place: Place) -> None:
        """Adds the map (..., h', w') of the tile at that place, at model size; leading dimensions are several maps of it."""
        if place.box == self.view.box and not any(place.padding):
            self._sum, self._weight = values, np.ones(values.shape[-2:], np.float32)
            return
        if self._sum is None:
            grid = self._grid(values.shape, place)
            self._sum, self._weight = np.zeros((*values.shape[:-2], *grid), np.float32), np.zeros(grid, np.float32)
        columns, across, x_weight = self._line(0, place, values.shape[-1])
        rows, down, y_weight = self._line(1, place, values.shape[-2])
        weight = y_weight[:, None] * x_weight
        self._sum[..., rows, columns] += weight * (down @ values @ across.T)
        self._weight[rows, columns] += weight

    def done(self) -> Floats:
        """The joined map, (..., h, w) float32 over the window's box."""
        if self._sum is None:
            raise UsageError("A canvas without a tile has no map. Add the maps of all places first.")
        values: Floats = np.divide(self._sum, np.where(self._weight > 0, self._weight, 1), dtype=np.float32)
        if self.view.inside is None:
            return values
        whole = Image.fromarray(self.view.inside.astype(np.uint8) * 255)
        share = np.asarray(whole.resize(self._weight.shape[::-1], Image.Resampling.BOX))
        known = (self._weight > 0) & (share > 127)
        if not known.any():  # the region is thinner than a cell
            known = (self._weight > 0) & (share == share[self._weight > 0].max())
        y, x = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
        return values[..., y, x]

    def _grid(self, shape: tuple[int, ...], place: Place) -> tuple[int, int]:
        """(h, w) of the joined map."""
        cells = []
        for axis in (1, 0):
            seen = place.box[axis + 2] - place.box[axis] + place.padding[axis] + place.padding[axis + 2]
            cells.append(self.view.shape[1 - axis] * min(1.0, shape[-1 - axis] / seen))
        total = math.prod(shape[:-2]) * cells[0] * cells[1]
        shrink = math.sqrt(min(1.0, MAP_CELLS / total))
        return max(1, round(cells[0] * shrink)), max(1, round(cells[1] * shrink))

    def _line(self, axis: int, place: Place, values: int) -> tuple[slice, Floats, Floats]:
        """One axis (0: x, 1: y) of a tile: cells of the map whose centres lie in it, how they mix its values, their weight.

        The mix is linear between the values' centres, and a mean with a linear window where the map is coarser than they are.
        """
        length, cells = self.view.shape[1 - axis], self._weight.shape[1 - axis]
        start, stop = (place.box[side] - self.view.box[axis] for side in (axis, axis + 2))
        before, after, ramp = place.padding[axis], place.padding[axis + 2], place.ramp[axis]
        first, last = (math.ceil(edge * cells / length - 0.5) for edge in (start, stop))
        centre = (np.arange(first, last) + 0.5) * length / cells  # pixels of the window
        per_pixel = values / (stop - start + before + after)
        at = (centre - start + before) * per_pixel - 0.5  # places among the values
        reach = max(1.0, length / cells * per_pixel)
        near = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(values)) / reach)  # (n, values)
        mix = near / near.sum(1, keepdims=True)
        border = np.minimum(centre - start, stop - centre)  # pixels to the tile's border
        weight = np.clip(border / ramp, LEAST_WEIGHT, 1) if ramp else np.ones(len(centre))
        return slice(first, last), mix.astype(np.float32), weight.astype(np.float32)


def join(maps: Iterable[Floats], places: Iterable[Place], view: Window) -> Floats:
    """Joins the maps of a picture's tiles; see ``Canvas``."""
    canvas = Canvas(view)
    for values, place in zip(maps, places, strict=True):
        canvas.add(values, place)
    return canvas.done()
