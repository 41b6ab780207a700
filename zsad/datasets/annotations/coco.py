"""Reader of COCO instances: one JSON file for all pictures of a split, as most tools export it (CVAT, Roboflow, FiftyOne).

Facts of the format: cocodataset.org/#format-data. A segmentation is a list of polygons (x, y, x, y, ...), or run lengths down
the columns, as numbers or as a compressed string; ``bbox`` is (left, top, width, height).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from zsad.datasets.annotations.annotated import AnnotatedSet, Mark, split_folders, split_of
from zsad.datasets.annotations.json_files import json_files, json_kind, load_json, numbers, objects, size_of
from zsad.datasets.layout import Found, Layout
from zsad.datasets.shapes import Encoded, Polygon, box, polygon
from zsad.errors import UsageError

__all__ = ["COCO", "encoded_of"]

PARTS, COUNTS = "zsad parts", "zsad counts"  # keys of what replaces long lists while the file is read


def _files(path: Path) -> list[Path]:
    """Beside the pictures, in annotations/, or in train/, valid/, test/ (Roboflow)."""
    if path.is_file():
        return [path] if path.suffix.lower() == ".json" and json_kind(path) == "coco" else []
    folders = [path, path / "annotations", *split_folders(path)]
    files = [file for folder in folders for file in json_files(folder) if json_kind(file) == "coco"]
    return [file for file in files if file.name.startswith("instances")] or files  # not captions and key points of COCO


def _read(path: Path, found: Found) -> None:
    files = _files(path)
    root = path if path.is_dir() else path.parent.parent if path.parent.name == "annotations" else path.parent
    data = AnnotatedSet(found, root)
    for file in files:
        _read_file(file, data)
    data.finish()


def _read_file(file: Path, data: AnnotatedSet) -> None:
    table = load_json(file, _shorten)
    if not isinstance(table, dict) or not isinstance(table.get("images"), list):
        raise UsageError(f"{file.name!r} is no COCO file: it has no list 'images'. Export it again as COCO instances.")
    split = split_of(file.stem, file.parent.name if file.parent != data.root else "")
    names = {row.get("id"): str(row.get("name", "")) for row in objects(table.get("categories")) if _is_key(row.get("id"))}
    known = {row["id"] for row in objects(table["images"]) if _is_key(row.get("id"))}
    marks: dict[Any, list[Mark]] = {}
    strays, unnamed = 0, 0
    for row in objects(table.get("annotations")):
        key, category = row.get("image_id"), row.get("category_id")
        if not _is_key(key) or key not in known:
            strays += 1
            continue
        named = _is_key(category) and bool(names.get(category))
        unnamed += not named
        name = names[category] if named else "defect"
        parts = row.get(PARTS) or [_box(row.get("bbox"))]
        marks.setdefault(key, []).extend((name, part) for part in parts)
    if strays:
        data.found.problem(file.name, f"{strays} annotation(s) are of pictures that it does not list: left out.")
    if unnamed:
        data.found.problem(file.name, f"{unnamed} annotation(s) are of no category that it lists: called 'defect'.")
    if "annotations" not in table:
        data.found.problem(file.name, "has no list 'annotations': its pictures are unlabelled.")
    _add(file, table, marks, split, data)


def _add(file: Path, table: dict[str, Any], marks: dict[Any, list[Mark]], split: str, data: AnnotatedSet) -> None:
    tail = file.stem.partition("_")[2] or file.stem  # instances_val2017 -> val2017
    bases = [base / name for base in (file.parent, data.root) for name in ("", "images", "data", tail, f"images/{tail}")]
    for number, row in enumerate(table["images"]):
        where = f"{file.name} image {number}"
        if not isinstance(row, dict) or not _is_key(row.get("id")):
            data.found.problem(where, "is no object with 'id' and 'file_name'.")
        elif (place := data.find(row.get("file_name"), where, bases)) is None:
            continue
        elif "annotations" not in table:
            data.add_unlabelled(place, split)
        else:
            data.add(place, marks.get(row["id"], []), split, size=size_of(row.get("width"), row.get("height")))


def _is_key(value: object) -> bool:
    return isinstance(value, (int, str))


def _box(value: object) -> Polygon | None:
    found = numbers(value, 4)
    return box(found[0], found[1], found[0] + found[2], found[1] + found[3]) if found else None


# ---------------------------------------------------------------- long lists become bytes as soon as they are read
def _shorten(row: dict[str, Any]) -> dict[str, Any]:
    """Of an annotation what is needed: a file of 200 MB would otherwise be some gigabytes of Python's numbers."""
    if "counts" in row and "size" in row:
        return {COUNTS: encoded_of(row)}
    if "image_id" not in row:
        return row
    kept = {key: row[key] for key in ("image_id", "category_id", "bbox") if key in row}
    return kept | {PARTS: _parts(row.get("segmentation"))}


def _parts(value: object) -> list[Polygon | Encoded]:
    """The areas of a segmentation; [] where there is none, so that the box is taken."""
    if isinstance(value, dict):
        return [value[COUNTS]] if value.get(COUNTS) is not None else []
    if not isinstance(value, list):
        return []
    several = value if value and isinstance(value[0], list) else [value]
    rings = [numbers(ring) for ring in several]
    found = [polygon(np.reshape(ring, (-1, 2))) for ring in rings if ring is not None and len(ring) % 2 == 0]
    return [one for one in found if one is not None]


def encoded_of(row: dict[str, Any]) -> Encoded | None:
    """A mask of {"size": [height, width], "counts": ...}; None where these are none."""
    sides, counts = numbers(row.get("size"), 2), row.get("counts")
    size = size_of(sides[1], sides[0]) if sides else None
    if size is None:
        return None
    width, height = size
    if isinstance(counts, str):
        return Encoded("coco", counts.encode("utf-8", "replace"), width, height)
    runs = numbers(counts)
    if runs is None or not all(0 <= run < 1e15 for run in runs):
        return None
    return Encoded("columns", np.asarray(runs, np.int64).tobytes(), width, height)


COCO = Layout(
    "coco",
    "COCO instances: x.json or annotations/x.json beside the pictures, or in train/, valid/, test/ (Roboflow); or that file",
    lambda path: bool(_files(path)),
    _read,
    index=True,
)
