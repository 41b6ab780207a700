"""Draws heat maps on one fixed colour scale, outlines and thumbnails."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

__all__ = ["colours", "gradient", "overlay", "thumbnail"]

# yellow to magenta, lightness falling evenly (CIE L* 90, 76, 63, 49, 37), so that order survives a black-and-white print
_ANCHORS = np.array([(255, 225, 80), (255, 172, 40), (246, 114, 36), (214, 45, 50), (166, 10, 96)], dtype=np.float32)
_STEPS = 256
_MOST = 0.8  # opacity at the upper end of the scale; it grows with the square, so that a normal picture stays as it is
DIMMED = 3  # what lies outside the region of interest is drawn this much darker


def _table() -> NDArray[np.float32]:
    """(256, 4): red, green, blue in 0..255 and opacity in 0..1."""
    t = np.linspace(0, 1, _STEPS)
    stops = np.linspace(0, 1, len(_ANCHORS))
    channels = [np.interp(t, stops, _ANCHORS[:, channel]) for channel in range(3)]
    return np.stack([*channels, _MOST * t**2], axis=1).astype(np.float32)


_TABLE = _table()
_COLOURS = np.rint(_TABLE[:, :3]).astype(np.uint8).tobytes()
_OPACITY = np.rint(_TABLE[:, 3] * 255).astype(int).tolist()  # of 255


def colours(count: int = 9) -> list[str]:
    """Colours of the scale from its lower to its upper end, as "#rrggbb"."""
    rows = _TABLE[np.linspace(0, _STEPS - 1, count).round().astype(int), :3].round().astype(int)
    return [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in rows]


def gradient(map_range: tuple[float, float], values: NDArray[Any]) -> NDArray[np.uint8]:
    """Map values as positions on the colour scale, 0..255; values beyond its ends are at the ends, NaN (not scored) at 0."""
    low, high = map_range
    scaled = (np.fmax(values, np.float32(low)) - np.float32(low)) * np.float32((_STEPS - 1) / max(high - low, 1e-12))
    places: NDArray[np.uint8] = np.minimum(np.rint(scaled), _STEPS - 1).astype(np.uint8)
    return places


def overlay(
    image: NDArray[np.uint8],
    anomaly_map: NDArray[np.float32],
    map_range: tuple[float, float],
    outlines: Iterable[Sequence[tuple[int, int]]] = (),
    roi_mask: NDArray[np.bool_] | None = None,
) -> Image.Image:
    """Draws the heat map over the picture and the outlines on top.

    Args:
        image: (H, W, 3) RGB.
        anomaly_map: (H, W); NaN is not coloured.
        map_range: values that the two ends of the colour scale stand for.
        outlines: polygons of (x, y) corners.
        roi_mask: (H, W), False where the picture was not scored and is darkened; None: nowhere.
    """
    levels = Image.fromarray(gradient(map_range, anomaly_map))
    opacity = levels.point(_OPACITY)
    levels.putpalette(_COLOURS)
    picture = Image.composite(levels.convert("RGB"), Image.fromarray(image), opacity)
    if roi_mask is not None:
        dimmed = np.array(picture)
        dimmed[~roi_mask] //= DIMMED
        picture = Image.fromarray(dimmed)
    pen = ImageDraw.Draw(picture)
    width = max(1, round(max(image.shape[:2]) / 200))
    for corners in outlines:
        closed = [(min(x, picture.width - 1), min(y, picture.height - 1)) for x, y in [*corners, corners[0]]]
        pen.line(closed, fill=(0, 0, 0), width=width + 2)
        pen.line(closed, fill=(255, 255, 255), width=width)
    return picture


def thumbnail(picture: Image.Image, side: int) -> Image.Image:
    """Shrinks a picture to fit within ``side`` x ``side`` pixels; never enlarges it."""
    scale = min(1.0, side / max(picture.size))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture if size == picture.size else picture.resize(size, Image.Resampling.BOX, reducing_gap=1.0)
