"""Regions in COCO's format: a data set with scores that ``pycocotools.coco.COCO`` opens, and a list for ``loadRes``."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from zsad.common.version import __version__
from zsad.inference.result import Result

__all__ = ["CATEGORY", "WHOLE", "CocoFiles", "add_to_images", "encode_rle", "segments_of"]

CATEGORY = 1  # id of the one category, "anomaly"
WHOLE = "predictions.coco.json"
IMAGES = '"images": ['  # the line before the pictures, of which each has one
_EIGHT = np.ones((3, 3), dtype=bool)


class CocoFiles:
    """``predictions.coco.json`` (images, categories, annotations) and ``predictions.coco_results.json`` (results alone).

    The results have no boxes, since ``loadRes`` would take a box's area for the region's; it makes boxes of the masks. Ids
    count from 1, in the order of the rows; pictures that could not be scored are counted under "info".

    Args:
        place: folder for the files.
    """

    def __init__(self, place: Path) -> None:
        self._whole = (place / WHOLE).open("w", encoding="utf-8", errors="backslashreplace")
        self._results = (place / "predictions.coco_results.json").open("w", encoding="utf-8")
        self._images = tempfile.TemporaryFile("w+", encoding="utf-8", errors="backslashreplace", dir=place)  # noqa: SIM115
        self._pictures = self._regions = self._left_out = 0
        self._whole.write('{"annotations": [')
        self._results.write("[")

    def add(self, row: dict[str, Any], size: tuple[int, int] | None, segments: tuple[dict[str, Any], ...]) -> None:
        """Writes a picture and its regions.

        Args:
            row: of predictions.jsonl.
            size: (H, W) of the picture; None where it could not be scored.
            segments: one object per region of the row, from ``segments_of``.
        """
        if size is None or row["pred_score"] is None:
            self._left_out += 1
            return
        self._pictures += 1
        image = {"id": self._pictures, "file_name": row["relative_path"] or row["name"], "height": size[0], "width": size[1]}
        image |= {"score": row["pred_score"], "label": row["pred_label"]}
        self._images.write(f"{',' * (self._pictures > 1)}\n{json.dumps(image, ensure_ascii=False)}")
        for region, segment in zip(row["regions"], segments, strict=True):
            x0, y0, x1, y1 = region["box"]
            result = {"image_id": self._pictures, "category_id": CATEGORY, "segmentation": segment, "score": region["peak"]}
            self._regions += 1
            between = f"{',' * (self._regions > 1)}\n"
            more = {"id": self._regions, "bbox": [x0, y0, x1 - x0, y1 - y0], "area": region["area"], "iscrowd": 0}
            more |= {"suggested_word": region["suggested_word"]} if region["suggested_word"] else {}
            self._whole.write(between + json.dumps(result | more, ensure_ascii=False))
            self._results.write(between + json.dumps(result))

    def close(self) -> None:
        """Ends the files."""
        self._whole.write(f"\n],\n{IMAGES}")
        self._images.seek(0)
        shutil.copyfileobj(self._images, self._whole)
        info = {"description": "zsad predict", "version": __version__, "not_scored": self._left_out}
        categories = [{"id": CATEGORY, "name": "anomaly", "supercategory": "anomaly"}]
        self._whole.write(f'\n],\n"categories": {json.dumps(categories)},\n"licenses": [],\n"info": {json.dumps(info)}}}\n')
        self._results.write("\n]\n")
        for file in (self._images, self._whole, self._results):
            file.close()


def add_to_images(path: Path, new: Path, added: Iterable[Mapping[str, Any]]) -> None:
    """Writes a file of ``CocoFiles`` anew, with more about its pictures; a line at a time.

    Args:
        path: the file.
        new: the file to write.
        added: for each picture that was scored, in the order of the rows, what its object gets.
    """
    inside, more = False, iter(added)
    with path.open(encoding="utf-8") as old, new.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for line in old:
            written = line
            if inside and line.startswith("{"):
                one, end = json.loads(line.rstrip(",\n")), "," if line.endswith(",\n") else ""
                written = json.dumps(one | dict(next(more)), ensure_ascii=False) + end + "\n"
            file.write(written)
            inside = line == IMAGES + "\n" or (inside and line.startswith("{"))


def segments_of(result: Result) -> tuple[dict[str, Any], ...]:
    """The exact pixels of each region, in the order of ``Result.regions``, as COCO's compressed run-length encoding."""
    if result.pred_mask is None or not result.regions:
        return ()
    labels, _ = ndimage.label(result.pred_mask, structure=_EIGHT)
    found = []
    for region in result.regions:
        (x0, y0, x1, y1), (x, y) = region.box, region.contour[0]  # an outline begins at its region's first pixel
        inside = labels[y0:y1, x0:x1] == labels[y, x]
        found.append({"size": list(result.pred_mask.shape), "counts": encode_rle(inside, (x0, y0), result.pred_mask.shape)})
    return tuple(found)


def encode_rle(inside: NDArray[np.bool_], corner: tuple[int, int], size: tuple[int, ...]) -> str:
    """Compressed counts of a mask, as ``pycocotools.mask.encode`` gives them (columns first, beginning with zeros).

    Args:
        inside: (h, w), the part of the mask that is not empty.
        corner: (x, y) of its upper left pixel in the whole mask.
        size: (H, W) of the whole mask.
    """
    columns = np.pad(inside.T, ((0, 0), (1, 1))).astype(np.int8)  # (w, h + 2): every run ends in its own column
    steps = np.diff(columns, axis=1)
    first = (corner[0] + np.arange(inside.shape[1])) * size[0] + corner[1]  # place of each column's first pixel
    starts, ends = ((np.argwhere(steps == step) * (0, 1)).sum(1) + first[np.nonzero(steps == step)[0]] for step in (1, -1))
    joined = starts[1:] == ends[:-1]  # full columns run on in the next
    starts, ends = np.delete(starts, np.nonzero(joined)[0] + 1), np.delete(ends, np.nonzero(joined)[0])
    edges = np.stack([starts, ends], axis=1).ravel()
    counts = np.diff(np.concatenate([[0], edges, [size[0] * size[1]]]))
    return _compress(counts.tolist() if counts[-1] else counts[:-1].tolist())


def _compress(counts: list[int]) -> str:
    """Counts as text, five bits to a letter; from the fourth on each is the difference to the one before last."""
    letters = []
    for index, count in enumerate(counts):
        left = count - counts[index - 2] if index > 2 else count
        more = True
        while more:
            bits = left & 31
            left >>= 5
            more = left != (-1 if bits & 16 else 0)
            letters.append(chr((bits | 32 * more) + 48))
    return "".join(letters)
