"""The result of one picture: score, verdict, map and regions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from zsad.errors import UsageError
from zsad.images.heatmap import overlay

__all__ = ["Region", "Result", "find_regions"]

SPECK = 1e-4  # a component smaller than this share of the picture (or tile) is a speck: in neither the regions nor the mask
EXACT_CORNERS = 12  # an outline with more corners than this is simplified
TOLERANCE = 0.75  # pixels by which a simplified outline may leave the exact one (a 45 degree staircase deviates by 0.71)
_EIGHT = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True)
class Region:
    """A connected place of a picture whose map reaches the pixel threshold. All numbers in pixels of the original picture."""

    box: tuple[int, int, int, int]  # x0, y0, x1, y1; x1 and y1 are one past the last pixel
    area: int  # pixels
    peak: float  # largest value of the map inside
    contour: tuple[tuple[int, int], ...]  # (x, y) corners of the outer boundary, clockwise, along the pixels' edges
    suggested_word: str | None = None  # defect word, only where it stands out from the others
    margin: float | None = None  # by how much

    def moved(self, x: int, y: int) -> Region:
        """The same region in a picture that begins x pixels further left and y pixels further up."""
        x0, y0, x1, y1 = self.box
        corners = tuple((px + x, py + y) for px, py in self.contour)
        return replace(self, box=(x0 + x, y0 + y, x1 + x, y1 + y), contour=corners)

    def as_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "box": list(self.box),
            "area": self.area,
            "peak": self.peak,
            "contour": [list(point) for point in self.contour],
            "suggested_word": self.suggested_word,
            "margin": self.margin,
        }


@dataclass(frozen=True, eq=False)
class Result:
    """One picture's result. ``error`` is set, and the rest None, where the picture could not be scored.

    Attributes:
        pred_score: raw score of the method, higher is more anomalous; not normalised, not comparable between methods.
        p_value: (1 + normal calibration pictures that score as high) / (n + 1); None without calibration.
        pred_label: "normal", "review", "anomalous", or None where no rule was given.
        threshold: the score from which on a picture is anomalous; ``threshold_source`` states where it comes from.
        anomaly_map: (H, W) float32 at the picture's original size; NaN where nothing was scored.
        pred_mask: (H, W) bool, the union of the regions; None without a pixel threshold.
        prompts: the exact sentences that the method used, by class of text.
        notes: what reading the picture had to decide (first frame of several, value range, ...).
        image: (H, W, 3) uint8.
        map_range: values of the map that the colour scale draws as its ends: the model's, the same for every picture.
        roi_mask: (H, W) bool, the region of interest, to which map, mask and regions are confined; None: the whole picture.
    """

    name: str
    path: Path | None = None
    pred_score: float | None = None
    p_value: float | None = None
    pred_label: str | None = None
    threshold: float | None = None
    threshold_source: str = ""
    anomaly_map: NDArray[np.float32] | None = None
    pred_mask: NDArray[np.bool_] | None = None
    regions: tuple[Region, ...] = ()
    prompts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    method: str = ""
    error: str | None = None
    notes: tuple[str, ...] = ()
    image: NDArray[np.uint8] | None = None
    map_range: tuple[float, float] = (0.0, 1.0)
    roi_mask: NDArray[np.bool_] | None = None

    def overlay(self) -> Image.Image:
        """The picture, dark where it was not scored, the heat map on the model's fixed colour scale and the regions' outlines.

        Raises:
            UsageError: the picture could not be scored, so there is nothing to draw.
        """
        if self.image is None or self.anomaly_map is None:
            raise UsageError(f"{self.name} has no map to draw: {self.error or 'it was not scored'}.")
        return overlay(self.image, self.anomaly_map, self.map_range, [region.contour for region in self.regions], self.roi_mask)

    def as_dict(self) -> dict[str, Any]:
        """As a JSON object: everything but the arrays."""
        return {
            "path": None if self.path is None else str(self.path),
            "name": self.name,
            "pred_score": self.pred_score,
            "p_value": self.p_value,
            "pred_label": self.pred_label,
            "threshold": self.threshold,
            "threshold_source": self.threshold_source,
            "regions": [region.as_dict() for region in self.regions],
            "prompts": {kind: list(sentences) for kind, sentences in self.prompts.items()},
            "method": self.method,
            "error": self.error,
            "notes": list(self.notes),
        }


def shortest(value: Any) -> float:
    """A float32 as the float of its shortest decimal: 0.1 and not 0.10000000149."""
    return float(str(np.float32(value)))


# ------------------------------------------------------------------ regions
def find_regions(
    anomaly_map: NDArray[np.float32],
    threshold: float,
    words: tuple[str, ...] = (),
    word_maps: NDArray[np.float32] | None = None,
    word_margin: float | None = None,
    seen: int | None = None,
) -> tuple[tuple[Region, ...], NDArray[np.bool_]]:
    """Connected places (8 neighbours) of a map at or above a threshold, strongest first, and their union.

    Args:
        anomaly_map: (H, W).
        threshold: least value inside a region.
        words: defect words, in the order of ``word_maps``.
        word_maps: (len(words), h, w), similarity of each place to each word, on a grid of any size.
        word_margin: a word is suggested where its mean similarity exceeds the second's by this; None: never.
        seen: pixels that the method looked at as one picture, a tile's; None: all of the map's.

    Returns:
        The regions and the (H, W) mask. Components below ``SPECK`` of ``seen`` are in neither.
    """
    labels = np.empty(anomaly_map.shape, dtype=np.int32)
    count = ndimage.label(anomaly_map >= threshold, structure=_EIGHT, output=labels)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    large = areas >= SPECK * (anomaly_map.size if seen is None else seen)
    large[0] = False
    regions = []
    for label, place in enumerate(ndimage.find_objects(labels), start=1):
        if place is None or not large[label]:
            continue
        inside = labels[place] == label
        y, x = place[0].start, place[1].start
        word, margin = None, None
        if word_maps is not None and word_margin is not None and len(words) > 1:
            word, margin = _suggest(inside, (y, x), anomaly_map.shape, words, word_maps, word_margin)
        regions.append(
            Region(
                box=(x, y, place[1].stop, place[0].stop),
                area=int(areas[label]),
                peak=shortest(anomaly_map[place][inside].max()),
                contour=tuple((px + x, py + y) for px, py in outline(inside)),
                suggested_word=word,
                margin=margin,
            )
        )
    return tuple(sorted(regions, key=lambda region: (-region.peak, region.box))), large[labels]


def _suggest(
    inside: NDArray[np.bool_],
    corner: tuple[int, int],
    size: tuple[int, ...],
    words: tuple[str, ...],
    word_maps: NDArray[np.float32],
    word_margin: float,
) -> tuple[str | None, float | None]:
    """The word that is most similar over the region's pixels, if it leads the second by the margin."""
    h, w = word_maps.shape[1:]
    ys, xs = np.nonzero(inside)
    cells = (ys + corner[0]) * h // size[0] * w + (xs + corner[1]) * w // size[1]
    weights = np.bincount(cells, minlength=h * w) / len(cells)
    means = word_maps.reshape(len(words), h * w) @ weights  # (W,)
    second, first = np.argsort(means, kind="stable")[-2:]
    lead = float(means[first] - means[second])
    return (words[first], lead) if lead >= word_margin else (None, None)


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
