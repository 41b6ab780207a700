"""Square crops around the regions of a mask, near ones in one (AnomalyNCD; see ``binarization.py``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

__all__ = ["Box", "cut", "merged_boxes", "region_boxes", "to_size"]

Box: TypeAlias = tuple[float, float, float, float]  # left, upper, right, lower; may lie outside the picture and at half pixels
EIGHT = np.ones((3, 3), dtype=bool)
MARGIN, SMALLEST, LARGEST, NEAR = 1.1, 0.1, 0.5, 0.01  # the last three are shares of the longer side


def to_size(mask: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """(h, w) -> (H, W) by the nearest place, the upper left of equals."""
    rows = np.minimum(np.arange(size[0]) * mask.shape[0] // size[0], mask.shape[0] - 1)
    columns = np.minimum(np.arange(size[1]) * mask.shape[1] // size[1], mask.shape[1] - 1)
    return mask[rows][:, columns]


def region_boxes(mask: NDArray[np.bool_]) -> list[Box]:
    """A square around each region of a mask (H, W), smallest region first; the whole picture where there is none."""
    height, width = mask.shape
    filled = ndimage.binary_fill_holes(mask)
    labels, _ = ndimage.label(filled, EIGHT)
    found = [(r.start, r.stop, c.start, c.stop) for r, c in ndimage.find_objects(labels)]
    if not found:
        return [(0.0, 0.0, float(width), float(height))]
    rectangles = sorted((x0, y0, x1 - x0, y1 - y0) for y0, y1, x0, x1 in found)
    return [_square(*one, height, width) for one in sorted(rectangles, key=lambda one: one[2] * one[3])]


def _square(x: int, y: int, w: int, h: int, height: int, width: int) -> Box:
    longer = max(height, width)
    radius = min(max(int(max(h, w) * MARGIN * 0.5), int(SMALLEST * longer)), int(LARGEST * longer))
    left, right = _inside(int(x + w / 2), radius, width)
    upper, lower = _inside(int(y + h / 2), radius, height)
    return (float(left), float(upper), float(right), float(lower))


def _inside(centre: int, radius: int, length: int) -> tuple[int, int]:
    """Begin and end of an interval that is shifted inside, where it begins too early or else ends too late."""
    first, last = centre - radius, centre + radius
    if first < 0:
        return 0, last - first
    return (first - (last - length), length) if last > length else (first, last)


def merged_boxes(boxes: Sequence[Box], size: tuple[int, int], number: int | None = None) -> list[Box]:
    """One box for each group of near boxes, largest first.

    Each box makes a group with those near it; a group within another is dropped, and groups are not joined further, so boxes
    in a chain give several that overlap.

    Args:
        boxes: squares.
        size: (H, W) of the picture.
        number: of regions that there are; one box more is kept. None: all.
    """
    gap = int(NEAR * max(size))
    groups = [frozenset(j for j, other in enumerate(boxes) if i == j or _gap(box, other) < gap) for i, box in enumerate(boxes)]
    kept = [group for group in dict.fromkeys(groups) if not any(group < other for other in groups)]
    found = [_joined([boxes[index] for index in sorted(group)]) for group in kept]
    found.sort(key=lambda box: -(box[2] - box[0]) * (box[3] - box[1]))
    return found if number is None or len(found) <= number else found[: number + 1]


def _gap(a: Box, b: Box) -> float:
    """Pixels between two boxes; 0 where they touch, -1 where they overlap."""
    across, down = max(a[0], b[0]) - min(a[2], b[2]), max(a[1], b[1]) - min(a[3], b[3])
    if across < 0 and down < 0:
        return -1
    return float(np.hypot(max(across, 0), max(down, 0)))


def _joined(boxes: Sequence[Box]) -> Box:
    """Union of boxes one after the other, widened to a square each time."""
    whole = boxes[0]
    for box in boxes[1:]:
        left, upper, right, lower = min(whole[0], box[0]), min(whole[1], box[1]), max(whole[2], box[2]), max(whole[3], box[3])
        more = ((lower - upper) - (right - left)) / 2
        if more > 0:
            left, right = left - more, right + more
        else:
            upper, lower = upper + more, lower - more
        whole = (left, upper, right, lower)
    return whole


def cut(picture: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
    """The crop of a picture (H, W, 3) or mask (H, W); half pixels go to the even one, and what lies outside is black."""
    return np.array(Image.fromarray(picture).crop(box))  # which rounds itself
