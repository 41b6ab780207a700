"""Frames without content: of one colour (a closed lens, an empty tray), almost black, almost white.

Such a frame has nothing unusual in it, so detectors give it low scores, and "normal" would be wrong. ``blank_notes`` states
what it is; the note travels with the picture, and whatever decides on the picture asks ``is_blank``. The rule is narrow on
purpose: a plain surface with grain, shading or a defect has content.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

__all__ = ["blank_notes", "is_blank"]

BLANK = "without content"  # how the note begins
SPECK = 1e-4  # share of the pixels that may lie outside a range: broken pixels of a sensor
GRAIN = 12  # levels of 255 by which a pixel of one colour may leave it: a sensor's noise
FLAT = 2.0  # levels by which the mean of a block may leave it
BLOCKS = 24  # blocks along the shorter side
BLACK, WHITE = 20, 240  # brightest level of a black frame, darkest of a white one
SAMPLE = 1 << 12  # pixels that are looked at first
STRIP = 1 << 20  # pixels that are looked at together


def blank_notes(rgb: NDArray[np.uint8]) -> tuple[str, ...]:
    """What a frame without content is, as a note; none for any other picture.

    Args:
        rgb: (H, W, 3), the whole frame, whatever part of it is scored.
    """
    stride = max(1, int((rgb.shape[0] * rgb.shape[1] / SAMPLE) ** 0.5))
    middle = np.median(rgb[::stride, ::stride].reshape(-1, 3), axis=0)
    if _within(rgb, 0, BLACK, stride):
        kind = "almost black" if rgb.any() else "black"
    elif _within(rgb, WHITE, 255, stride):
        kind = "almost white" if (rgb < 255).any() else "white"
    elif _within(rgb, middle - GRAIN, middle + GRAIN, stride) and _is_flat(rgb, middle):
        kind = "of one colour ({}, {}, {})".format(*middle.round().astype(int))
    else:
        return ()
    return (f"{BLANK}: the frame is {kind}, so it is for review",)


def is_blank(notes: Iterable[str]) -> bool:
    """Whether the notes of a picture state that it has no content."""
    return any(note.startswith(BLANK) for note in notes)


def _within(rgb: NDArray[np.uint8], low: float | NDArray[np.float64], high: float | NDArray[np.float64], stride: int) -> bool:
    """Whether all pixels but specks lie in a range of colours."""
    least, most = (np.clip(level, 0, 255).astype(np.uint8) for level in (np.ceil(low), np.floor(high)))

    def outside(part: NDArray[np.uint8]) -> int:
        return int(np.count_nonzero(((part < least) | (part > most)).any(axis=2)))

    sample = rgb[::stride, ::stride]
    if outside(sample) > max(2, 10 * SPECK * sample.shape[0] * sample.shape[1]):
        return False
    rows = max(1, STRIP // rgb.shape[1])
    return sum(outside(rgb[top : top + rows]) for top in range(0, len(rgb), rows)) <= SPECK * rgb.shape[0] * rgb.shape[1]


def _is_flat(rgb: NDArray[np.uint8], middle: NDArray[np.float64]) -> bool:
    """Whether the mean colour of every block is the middle one."""
    side = max(1, min(rgb.shape[:2]) // BLOCKS)
    for top in range(0, len(rgb), side):
        sums = np.add.reduceat(rgb[top : top + side].sum(axis=0, dtype=np.int64), np.arange(0, rgb.shape[1], side), axis=0)
        widths = np.minimum(side, rgb.shape[1] - np.arange(0, rgb.shape[1], side))[:, None]
        if (np.abs(sums / (widths * min(side, len(rgb) - top)) - middle) > FLAT).any():
            return False
    return True
