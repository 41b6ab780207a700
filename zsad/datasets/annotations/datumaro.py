"""Reader of Datumaro's JSON: ``annotations/<subset>.json`` and ``images/<subset>/``, as Datumaro, CVAT and Geti export it.

Facts of the format: Datumaro's documentation, "Datumaro format". A box is (left, top, width, height), turned clockwise by its
attribute ``rotation``; an ellipse is (left, top, right, bottom); a mask has COCO's run lengths.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zsad.datasets.annotations.annotated import AnnotatedSet, Mark, split_of
from zsad.datasets.annotations.coco import encoded_of
from zsad.datasets.annotations.json_files import json_files, json_kind, load_json, numbers, objects, size_of
from zsad.datasets.layout import Found, Layout
from zsad.datasets.shapes import Encoded, Polygon, box, ellipse, polygon
from zsad.errors import UsageError

__all__ = ["DATUMARO"]

MASK, POLYGON = "zsad mask", "zsad polygon"  # keys of what replaces long lists while the file is read


def _files(path: Path) -> list[Path]:
    files = [path] if path.is_file() and path.suffix.lower() == ".json" else json_files(path / "annotations")
    return [file for file in files if json_kind(file) == "datumaro"]


def _read(path: Path, found: Found) -> None:
    files = _files(path)
    above = path.parent.parent if path.parent.name == "annotations" else path.parent
    data = AnnotatedSet(found, path if path.is_dir() else above)
    for file in files:
        _read_file(file, data)
    data.finish()


def _read_file(file: Path, data: AnnotatedSet) -> None:
    table = load_json(file, _shorten)
    if not isinstance(table, dict) or not isinstance(table.get("items"), list):
        raise UsageError(f"{file.name!r} is no file of Datumaro: it has no list 'items'. Export it again as Datumaro.")
    names = _names(table.get("categories"))
    images = data.root / "images"
    for number, item in enumerate(table["items"]):
        where = f"{file.name} item {number}"
        if not isinstance(item, dict):
            data.found.problem(where, "is no object.")
            continue
        media = next((one for one in (item.get("image"), item.get("media")) if isinstance(one, dict)), {})
        name = media.get("path") or item.get("id")
        other = item["id"] if isinstance(item.get("id"), str) else ""
        place = data.find(name, where, (images / file.stem, images, file.parent), any_ending=True, other=other)
        if place is None:
            continue
        marks = [_mark(one, names) for one in objects(item.get("annotations")) if one.get("type") != "caption"]
        size = numbers(media.get("size"), 2)  # (height, width)
        data.add(place, marks, split_of(file.stem), size=size_of(size[1], size[0]) if size else None)


def _names(categories: object) -> dict[int, str]:
    label = categories.get("label") if isinstance(categories, dict) else None
    rows = objects(label.get("labels")) if isinstance(label, dict) else []
    return {number: str(row.get("name") or "") for number, row in enumerate(rows)}


def _shorten(row: dict[str, Any]) -> dict[str, Any]:
    """Of an annotation what is needed, without its long lists."""
    if row.get("type") == "mask" and isinstance(row.get("rle"), dict):
        return {"type": "mask", "label_id": row.get("label_id"), MASK: encoded_of(row["rle"])}
    if row.get("type") == "polygon":
        points = numbers(row.get("points")) or []
        pairs = zip(points[::2], points[1::2], strict=False)
        return {"type": "polygon", "label_id": row.get("label_id"), POLYGON: polygon(pairs) if len(points) % 2 == 0 else None}
    return row


def _mark(one: dict[str, Any], names: dict[int, str]) -> Mark:
    number = one.get("label_id")
    return (names.get(number) or "defect") if isinstance(number, int) else "defect", _area(one)


def _area(one: dict[str, Any]) -> Polygon | Encoded | None:
    """None for labels of the whole picture, lines and points."""
    kind = one.get("type")
    if kind in ("mask", "polygon"):
        part: Polygon | Encoded | None = one.get(MASK) or one.get(POLYGON)
        return part
    if kind == "bbox" and (sides := numbers(one.get("bbox"), 4)):
        attributes = one.get("attributes")
        turn = numbers([attributes.get("rotation") or 0], 1) if isinstance(attributes, dict) else None
        return box(sides[0], sides[1], sides[0] + sides[2], sides[1] + sides[3], turn=turn[0] if turn else 0.0)
    if kind == "ellipse" and (edges := numbers(one.get("points"), 4)):
        left, top, right, bottom = edges
        return ellipse((left + right) / 2, (top + bottom) / 2, (right - left) / 2, (bottom - top) / 2)
    return None


DATUMARO = Layout(
    "datumaro",
    "Datumaro: annotations/<subset>.json and images/<subset>/, or such a file",
    lambda path: bool(_files(path)),
    _read,
    index=True,
)
