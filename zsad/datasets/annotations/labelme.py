"""Reader of LabelMe: a JSON file per picture with polygons, rectangles, circles and masks; AnyLabeling writes the same.

Facts of the format: labelme's ``label_file.py`` and ``utils/shape.py``. LabelMe writes no file for a picture without a shape.
"""

from __future__ import annotations

import base64
import binascii
import math
from pathlib import Path
from typing import Any

from zsad.datasets.annotations.annotated import AnnotatedSet, Mark, split_of
from zsad.datasets.annotations.json_files import json_kind, load_json, numbers, objects, size_of
from zsad.datasets.layout import Found, Layout, entries, pictures, subfolders
from zsad.datasets.shapes import Encoded, Polygon, box, ellipse, polygon
from zsad.errors import UsageError

__all__ = ["LABELME"]

TRIED = 5  # files of a folder by which it is told


def _files(folder: Path) -> list[Path]:
    return [file for file in entries(folder) if file.suffix.lower() == ".json"]


def _folders(root: Path) -> list[Path]:
    """The folders with such files: the root, and two levels below it."""
    below = subfolders(root)
    several = [root, *below, *(folder for one in below for folder in subfolders(one))]
    return [folder for folder in several if any(json_kind(file) == "labelme" for file in _files(folder)[:TRIED])]


def _read(path: Path, found: Found) -> None:
    data = AnnotatedSet(found, path)
    broken = {file.stem for folder in _folders(path) for file in _files(folder) if not _read_file(file, data)}
    left = [one for folder in sorted({one.parent for one in data.used}) for one in pictures(folder) if one not in data.used]
    data.used.update(left)
    bare = [one for one in left if one.stem not in broken]
    for picture in left:
        if picture.stem in broken:
            data.add_unlabelled(picture, _split(picture, data))
        else:
            data.add(picture, [], _split(picture, data))
    if bare:
        what = f"{len(bare)} picture(s) have no JSON file, as LabelMe leaves those without a shape: taken as normal"
        found.problem(bare[0], f"{what}. Move away what nobody looked at; this is the first.")
    data.finish()


def _split(picture: Path, data: AnnotatedSet) -> str:
    return split_of(*reversed(picture.relative_to(data.root).parts[:-1]))


def _read_file(file: Path, data: AnnotatedSet) -> bool:
    """Adds the picture of a file; False where the file is none of LabelMe, so that nothing is known of its picture."""
    where = file.relative_to(data.root).as_posix()
    try:
        table = load_json(file, lambda row: row | {"imageData": None} if "imageData" in row else row)
    except UsageError as error:
        data.found.problem(where, f"left out. {error}")
        return False
    if not isinstance(table, dict) or not isinstance(table.get("shapes"), list):
        data.found.problem(where, "left out: it has no list 'shapes', so it is no file of LabelMe.")
        return False
    named = table.get("imagePath") or file.stem
    place = data.find(named, where, (file.parent, data.root / "images"), any_ending=True, other=file.stem)
    if place is not None:
        marks: list[Mark] = [(str(one.get("label") or "defect"), _area(one)) for one in objects(table["shapes"])]
        data.add(place, marks, _split(place, data), size=size_of(table.get("imageWidth"), table.get("imageHeight")))
    return True


def _area(shape: dict[str, Any]) -> Polygon | Encoded | None:
    """None for lines and points, and for shapes without enough corners."""
    kind, rows = shape.get("shape_type") or "polygon", shape.get("points")
    points = [numbers(row, 2) for row in rows] if isinstance(rows, list) else []
    corners = [one for one in points if one is not None]
    if not corners or len(corners) < len(points):
        return None
    if kind == "polygon":
        return polygon(corners)
    if kind == "circle" and len(corners) == 2:
        (x, y), rim = corners
        radius = math.hypot(rim[0] - x, rim[1] - y)
        return ellipse(x, y, radius, radius)
    if kind == "mask":
        return _mask(shape.get("mask"), corners[0])
    if kind in ("rectangle", "rotation", "oriented_rectangle") and len(corners) == 4:
        return polygon(corners, is_box=True)
    if kind == "rectangle" and len(corners) == 2:
        left, right = sorted(corner[0] for corner in corners)
        top, bottom = sorted(corner[1] for corner in corners)
        return box(left, top, right, bottom)
    return None


def _mask(text: object, corner: list[float]) -> Encoded | None:
    """A PNG of 0 and 1 as base64; its first pixel lies at the first of the two points."""
    try:
        data = base64.b64decode(text if isinstance(text, str) else "", validate=False)
        left, top = (int(value) for value in corner)
    except (binascii.Error, ValueError, OverflowError):
        return None
    return Encoded("png", data, 0, 0, left, top) if data else None


LABELME = Layout(
    "labelme",
    "LabelMe: x.json beside x.jpg, or in a folder of their own, perhaps one or two levels below",
    lambda path: path.is_dir() and bool(_folders(path)),
    _read,
)
