"""The outline of a region as a polygon along the pixels' edges."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["outline"]

EXACT_CORNERS = 12  # an outline with more corners than this is simplified
TOLERANCE = 0.75  # pixels by which a simplified outline may leave the exact one (a 45 degree staircase deviates by 0.71)


def outline(inside: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Outer boundary of one 8-connected component, cut to its box: a polygon along the pixels' edges, clockwise.

    A pixel at (x, y) covers the square from (x, y) to (x + 1, y + 1); holes are left out of account. Outlines of more than
    ``EXACT_CORNERS`` corners are simplified to within ``TOLERANCE`` pixels.
    """
    corners = _follow(np.pad(inside, 1))
    if len(corners) <= EXACT_CORNERS:
        return corners
    points = np.array([*corners, corners[0]], dtype=np.float64)
    far = int(np.argmax(((points - points[0]) ** 2).sum(1)))
    kept = sorted({*_thin(points, 0, far), *_thin(points, far, len(corners))})[:-1]
    return [corners[index] for index in kept] if len(kept) > 3 else corners


def _follow(padded: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Walks the edges between pixels with the component at the right hand; a left turn joins diagonal neighbours."""

    def filled(side: int) -> bool:
        """Whether the next pixel ahead, at the right (1) or left (-1) hand of the corner (x, y), belongs to it."""
        return bool(padded[y + (dy + side * dx + 1) // 2, x + (dx - side * dy + 1) // 2])

    x = start = int(np.argmax(padded[1])) - 1  # corners are counted without the padding
    y, dx, dy = 0, 1, 0
    corners: list[tuple[int, int]] = []
    while True:
        x, y = x + dx, y + dy
        if filled(-1):
            corners.append((x, y))
            dx, dy = dy, -dx
        elif not filled(1):
            corners.append((x, y))
            dx, dy = -dy, dx
        if (x, y, dx, dy) == (start, 0, 1, 0):
            return [corners[-1], *corners[:-1]]


def _thin(points: NDArray[np.float64], first: int, last: int) -> set[int]:
    """Indices that Douglas and Peucker's rule keeps of an open line from ``first`` to ``last``."""
    kept, open_ends = {first, last}, [(first, last)]
    while open_ends:
        a, b = open_ends.pop()
        if b - a < 2:
            continue
        along, away = points[b] - points[a], points[a + 1 : b] - points[a]
        distance = np.abs(along[0] * away[:, 1] - along[1] * away[:, 0]) / np.hypot(*along)
        worst = int(np.argmax(distance))
        if distance[worst] > TOLERANCE:
            middle = a + 1 + worst
            kept.add(middle)
            open_ends += [(a, middle), (middle, b)]
    return kept
