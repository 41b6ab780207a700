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
from zsad.inference.display import as_html, as_line, as_png, save
from zsad.inference.outlines import outline

__all__ = ["Region", "Result", "find_regions"]

SPECK = 1e-4  # a component smaller than this share of the picture (or tile) is a speck: in neither the regions nor the mask
_EIGHT = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True)
class Region:
    """A connected place of a picture whose map reaches the pixel threshold. All numbers in pixels of the original picture.

    Attributes:
        box: x0, y0, x1, y1; x1 and y1 are one past the last pixel.
        area: number of pixels.
        peak: largest value of the map inside.
        contour: (x, y) corners of the outer boundary, clockwise, along the pixels' edges.
        suggested_word: defect word, only where it stands out from the others.
        margin: by how much its similarity exceeds that of the second word.

    Example:
        >>> Region(box=(2, 3, 5, 7), area=12, peak=0.9, contour=((2, 3), (5, 3), (5, 7), (2, 7))).moved(10, 20).box
        (12, 23, 15, 27)
    """

    box: tuple[int, int, int, int]
    area: int
    peak: float
    contour: tuple[tuple[int, int], ...]
    suggested_word: str | None = None
    margin: float | None = None

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


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """One picture's result. ``error`` is set, and the rest None, where the picture could not be scored.

    Attributes:
        name: of the picture, below its source.
        path: of its file; None where it is in memory.
        pred_score: raw score of the method, higher is more anomalous; not normalised, not comparable between methods.
        p_value: (1 + normal calibration pictures that score as high) / (n + 1); None without calibration.
        pred_label: "normal", "review", "anomalous", or None where no rule was given.
        threshold: the score from which on a picture is anomalous.
        threshold_source: where it comes from, and what that assumes.
        anomaly_map: (H, W) float32 at the picture's original size; NaN where nothing was scored.
        pred_mask: (H, W) bool, the union of the regions; None without a pixel threshold.
        regions: connected places whose map reaches the pixel threshold, in pixels of the picture.
        prompts: the exact sentences that the method used, by class of text.
        method: the method's name.
        error: why the picture could not be scored; None where it was.
        notes: what reading the picture had to decide (first frame of several, value range, ...).
        image: (H, W, 3) uint8.
        map_range: values of the map that the colour scale draws as its ends: the model's, the same for every picture.
        explanation: what a vision-language model said about the picture (``Inspector.explain``); None where it was not asked.
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
    explanation: Mapping[str, Any] | None = None

    def __repr__(self) -> str:
        return as_line(self)

    def _repr_html_(self) -> str:
        return as_html(self)

    def _repr_png_(self) -> bytes | None:
        return as_png(self)

    def overlay(self) -> Image.Image:
        """The picture, dark where it was not scored, the heat map on the model's fixed colour scale and the regions' outlines.

        Raises:
            UsageError: the picture could not be scored, so there is nothing to draw.
        """
        if self.image is None or self.anomaly_map is None:
            raise UsageError(f"{self.name} has no map to draw: {self.error or 'it was not scored'}.")
        return overlay(self.image, self.anomaly_map, self.map_range, [region.contour for region in self.regions], self.roi_mask)

    def save(self, place: str | Path) -> tuple[Path, ...]:
        """Writes the overlay (PNG) and ``as_dict`` (JSON); see ``display.save``.

        Args:
            place: a folder, in which both are named after the picture (``a.jpg.overlay.png``, ``a.jpg.json``), or the path of
                the overlay, which ends in ``.png``; the JSON file is beside it. Folders are made; older files are replaced.

        Returns:
            The files that were written; the JSON file alone where the picture could not be scored.

        Raises:
            UsageError: ``place`` is another kind of file, or the picture that was scored.
        """
        return save(self, place)

    def as_dict(self) -> dict[str, Any]:
        """As a JSON object: everything but the arrays. ``docs/result.schema.json`` describes its keys."""
        asked = {} if self.explanation is None else {"explanation": dict(self.explanation)}
        return asked | {
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
    above = anomaly_map >= threshold
    if not above.any():  # most pictures of a run
        return (), above
    labels = np.empty(anomaly_map.shape, dtype=np.int32)
    count = ndimage.label(above, structure=_EIGHT, output=labels)
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
